"""What data sources share; data are identified by content, and only a shipped data set may have its name."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from novobench.config import cell_id
from novobench.config_loading import parse_overrides
from novobench.errors import ConfigError, DataError
from novobench.suite.experiment import load_experiment
from novobench.suite.row_configs import row_config
from novobench.tasks import base
from novobench.tasks.catalog import task_config, task_names
from novobench.tasks.sources import (
    Count,
    check_counts,
    content_digests,
    data_folder,
    describe,
    list_folder,
    listed,
    listing_key,
    missing_split,
    split_key,
)
from novobench.training.failures import loader_problem
from tests.cells import small_config


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOVOBENCH_CACHE", str(tmp_path / "cache"))


def test_digests_follow_content_even_if_name_size_and_times_stay(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"first")
    about = path.stat()
    expected = hashlib.blake2b(b"first", digest_size=16).digest()
    assert content_digests([path, tmp_path / "missing"]).tobytes() == expected + bytes(16)
    path.write_bytes(b"other")
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))
    assert content_digests([path]).tobytes() == hashlib.blake2b(b"other", digest_size=16).digest()


def test_files_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"content")
    first = content_digests([path])
    monkeypatch.setattr("novobench.tasks.sources._content_digest", lambda path: pytest.fail(f"read {path} again"))
    assert (content_digests([path]) == first).all()


def test_a_data_folder_is_the_path_or_else_the_name_under_the_data_root(tmp_path: Path) -> None:
    (tmp_path / "pets" / "more").mkdir(parents=True)
    (tmp_path / "file").touch()
    assert data_folder(tmp_path, "", "pets", "images") == tmp_path / "pets"
    assert data_folder(tmp_path, "pets/more", "other", "images") == tmp_path / "pets" / "more"
    with pytest.raises(DataError) as raised:
        data_folder(tmp_path, "gone", "pets", "an ImageFolder tree")
    assert str(raised.value) == (
        f"No data folder {tmp_path}/gone for 'pets' (data.path under the data root). Put an ImageFolder tree there, "
        "set NOVOBENCH_DATA or data_root to another data root, or use data.source=hub."
    )
    with pytest.raises(DataError, match=r"under the data root; a file has this name\)"):
        data_folder(tmp_path, "file", "pets", "images")


def test_a_missing_split_names_the_splits_and_the_remedy() -> None:
    assert str(missing_split("/data/pets", "vall", ["train", "val"], "Set data.test_split.")) == (
        "/data/pets has no split 'vall'. Did you mean 'val'? It holds: train, val. Set data.test_split."
    )
    assert str(missing_split("/data/pets", "val", [])) == "/data/pets has no split 'val'. It holds: nothing."


def test_a_list_of_names_is_short_and_printable() -> None:
    assert listed(["a", os.fsdecode(b"caf\xe9")]) == r"a, caf\xe9"
    assert listed(str(number) for number in range(12)) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, … (12 in all)"


def test_hidden_names_are_not_listed_and_a_missing_folder_is_empty(tmp_path: Path) -> None:
    for name in ("b", "a", ".hidden"):
        (tmp_path / name).touch()
    assert list_folder(tmp_path) == ["a", "b"]
    assert list_folder(tmp_path / "gone") == list_folder(tmp_path / "a") == []
    with pytest.raises(DataError, match="Cannot list .*: ValueError: embedded null byte. Make the folder readable"):
        list_folder(tmp_path / "a\0b")


def test_a_data_set_and_its_split_keys_are_named_for_messages() -> None:
    built_in, own = (_config("table1", "gpu", *words).data for words in ([], ["data.name=pets", "data.path=animals"]))
    assert describe(own, "digits") == "data 'pets' (folder animals)"
    assert describe(built_in, built_in.source) == f"data '{built_in.name}' (built in)"
    assert split_key(own, own.test_split, "data.more_tests") == "data.test_split"
    assert split_key(own, "another", "data.more_tests") == "data.more_tests"


def _config(experiment: str, scale: str, *words: str) -> Any:
    loaded = load_experiment(experiment)
    return row_config(loaded, loaded.rows[0], scale, 0, parse_overrides(words))


@pytest.mark.parametrize(
    ("experiment", "scale", "words"),
    [
        ("table1", "gpu", ["data.path=mine"]),
        ("table1", "gpu", ["data.source=hub", "data.path=me/cifar"]),
        ("table1", "laptop", ["data.source=folder", "data.path=mine"]),
        ("table1", "laptop", ["data.name=cifar10"]),
        ("table3", "full", ["data.path=/data/mine"]),
        ("table4", "gpu", ["data.path=mine"]),
        ("table4", "laptop", ["data.source=manifest", "data.path=mine"]),
        ("table6", "gpu", ["data.path=mine"]),
        ("table7", "full", ["data.path=mine"]),
    ],
)
def test_other_data_under_a_shipped_name_are_refused(experiment: str, scale: str, words: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"'data\.(path|name)'.*(Give other data another name|It has: )"):
        _config(experiment, scale, *words)


@pytest.mark.parametrize(
    ("experiment", "scale", "words"),
    [
        ("table1", "gpu", ["data.path=mine", "data.name=mine"]),
        ("table1", "gpu", ["data.source=hub", "data.path=uoft-cs/cifar10"]),
        ("table3", "full", ["data.source=hub", "data.path=ILSVRC/imagenet-1k"]),
        ("table4", "full", ["data.source=hub", "data.path=openslr/librispeech_asr"]),
        ("table7", "full", ["data.source=hub", "data.path=Salesforce/wikitext"]),
    ],
)
def test_an_own_name_and_a_shipped_set_from_another_source_pass(experiment: str, scale: str, words: list[str]) -> None:
    _config(experiment, scale, *words)


def test_a_data_set_has_one_id_for_all_sources() -> None:
    elsewhere = _config("table1", "gpu", "data.source=hub", "data.path=uoft-cs/cifar10")
    assert cell_id(elsewhere) == cell_id(_config("table1", "gpu"))


def test_every_task_names_its_built_in_data() -> None:
    for name in task_names():
        task = task_config(name)
        assert any(not places for places in task.SHIPPED.values())
        assert task.BUILT_IN in str(task.DATA.__annotations__["source"])


def test_all_wrong_counts_are_named_together_with_options_that_make_them_right() -> None:
    counts = {
        "data.train_size": Count(16, 45000, "train images"),
        "data.search_size": Count(0, 5000, "search images", proposed=2),
        "data.test_size": Count(4, 4, "test images"),
        "model.classes": Count(2, 10, "classes"),
    }
    with pytest.raises(DataError) as raised:
        check_counts("data 'pets' (folder pets)", counts, "Nothing is left.")
    assert str(raised.value) == (
        "data 'pets' (folder pets) has 16 train images, but data.train_size is 45000, 0 search images, but "
        "data.search_size is 5000, 2 classes, but model.classes is 10. Nothing is left. Complete the data, or add: "
        "--set data.train_size=16 data.search_size=2 model.classes=2"
    )
    check_counts("data 'pets'", {"data.test_size": Count(4, 4, "test images")})


@pytest.mark.parametrize("kind", [errno.EIO, errno.ESTALE, errno.ENOMEM])
def test_a_failing_disk_is_an_error_and_nothing_is_cached(tmp_path: Path, kind: int, monkeypatch: Any) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"content")
    before = listing_key([path])
    with monkeypatch.context() as patch:
        original = Path.stat

        def failing(self: Path, **settings: Any) -> os.stat_result:
            if self == path:
                raise OSError(kind, os.strerror(kind))
            return original(self, **settings)

        patch.setattr(Path, "stat", failing)
        for use in (listing_key, content_digests):
            with pytest.raises(DataError, match=rf"Cannot read {path}: {os.strerror(kind)}. Check the disk"):
                use([path])
    assert listing_key([path]) == before != listing_key([tmp_path / "missing"])
    assert content_digests([path]).tobytes() == hashlib.blake2b(b"content", digest_size=16).digest()


def test_names_that_no_file_can_have_are_missing_files(tmp_path: Path) -> None:
    for name in ("a\0b", "x" * 300, "a.bin/b"):
        assert not content_digests([tmp_path / name]).any()


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("DataLoader worker (pid(s) 22774) exited unexpectedly", r"ended from outside .*22774.*lower runtime.workers"),
        ("DataLoader worker (pid 7) is killed by signal: Killed. ", r"killed by signal: Killed\): memory may have"),
        ("unable to allocate shared memory(shm) for file </torch_1_2_0>: Success (0)", "/dev/shm, which is full"),
        ("unable to write to file </torch_1_2_0>: No space left on device (28)", "runtime.workers=0"),
        ("Unexpected bus error encountered in worker. This might be caused by insufficient sh", "/dev/shm, which is"),
        ("mat1 and mat2 shapes cannot be multiplied", "^$"),
    ],
)
def test_the_end_of_a_worker_has_a_plain_message(message: str, expected: str) -> None:
    assert re.search(expected, loader_problem(message))


class Deadly(torch.utils.data.Dataset):
    """Its worker is killed, as by a system without free memory."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> int:
        os.kill(os.getpid(), signal.SIGKILL)
        return index


@pytest.mark.slow
def test_a_killed_worker_has_a_plain_message() -> None:
    _, data = base.build(small_config("image", runtime__workers=1))
    with pytest.raises(RuntimeError) as raised:
        list(data.evaluation_batches(Deadly(), rank=0, world=1))
    assert "ended from outside" in loader_problem(str(raised.value))

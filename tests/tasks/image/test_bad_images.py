"""An image that cannot be decoded is named or skipped, the same with loader and accelerator, and no other is."""

import dataclasses
import errno
import hashlib
import io
import os
import socket
import struct
import zlib

import datasets
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from PIL import Image, PngImagePlugin
from torch.nn import functional as F

from novobench.errors import DataError
from novobench.tasks import sources
from novobench.tasks.image import decoding
from novobench.tasks.image.batches import GRAY, SKIPPED_LABEL, ImageBatch, collate
from novobench.tasks.image.data import ImageData, identify, open_images
from novobench.tasks.image.decoding import BadImage, rgb_pixels
from novobench.tasks.image.sources import FolderSource
from novobench.tasks.image.task import ImageTask
from novobench.tasks.sampling import SampleKey
from tests.cells import small_config
from tests.tasks.image.pets import PETS, SIDE, png, save

BAD = "train/dog/1.png"
BAD_INDEX = 3


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NOVOBENCH_CACHE", str(tmp_path / "cache"))


def trained_on(pets, **changes):
    """All training images float32 [N, 3, H, W] and their labels."""
    config = dataclasses.replace(PETS, **changes)
    train = open_images(config, pets.parent, seed=0).train
    keys = [SampleKey(0, i) for i in range(len(train))]
    if config.images_on == "accelerator":
        images, labels, _ = train[keys].to(torch.device("cpu"))
        return images, labels.tolist()
    images, labels, _ = collate([train[key] for key in keys])
    return images, labels.tolist()


def check_bad(pets, message, named=BAD):
    """Loader and accelerator both name the bad image, or skip it and read all others."""
    for images_on in ("loader", "accelerator"):
        with pytest.raises(DataError, match=rf"{named} cannot be decoded: .*{message}.*data.on_bad_image=skip"):
            trained_on(pets, images_on=images_on)
        images, labels = trained_on(pets, images_on=images_on, on_bad_image="skip")
        assert labels == [0, 0, 1, SKIPPED_LABEL]
        assert (images[BAD_INDEX] == GRAY).all()
        for seed in range(3):
            assert np.array_equal(images[seed].numpy().transpose(1, 2, 0), rgb_pixels(png(seed)))


def header_of(width, height):
    whole = png()
    content = b"IHDR" + struct.pack(">II", width, height) + whole[24:29]
    return whole[:12] + content + struct.pack(">I", zlib.crc32(content)) + whole[33:]


CONTENTS = {
    "nothing": (b"", "none of the supported formats"),
    "text": (b"no picture", "none of the supported formats"),
    "cut": (png()[:-30], "truncated|broken|stream"),
    "terabytes": (header_of(2**20, 2**20), "1099511627776 pixels. exceeds limit"),
    "no width": (header_of(0, 8), "none of the supported formats"),
    "postscript": (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n",
        "none of the supported formats",
    ),
}


@pytest.mark.parametrize("kind", CONTENTS)
def test_content_that_is_not_an_image(pets, kind):
    content, message = CONTENTS[kind]
    (pets / BAD).write_bytes(content)
    check_bad(pets, message)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("dangling link", "it is a link to nowhere, which is missing"),
        ("link to itself", "Too many levels of symbolic links"),
        ("link to a folder below a file", "Not a directory"),
        ("pipe", "a pipe or a device"),
        ("device", "a pipe or a device"),
        ("socket", "No such device or address"),
    ],
)
def test_paths_that_are_not_regular_files(pets, kind, message, monkeypatch):
    path = pets / BAD
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        monkeypatch.chdir(path.parent)  # a socket's path has 100 characters
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    else:
        nowhere = {"dangling link": "nowhere", "link to itself": path.name, "device": "/dev/zero"}
        path.symlink_to(nowhere.get(kind, "0.png/x"))
    check_bad(pets, message)


def fail_to_open(monkeypatch, path, kind, times=10**9):
    """Opening `path` fails `times` times with the error number `kind`."""
    original, left = os.open, [times]

    def failing(name, flags, *mode, **settings):
        if os.fspath(name) == str(path) and left[0]:
            left[0] -= 1
            raise OSError(kind, os.strerror(kind), str(name))
        return original(name, flags, *mode, **settings)

    monkeypatch.setattr(sources.os, "open", failing)


@pytest.mark.parametrize("kind", [errno.EACCES, errno.EPERM])
def test_a_file_without_read_permission(pets, kind, monkeypatch):
    fail_to_open(monkeypatch, pets / BAD, kind)
    check_bad(pets, os.strerror(kind))


ERRORS = [
    MemoryError(), KeyError("x"), IndexError("x"), TypeError("x"), ValueError("x\x1b[2J\ny"), ZeroDivisionError("x"),
    struct.error("x"), SystemError("x"), RecursionError("x"), OSError("decoder error -2"), OSError(errno.EINVAL, "x"),
    RuntimeError(), AssertionError(), SyntaxError("x"), EOFError("x"), AttributeError("x"), OverflowError("x"),
    UnicodeDecodeError("ascii", b"\xff", 0, 1, "x"), Image.DecompressionBombError("x"), NotImplementedError("x"),
]  # fmt: skip


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("where", ["load", "_open"])
def test_any_error_of_a_decoder_makes_a_bad_image(error, where, monkeypatch):
    def fail(self, *_):
        raise error

    monkeypatch.setattr(PngImagePlugin.PngImageFile, where, fail)
    with pytest.raises(BadImage) as raised:
        rgb_pixels(png())
    reason = str(raised.value)
    assert reason.isprintable()
    assert len(reason) > 3 or isinstance(error, OSError | Image.DecompressionBombError)


def test_pillows_warnings_are_ignored(pets, monkeypatch):
    """Twice as many pixels as the limit for warnings are an error."""
    expected = np.asarray(Image.open(io.BytesIO(png(3))))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", SIDE * SIDE - 1)
    assert np.array_equal(rgb_pixels(png(3)), expected)
    assert FolderSource(PETS, pets.parent, "train").sizes(range(4)).tolist() == [[SIDE, SIDE]] * 4
    with pytest.raises(BadImage, match=r"256 pixels. exceeds limit of 126"):
        rgb_pixels(png(3, (16, 16)))


def test_an_image_too_narrow_to_resize_is_bad(pets):
    save(pets / BAD, 3, (1, 30_000))
    for split in ("train", "test"):
        config = dataclasses.replace(PETS, crop="random_resized", resize_size=64, test_split="train", test_size=4)
        images = getattr(open_images(config, pets.parent, seed=0), split)
        with pytest.raises(DataError, match=rf"{BAD} cannot be decoded: its 30000 × 1 pixels .* too narrow"):
            _ = images[SampleKey(0, 3) if split == "train" else 3]


# ------------------------------------------------------------------------------------ batches without images


def test_a_micro_batch_of_bad_images_has_no_gradient_and_is_counted():
    folder = {"data__source": "folder", "data__name": "pets", "model__in_channels": 3, "data__image_size": 8}
    module = ImageTask(small_config("image", data__on_bad_image="skip", **folder))
    images, labels = torch.randn(4, 3, 8, 8), torch.tensor([1, SKIPPED_LABEL, 2, SKIPPED_LABEL])
    loss = module.training_step(ImageBatch(images, labels, torch.arange(4)), 0)
    assert loss == F.cross_entropy(module(images)[labels >= 0], labels[labels >= 0])
    assert module.skipped_samples == 2
    module.zero_grad()
    loss = module.training_step(ImageBatch(images, torch.full((4,), SKIPPED_LABEL), torch.arange(4)), 0)
    loss.backward()
    assert loss == 0.0
    assert all((p.grad == 0).all() for p in module.parameters() if p.grad is not None)
    assert module.skipped_samples == 6


@pytest.mark.parametrize("bad", [[], [0], [0, 1]])
def test_an_evaluation_of_few_images_or_none(pets, monkeypatch, bad):
    monkeypatch.setenv("NOVOBENCH_DATA", str(pets.parent))
    for index in bad:
        (pets / "val" / ("cat", "dog")[index] / "0.png").write_bytes(b"")
    changes = {f"data__{key}": value for key, value in dataclasses.asdict(PETS).items()}
    changes |= {"model__in_channels": 3, "model__classes": 2, "data__on_bad_image": "skip", "batch__size": 4}
    config = small_config("image", **changes | {"batch__micro": 4, "data__evaluation_batch": 1})
    module, data = ImageTask(config).eval(), ImageData(config)
    data.setup("fit")
    assert [each.name for each in data.evaluation_sets] == ["test"]  # an empty search set is left out
    module.evaluation_start()
    with torch.inference_mode():
        for batch in data.evaluation_batches(data.evaluation_sets[0].dataset, 0, 1):
            module.evaluation_step(batch)
    if len(bad) == 2:
        with pytest.raises(DataError, match="No evaluation image of 'pets' can be decoded"):
            module.evaluation_end()
    else:
        metrics = module.evaluation_end()
        assert metrics["top5"][:2] == (100.0, 2 - len(bad))
        assert ("skipped" in metrics) == bool(bad)


# ------------------------------------------------------------------------------------ errors that may pass


@pytest.mark.parametrize("kind", [errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENOMEM])
@pytest.mark.parametrize("images_on", ["loader", "accelerator"])
def test_a_failing_disk_is_not_a_bad_image_and_nothing_is_cached(pets, kind, images_on, monkeypatch):
    way = {"images_on": images_on, "on_bad_image": "skip"}
    for failures in range(3):  # of digests, of sizes, of decoding
        with monkeypatch.context() as patch:
            opened = [0]
            original = os.open

            def failing(name, flags, *mode, opened=opened, original=original, failures=failures, **settings):
                if os.fspath(name).endswith(BAD):
                    opened[0] += 1
                    if opened[0] > failures:
                        raise OSError(kind, os.strerror(kind), str(name))
                return original(name, flags, *mode, **settings)

            patch.setattr(sources.os, "open", failing)
            with pytest.raises(DataError, match=rf"Cannot read .*{BAD}: {os.strerror(kind)}. Check the disk"):
                trained_on(pets, **way)
        (pets.parent / "cache").rename(pets.parent / f"cache {failures}")
    images, labels = trained_on(pets, **way)
    assert labels == [0, 0, 1, 1]
    assert np.array_equal(images[3].numpy().transpose(1, 2, 0), rgb_pixels(png(3)))


def test_cached_failures_are_tried_again(pets, monkeypatch):
    """No time or size of a file changes: the reader may be another user now."""
    digest = hashlib.blake2b(png(3), digest_size=16).digest()
    way = {"images_on": "accelerator", "on_bad_image": "skip"}
    with monkeypatch.context() as patch:
        fail_to_open(patch, pets / BAD, errno.EACCES)
        assert sources.content_digests([pets / BAD]).tobytes() == bytes(16)
        assert trained_on(pets, **way)[1] == [0, 0, 1, SKIPPED_LABEL]
        before = identify(PETS, pets.parent)
    assert sources.content_digests([pets / BAD]).tobytes() == digest
    assert identify(PETS, pets.parent) != before
    assert trained_on(pets, **way)[1] == [0, 0, 1, 1]
    with monkeypatch.context() as patch:  # the same content, which a decoder failed to read
        (pets.parent / "cache").rename(pets.parent / "old")
        patch.setattr(decoding, "_formats", lambda: ("GIF",))
        assert trained_on(pets, **way)[1] == [SKIPPED_LABEL] * 4
    images, labels = trained_on(pets, **way)
    assert labels == [0, 0, 1, 1]
    assert np.array_equal(images[3].numpy().transpose(1, 2, 0), rgb_pixels(png(3)))


def test_a_size_is_checked_as_soon_as_it_can_be_read(pets, monkeypatch):
    save(pets / BAD, 3, (6, 9))
    with monkeypatch.context() as patch:
        patch.setattr(decoding, "_formats", lambda: ("GIF",))
        open_images(PETS, pets.parent, seed=0)
    with pytest.raises(DataError, match=rf"{BAD} has 9 × 6 pixels"):
        open_images(PETS, pets.parent, seed=0)


def test_an_image_that_disappears_during_training_is_not_skipped(pets):
    train = open_images(dataclasses.replace(PETS, on_bad_image="skip"), pets.parent, seed=0).train
    assert train[SampleKey(0, 3)].label == 1
    (pets / BAD).rename(pets / "train" / "away.png")
    with pytest.raises(DataError, match=rf"{BAD} can no longer be read: it is missing.*restore it"):
        _ = train[SampleKey(1, 3)]
    (pets / "train" / "away.png").rename(pets / BAD)
    assert train[SampleKey(1, 3)].label == 1


# ------------------------------------------------------------------------------------ rows of a table

WHOLE = [{"bytes": png(seed), "path": None} for seed in range(4)]


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ([*WHOLE[:3], None], r"row 3 cannot be decoded: its row holds neither bytes nor a path. Replace it"),
        ([*WHOLE[:3], {"bytes": b"", "path": ""}], "row 3 cannot be decoded: its row holds neither"),
        (
            [*WHOLE[:3], {"bytes": b"x", "path": "a.png"}],
            "row 3 cannot be decoded: it has none of the supported formats",
        ),
        ([*WHOLE[:3], {"bytes": None, "path": "a\0b"}], "row 3 cannot be decoded: .*no file can have this name"),
        ([*WHOLE[:3], {"bytes": None, "path": "."}], "row 3 cannot be decoded: .*it is a folder"),
        ([*WHOLE[:3], {"bytes": None, "path": "https://a/b.png"}], "row 3 cannot be decoded: .*it is missing"),
        ([None] * 4, "row 0 cannot be decoded: its row holds neither"),
        ([{"data": b"x"}] * 4, "column 'image' holds {'data': .*not images.*Set data.image_column"),
        ([1, 2, 3, 4], r"column 'image' holds Value\('int64'\), not images"),
        (
            ["a.png"] * 4,
            "row 0 cannot be decoded: its row holds no bytes but the path of a file, .*a.png: it is missing",
        ),
    ],
    ids=range(10),
)
@pytest.mark.parametrize("images_on", ["loader", "accelerator"])
def test_a_row_without_an_image_is_named_or_skipped(tmp_path, column, message, images_on, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    (tmp_path / "pets").mkdir()
    for split in ("train", "val"):
        table = pyarrow.table({"image": column, "label": [0, 0, 1, 1]})
        pyarrow.parquet.write_table(table, tmp_path / "pets" / f"{split}-0.parquet")
    way = {"source": "hub", "path": "pets", "test_split": "validation", "test_size": 4, "images_on": images_on}
    with pytest.raises(DataError, match=rf"pets\[train\].*{message}"):
        trained_on(tmp_path / "pets", **way)
    if "row 3" in message:
        assert trained_on(tmp_path / "pets", on_bad_image="skip", **way)[1] == [0, 0, 1, SKIPPED_LABEL]

"""`--data path=…`: what is measured, who wins, and that the measured config trains without any further option."""

import json

import pytest

from novobench.config import cell_id
from novobench.config_loading import parse_overrides
from novobench.errors import ConfigError, DataError
from novobench.suite.experiment import load_experiment
from novobench.suite.own_data import _own_name, measure
from novobench.suite.plan import plan
from novobench.tasks.catalog import task_config, task_names
from tests.own_data import sentence_pairs, write_images, write_pairs, write_recordings, write_texts

EXPERIMENTS = {"image": "table1", "speech": "table4", "translation": "table6", "language": "table7"}
ROWS = {"image": "t1_sgd_100", "speech": "t4_adam", "translation": "t6_adam", "language": "t7_adam"}


@pytest.fixture
def data(tmp_path, monkeypatch):
    """The data root with a small data set of each task, named like the task; the workspace is another folder."""
    root = tmp_path / "data"
    monkeypatch.setenv("NOVOBENCH_DATA", str(root))
    monkeypatch.chdir(tmp_path)
    for split, count in (("train", 8), ("test", 2)):
        write_images(root / "image" / split, {"ant": count, "bee": count})
        write_recordings(root / "speech" / split, count)
        write_pairs(root / "translation", split, sentence_pairs(5 * count, seed=count))
    write_pairs(root / "translation", "dev", sentence_pairs(6))
    write_texts(root / "language", train=120, dev=10, test=10)
    return root


def test_measured_values_are_those_of_the_files(data):
    image = measure("image", "laptop", {"path": "image"}).overrides
    assert [image[f"data.{key}"] for key in ("name", "path", "source")] == ["image", "image", "folder"]
    assert [image[f"data.{key}_split"] for key in ("train", "search", "test")] == ["train", "", "test"]
    assert (image["data.train_size"], image["data.search_size"], image["data.test_size"]) == (14, 2, 4)
    assert (image["model.classes"], image["model.in_channels"]) == (2, 3)

    speech = measure("speech", "laptop", {"path": "speech"}).overrides
    assert speech["data.features.sample_rate"] == 8000
    assert (speech["data.train_size"], speech["data.set_sizes.dev"], speech["data.set_sizes.test"]) == (7, 1, 2)
    assert speech["model.outputs"] == len(speech["data.alphabet"]) + 1

    translation = measure("translation", "laptop", {"path": "translation"}).overrides
    assert [translation[f"data.{name}_size"] for name in ("train", "search", "test")] == [40, 6, 10]
    assert translation["data.search_split"] == "dev"

    language = measure("language", "laptop", {"path": "language"}).overrides
    words = (data / "language" / "train").read_text().split()
    assert language["data.train_tokens"] == len(words) + 120
    assert language["model.vocabulary_size"] == len(set(words)) + 1  # <eos>; every word is frequent enough


@pytest.mark.parametrize("task", sorted(EXPERIMENTS))
def test_measured_data_plan_without_data_and_hold_numbers(task, data, monkeypatch):
    measured = measure(task, "laptop", {"path": task})
    pasted = parse_overrides(measured.options)
    monkeypatch.setenv("NOVOBENCH_DATA", "/nowhere")
    cell, same = (
        plan([load_experiment(EXPERIMENTS[task])], "laptop", [0], overrides, [ROWS[task]]).cells[0]
        for overrides in (measured.overrides, pasted)
    )
    assert cell.id == same.id
    assert cell.config.epoch_updates >= 1
    assert not cell.own_recipe
    assert cell.config.data.name == task


@pytest.mark.parametrize("task", sorted(EXPERIMENTS))
@pytest.mark.slow
def test_measured_data_train_without_any_further_option(task, data, novobench, empty_workspace, monkeypatch):
    """The fingerprint of `novobench data` is that of the record."""
    out = novobench("data", task, f"path={task}")[1]
    fingerprint = next(line.split()[1] for line in out.splitlines() if line.startswith("fingerprint"))
    row = EXPERIMENTS[task], "--rows", ROWS[task]
    short = "--set", "budget=3steps", "schedule.warmup=0"
    code, _, error = novobench("run", *row, "--data", f"path={task}", *short)
    assert code == 0, error
    [record] = (empty_workspace / "runs" / "laptop").glob("*/record.json")
    assert json.loads(record.read_text())["fingerprint"] == fingerprint
    assert not list((empty_workspace / "results").glob("*/table*"))


def test_the_user_wins_over_what_is_measured(data):
    given = {"path": "image", "image_size": 24, "train_size": 13, "model.classes": 5, "name": "mine", "batch.size": 2}
    measured = measure("image", "laptop", given)
    assert measured.overrides.items() >= {
        "data.image_size": 24, "data.train_size": 13, "model.classes": 5, "data.name": "mine", "batch.size": 2,
    }.items()  # fmt: skip
    assert measured.name == "mine"


def test_the_place_of_the_data_is_not_part_of_the_id(data, tmp_path, monkeypatch):
    def id_of(path):
        overrides = measure("image", "laptop", {"path": path}).overrides
        [cell] = plan([load_experiment("table1")], "laptop", [0], overrides, ["t1_sgd_100"]).cells
        return cell_id(cell.config)

    here = id_of("image")
    monkeypatch.setenv("NOVOBENCH_DATA", "/nowhere")
    assert id_of(str(data / "image")) == here  # an absolute path
    monkeypatch.chdir(data)
    assert id_of("image") == here  # the current folder


@pytest.mark.parametrize("task", task_names())
def test_a_derived_name_is_never_that_of_a_shipped_data_set(task):
    shipped = task_config(task).SHIPPED
    for name in [*shipped, *(path for paths in shipped.values() for path in paths)]:
        assert _own_name(name, shipped) not in shipped
    assert _own_name("some where/My photos!", shipped) == "My-photos"
    assert _own_name("/a/b/", shipped) == "b"


def test_small_data_get_a_smaller_batch_and_the_command_says_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "few", {"ant": 5, "bee": 5})
    measured = measure("image", "laptop", {"path": "few"})
    assert measured.overrides["data.train_size"] == 8
    assert (measured.overrides["batch.size"], measured.overrides["batch.micro"]) == (8, 8)
    assert any(note.startswith("batch.size is 8 instead of 32") for note in measured.notes)


def test_bad_items_are_grouped_by_reason_and_skipped(data, novobench):
    for number in range(3):
        (data / "image" / "train" / "ant" / f"bad{number}.jpg").write_bytes(b"not an image")
    measured = measure("image", "laptop", {"path": "image"})
    [bad] = measured.bad
    assert (bad.count, bad.example) == (3, str(data / "image" / "train" / "ant" / "bad0.jpg"))
    assert measured.overrides["data.on_bad_image"] == "skip"
    assert "3 bad items: it has none of the supported formats" in novobench("data", "image", "path=image")[1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["image"], "--data needs the folder of the data"),
        (["image", "path=image", "imgae_size=3"], "there is no key 'data.imgae_size'"),
        (["image", "path=image", "seed=1"], "--data cannot set 'seed'"),
        (["imgae", "path=image"], "there is no task 'imgae'.* Did you mean 'image'"),
    ],
)
def test_wrong_words_are_one_line(words, message, data):
    task, *settings = words
    with pytest.raises(ConfigError, match=message):
        measure(task, "laptop", parse_overrides(settings))


def test_data_are_of_one_task(data, novobench):
    code, _, error = novobench("plan", "table1", "table7", "--data", "path=image")
    assert code == 2
    assert "data are of one task, but this command has image, language" in error


def test_a_folder_without_data_is_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "void").mkdir()
    for task in task_names():
        with pytest.raises(DataError) as raised:
            measure(task, "laptop", {"path": "void"})
        assert "\n" not in str(raised.value)
        assert "void" in str(raised.value)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (
            "imgae",
            r"there is no such folder under .* Did you mean 'image'.* add source=hub",
        ),
        ("language/train", "language/train is a file. Name the folder that holds it"),
        ("a\0b", "there is no such folder"),
    ],
)
def test_a_path_that_is_no_folder_is_one_line(path, message, data):
    with pytest.raises(DataError, match=message):
        measure("image", "laptop", {"path": path})


def test_config_prints_the_measured_numbers(data, novobench):
    code, out, _ = novobench("config", "table1", "--rows", "t1_sgd_100", "--data", "path=image", "limit=10")
    assert code == 0
    assert "  train_size: 14 " in out
    assert "  limit: 10 " in out
    assert "  classes: 2 " in out

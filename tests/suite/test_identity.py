"""A finished cell counts only with the data it was trained on."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from novobench.console import console
from novobench.suite.identity import changed_data_errors
from novobench.suite.plan import PlannedCell
from novobench.tasks import base
from novobench.tasks.image import resident
from novobench.tasks.speech import feature_cache
from tests.cells import small_config
from tests.suite.finished import config_of, finished

EXPERIMENT = """
title: One row
where: nowhere
task: language
columns: [{key: test, split: test, metric: ppl, label: test PPL, better: smaller}]
set: {optimizer.name: novograd, optimizer.lr: 0.01, budget: 4steps, batch: {size: 4, micro: 4}, model.width: 8,
  model.heads: 2, model.head_width: 4, model.inner_width: 16, model.cutoffs: [], model.memory_length: 8,
  model.vocabulary_size: 5, data.source: files, data.name: mine, data.path: mine, data.minimum_count: 1,
  data.segment_length: 8, data.evaluation_streams: 1, data.train_tokens: 800, data.valid_tokens: 100,
  data.test_tokens: 100, data.probe_tokens: 0, schedule.warmup: 0, runtime.curve_points: 1,
  runtime.accelerator: cpu}
search: {novograd: {optimizer.lr: [0.001, 0.1], optimizer.weight_decay: [1.0e-4, 1.0e-2]}}
rows: [{id: a, label: A, laptop: {}}]
"""


def write_text(folder, seed):
    """Write three texts that have the same word counts for every seed: each line is a permutation of four words."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(seed)
    for split, lines in (("train", 160), ("valid", 20), ("test", 20)):
        permutations = [[["a", "b", "c", "d"][i] for i in draw.permutation(4)] for _ in range(lines)]
        (folder / f"wiki.{split}.tokens").write_text("".join(" ".join(line) + "\n" for line in permutations))


@pytest.fixture
def mine(workspace, monkeypatch):
    """The folder of a user's own data set, and experiments on it."""
    monkeypatch.delenv("NOVOBENCH_DATA", raising=False)
    content = EXPERIMENT.replace("set: {", f"set: {{data_root: {workspace / 'data'}, ")
    (workspace / "experiments" / "one.yaml").write_text(content)
    (workspace / "experiments" / "searched.yaml").write_text(content.replace("laptop: {}", "laptop: {tuned: some}"))
    write_text(workspace / "data" / "mine", seed=0)
    return workspace / "data" / "mine"


def test_other_data_with_the_same_name_and_counts_never_get_the_old_result(mine, workspace, novobench):
    assert novobench("run", "one")[0] == 0
    results = workspace / "results" / "laptop" / "records.csv"
    record = json.loads(next(workspace.glob("runs/laptop/*/record.json")).read_text())
    before = results.read_bytes()

    shutil.copytree(mine, mine.parent / "copy")
    code, out, err = novobench("run", "one", "--set", "data.path=copy")  # the same data elsewhere
    assert (code, err) == (0, "")
    assert "1 finished cell: comparing their data" in out

    write_text(mine, seed=1)
    code, out, err = novobench("run", "one", "--seeds", "2")
    assert code == 1
    message = next(line for line in err.splitlines() if "failed: data 'mine' (files mine) are not what" in line)
    assert record["cell"] in message
    assert f"was {record['fingerprint']}" in message
    assert "data.name=…" in message
    assert "1 of 2 cells failed" in err
    assert len(list(workspace.glob("runs/laptop/*/record.json"))) == 2  # the other cell was trained
    write_text(mine, seed=0)
    results.write_bytes(before)

    write_text(mine.parent / "other", seed=1)
    code, out, err = novobench("run", "one", "--set", "data.path=other")
    assert code == 1
    assert "data 'mine' (files other) are not what it was trained on" in err
    assert results.read_bytes() == before

    with (mine / "wiki.train.tokens").open("a") as file:  # other counts are other data too
        file.write("a b c d\n")
    code, out, err = novobench("run", "one")
    assert code == 1
    assert "are not what it was trained on" in err
    assert f"was {record['fingerprint']}" in err

    shutil.rmtree(mine)
    code, out, err = novobench("run", "one")
    assert (code, err) == (0, "")
    assert (
        "1 finished cell: data 'mine' (files mine) cannot be compared, so the records are kept: No data folder" in out
    )


def test_a_search_refuses_trials_on_other_data(mine, novobench):
    command = ("search", "searched", "--trials", "1", "--seeds", "1")
    for _ in range(2):
        code, _, err = novobench(*command)
        assert code == 0, err
    write_text(mine, seed=1)
    code, _, err = novobench(*command)
    assert code == 1
    assert "are not what it was trained on" in err
    assert err.count("\n") == 1


def test_a_damaged_record_is_passed_over_where_data_are_compared(mine):
    """The other cells are compared all the same; the collection reports the damaged ones."""
    own = identified(config_of("one", "a"))
    fingerprints = {0: own, 1: own, 2: "other", 3: own}
    folders = [finished("one", "a", {}, seed=seed, fingerprint=name) for seed, name in fingerprints.items()]
    folders[0].record.write_text("{")
    folders[1].record.write_text("[]")
    cells = [PlannedCell(config_of("one", "a", seed=seed)) for seed in fingerprints]
    errors = changed_data_errors(cells, console())
    assert list(errors) == [cells[2].id]
    assert "are not what it was trained on" in errors[cells[2].id]


def test_built_in_data_are_not_measured(results, novobench):
    assert novobench("run", "small", "--rows", "sgd")[0] == 0
    code, out, _ = novobench("run", "small", "--rows", "sgd")
    assert code == 0
    assert "comparing" not in out


def identified(config):
    return base.build(config)[1].identify()


def test_speech_is_identified_without_features(monkeypatch):
    config = small_config("speech", data__keep_features=True)
    monkeypatch.setattr(feature_cache, "cached_features", lambda *_: pytest.fail("features were computed"))
    fingerprint = identified(config)
    _, data = base.build(small_config("speech"))
    data.setup("fit")
    assert fingerprint == data.fingerprint


def test_images_are_identified_without_decoding_them_all(tmp_path, monkeypatch):
    for split, count in (("train", 20), ("val", 4)):
        for label in ("cat", "dog"):
            for number in range(count):
                path = tmp_path / "pets" / split / label / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(np.full((8, 8, 3), number, dtype=np.uint8)).save(path)
    monkeypatch.setenv("NOVOBENCH_DATA", str(tmp_path))
    own = {"source": "folder", "name": "pets", "path": "pets", "train_size": 36, "search_size": 4, "test_size": 8}
    own |= {"image_size": 8, "resize_size": 8, "crop": "pad_shift", "images_on": "accelerator"}
    changes = {f"data__{key}": value for key, value in own.items()}
    config = small_config(**changes, model__in_channels=3, model__classes=2)
    _, data = base.build(config)
    data.setup("fit")
    monkeypatch.setattr(resident, "_cached_pixels", lambda *_: pytest.fail("images were decoded"))
    assert identified(config) == data.fingerprint

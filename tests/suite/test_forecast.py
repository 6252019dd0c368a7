"""Expected training times, which `plan` prints and which order the cells."""

import dataclasses
import importlib
import json
import math
from types import SimpleNamespace

import pytest
import torch
import yaml
from torch.utils.flop_counter import FlopCounterMode

from novobench import places
from novobench.suite import forecast as forecasting
from novobench.suite.forecast import Forecast, forecast, measured_speeds
from novobench.suite.plan import PlannedCell
from novobench.suite.results import Results
from novobench.tasks import catalog
from novobench.tasks.image.config import ImageDataConfig, ImageModelConfig, relative_cost
from novobench.tasks.speech.config import SpeechDataConfig, SpeechModelConfig
from tests.cells import small_config
from tests.suite.finished import collected, config_of, finished

TASKS = ["image", "language", "speech", "translation"]
WIDER = {"model__widths": [8, 16], "model__stem_width": 8}


def key(config):
    parts = {part: dataclasses.asdict(getattr(config, part)) for part in ("model", "data")}
    return json.dumps({"task": config.task, **parts})


def test_finished_cells_of_the_same_model_count_as_they_are():
    config = small_config(budget="100steps")  # of 32 samples
    cell = PlannedCell(config)
    expected_time = forecast(cell, {key(config): (1000.0, 2.0), key(small_config(**WIDER)): (1.0, 100.0)})
    assert (expected_time.seconds, expected_time.source) == (3200 / 500, "finished cells")
    more = small_config(budget="100steps", runtime__devices=2, runtime__cells_per_gpu=3)
    assert forecast(PlannedCell(more), {key(config): (1000.0, 2.0)}).seconds == pytest.approx(3200 / 500 / 2 * 3)


def test_finished_cells_of_another_model_are_scaled_by_cost():
    small, wide = small_config(budget="100steps"), small_config(budget="100steps", **WIDER)
    times = relative_cost(wide) / relative_cost(small)
    assert 2 < times < 4.5  # twice the channels
    expected_time = forecast(PlannedCell(wide), {key(small): (1000.0, 2.0)})
    assert expected_time.seconds == pytest.approx(3200 / 500 * times)
    assert expected_time.source == "finished cells, scaled to the size of the model"


def test_finished_cells_of_another_task_do_not_count():
    expected_time = forecast(PlannedCell(small_config()), {key(small_config("speech")): (1000.0, 2.0)})
    assert not expected_time.source.startswith("finished cells")


def test_the_declared_speed_is_that_of_the_config_as_it_stands():
    file = places.workspace().task_config("image", "laptop")
    speed = yaml.safe_load(file.read_text())["forecast"]["samples_per_second"]
    tree = catalog.override(
        catalog.load_task("image", file),
        {"task": "image", "seed": 0, "budget": "100steps", "optimizer.name": "sgd", "optimizer.lr": 0.1},
        "test",
    )
    own = catalog.resolve(tree, "test")
    assert forecast(PlannedCell(own), {}).seconds == 3200 / speed
    larger = catalog.resolve(catalog.override(tree, {"model.widths": [64, 128, 256]}, "test"), "test")
    expected_time = forecast(PlannedCell(larger), {})
    assert expected_time.seconds == pytest.approx(3200 / speed * relative_cost(larger) / relative_cost(own))
    assert expected_time.seconds > 5 * 3200 / speed
    assert expected_time.source.endswith(", scaled to the size of the model")
    said = catalog.resolve(
        catalog.override(tree, {"model.widths": [64, 128, 256], "forecast.samples_per_second": 10}, "test"), "test"
    )
    assert forecast(PlannedCell(said), {}).seconds == 320


@pytest.fixture
def _image_without_relative_cost(monkeypatch):
    """The image task defines no cost of a sample."""
    monkeypatch.delattr("novobench.tasks.image.config.relative_cost")
    forecasting._cost.cache_clear()
    yield
    forecasting._cost.cache_clear()


@pytest.mark.usefixtures("_image_without_relative_cost")
def test_a_task_without_relative_cost_has_no_forecast_for_another_model():
    config, wide = small_config(), small_config(**WIDER)
    past = {key(config): (1000.0, 2.0)}
    assert forecast(PlannedCell(config), past).seconds is not None
    assert forecast(PlannedCell(wide), past) == Forecast(None, "unknown")


def test_cells_of_other_fields_are_left_out():
    config = small_config()
    old = json.loads(key(config))
    old["model"]["a_field_of_old"] = 1
    expected_time = forecast(PlannedCell(config), {json.dumps(old): (1000.0, 2.0)})
    assert not expected_time.source.startswith("finished cells")


OLD = [
    {"task": "a task of old", "model": {}, "data": {}},
    {"task": "image", "model": [1], "data": {}},
    {"task": "image", "model": None, "data": None},
    {"task": ["image"], "model": {}, "data": {}},
    {"task": "image", "model": "x", "data": {}},
]


@pytest.mark.parametrize("content", OLD, ids=range(len(OLD)))
def test_cells_whose_config_is_invalid_today_do_not_count(content):
    past = {json.dumps(content): (1000.0, 2.0)}
    assert not forecast(PlannedCell(small_config()), past).source.startswith("finished cells")


@pytest.mark.parametrize("speed", [(0.0, 2.0), (10.0, 0.0), (math.inf, 1.0), (1.0, math.inf), (math.nan, 1.0)])
def test_speeds_of_zero_or_not_finite_do_not_count(speed):
    config = small_config()
    expected_time = forecast(PlannedCell(config), {key(config): speed})
    assert not expected_time.source.startswith("finished cells")
    assert expected_time.seconds is None or 0 < expected_time.seconds < math.inf


ODD_CONFIGS = {
    "batch": {"size": "many"}, "runtime": {"devices": 1, "nodes": 1, "cells_per_gpu": 0}, "model": None,
}  # fmt: skip


@pytest.mark.parametrize("part", [None, *ODD_CONFIGS, "task"])
def test_finished_cells_without_a_speed(workspace, part):
    """With an old config, or a time that is not finite. The other cells count."""
    folder, other = finished("small", "sgd", {"test": {"top1": 50.0}}), finished("small", "sgd", {}, seed=1)
    config = yaml.safe_load(folder.config.read_text())
    if part in ODD_CONFIGS:
        config[part] = ODD_CONFIGS[part]
        folder.config.write_text(yaml.safe_dump(config))
    elif part:
        (record := json.loads(folder.record.read_text()))["train_seconds"] = None
        folder.record.write_text(json.dumps(record))
    assert collected(folder, other) == []
    speeds = measured_speeds(Results.load("laptop"))
    assert sum(samples for samples, _ in speeds.values()) == 8 * 32 * (1 if part in ("batch", "runtime", "task") else 2)
    assert forecast(PlannedCell(config_of("small", "sgd")), speeds).seconds == pytest.approx(1.5)


@pytest.mark.parametrize("task", TASKS)
def test_every_task_defines_the_cost_of_its_samples(task):
    module = importlib.import_module(f"novobench.tasks.{task}.config")
    config = SimpleNamespace(model=module.MODEL(), data=module.DATA())
    width = {"image": "stem_width", "language": "width", "speech": "features", "translation": "width"}[task]
    more = SimpleNamespace(
        model=dataclasses.replace(config.model, **{width: 2 * getattr(config.model, width)}), data=config.data
    )
    assert 0 < module.relative_cost(config) < module.relative_cost(more)


def counted(network, *inputs):
    """Multiply-accumulates of a forward pass, counted by torch."""
    with FlopCounterMode(display=False) as counter:
        network(*inputs)
    return counter.get_total_flops() / 2


@pytest.mark.parametrize("change", [{}, {"widths": [16, 32], "depths": [2, 1], "stem_pool": False, "stem_stride": 1}])
def test_cost_of_an_image(change):
    from novobench.tasks.image.model import build

    model, data = ImageModelConfig(**change), ImageDataConfig(image_size=64)
    with torch.device("meta"):
        expected = counted(build(model), torch.empty(1, 3, 64, 64))
    assert relative_cost(SimpleNamespace(model=model, data=data)) == expected


def test_cost_of_a_frame():
    from novobench.tasks.speech import config as speech
    from novobench.tasks.speech.model import build

    model, frames = SpeechModelConfig(), 512
    with torch.device("meta"):
        expected = counted(build(model), torch.empty(1, model.features, frames), torch.tensor([frames]))
    cost = speech.relative_cost(SimpleNamespace(model=model, data=SpeechDataConfig()))
    assert cost == pytest.approx(expected / frames, rel=0.01)

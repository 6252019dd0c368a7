"""Each task's `config.py` declares what the engine reads of it."""

import dataclasses

import pytest

from novobench.tasks.base_config import DataConfig, SampledDataConfig, TaskConfig
from novobench.tasks.catalog import task_config, task_names


@pytest.mark.parametrize("name", task_names())
def test_a_config_module_has_all_that_its_contract_names(name):
    module = task_config(name)
    declared = {*TaskConfig.__annotations__, "validate", "relative_cost"}
    assert declared <= vars(module).keys()


@pytest.mark.parametrize("name", task_names())
def test_a_data_config_declares_the_fields_of_its_base(name):
    schema = task_config(name).DATA
    assert issubclass(schema, DataConfig)
    required = {*DataConfig.__annotations__}
    if issubclass(schema, SampledDataConfig):
        required |= {*SampledDataConfig.__annotations__}
    assert required <= {field.name for field in dataclasses.fields(schema)}
    assert schema().updates_per_epoch(64) >= 1
    assert schema().tokens_per_sample is None or schema().tokens_per_sample >= 1

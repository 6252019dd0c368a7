"""Settings that some devices would silently replace are rejected."""

import pytest

from novobench import hardware
from novobench.device_limits import check_device
from novobench.errors import ConfigError
from novobench.training import cell
from tests.cells import small_cell, small_config


@pytest.mark.parametrize(
    ("key", "value", "accepting", "rejecting"),
    [
        ("runtime__precision", "16-mixed", ["cuda", "mps"], ["cpu"]),
        ("runtime__precision", "bf16-mixed", ["cuda", "cpu"], []),
        ("runtime__precision", "64-true", ["cuda", "cpu"], ["mps"]),
        ("runtime__cuda_graphs", True, ["cuda"], ["cpu", "mps"]),
        ("runtime__channels_last", True, ["cuda", "cpu", "mps"], []),
    ],
)
def test_settings_that_a_device_lacks_are_rejected(key, value, accepting, rejecting):
    config = small_config(runtime__accelerator="auto", **{key: value})  # plans may be made on another machine
    for device in accepting:
        check_device(config, device)
    for device in rejecting:
        with pytest.raises(ConfigError, match=key.replace("__", ".")):
            check_device(config, device)
        if device != "mps":
            with pytest.raises(ConfigError, match=key.replace("__", ".")):
                small_config(runtime__accelerator=device, **{key: value})


def test_lightning_still_replaces_half_precision_on_a_cpu():
    """The reason for the check; if this test fails, the check can go."""
    import pytorch_lightning as pl

    with pytest.warns(UserWarning, match="precision='16-mixed'.* not supported on CPU. Using .*'bf16-mixed'"):
        trainer = pl.Trainer(accelerator="cpu", precision="16-mixed", logger=False, enable_checkpointing=False)
    assert trainer.precision == "bf16-mixed"


def test_a_cell_in_half_precision_does_not_start_without_a_gpu(tmp_path, monkeypatch):
    monkeypatch.setattr(hardware, "accelerator", lambda: "cpu")
    folder = small_cell(tmp_path / "cell", runtime__accelerator="auto", runtime__precision="16-mixed")
    with pytest.raises(ConfigError, match="'runtime.precision' 16-mixed needs a GPU"):
        cell.run(folder.path)
    assert "16-mixed needs a GPU" in folder.failure_reason()
    assert not folder.environment.exists()  # neither data nor training was started

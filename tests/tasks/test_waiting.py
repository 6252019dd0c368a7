"""A training step never waits for the device, so that the host can run ahead of a GPU."""

import pytest
import torch
from pytorch_lightning.utilities import move_data_to_device

from novobench.tasks import base
from tests.cells import small_config
from tests.tasks.translation.small import small_config as small_translation

CONFIGS = {
    "image": lambda: small_config("image"),
    "language": lambda: small_config("language"),
    "translation": small_translation,
}  # not speech: torch's CTC itself copies lengths between host and GPU


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("task", CONFIGS)
def test_a_training_step_never_waits_for_the_device(task, monkeypatch):
    """Tensors on the device `meta` have no values, so reading one is an error."""
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: False)  # it does not support `meta`
    module, data = base.build(CONFIGS[task]())
    data.setup("fit")
    module.to("meta").train()
    for number, batch in enumerate(data.train_batches(0, 2, 0, 1)):
        loss = module.training_step(move_data_to_device(batch, torch.device("meta")), number)
        loss.backward()
        assert loss.shape == ()
        with pytest.raises(RuntimeError, match="meta tensors"):
            loss.item()

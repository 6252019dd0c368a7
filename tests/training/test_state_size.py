"""The bytes of an optimizer's state, against closed forms."""

import pytest

from novobench.tasks import base
from novobench.training.state_size import state_bytes
from tests.cells import small_config


@pytest.mark.parametrize(
    ("name", "per_parameter", "per_tensor"),
    [
        ("adamw", 8, 4),  # two moments, a step counter
        ("novograd", 4, 4),  # one moment, v of each tensor
        ("schedule_free_adamw", 8, 0),  # the newest iterate, a second moment
        ("torch.optim:Adagrad", 4, 4),  # a sum of squares, a step counter
    ],
)
def test_state(name, per_parameter, per_tensor):
    config = small_config(**{"optimizer.name": name})
    tensors = list(base.build(config)[0].parameters())
    parameters = sum(p.numel() for p in tensors)
    assert state_bytes(config) == (per_parameter * parameters + per_tensor * len(tensors), parameters)


def test_an_optimizer_without_state():
    assert state_bytes(small_config(**{"optimizer.name": "torch.optim:SGD"}))[0] == 0


def test_all_optimizers_of_a_composite_count():
    """NovoGrad keeps 4 bytes per weight of a matrix, AdamW 8 bytes per weight of the rest."""
    config = small_config(**{"optimizer.name": "novograd_adamw"})
    names = dict(base.build(config)[0].named_parameters())
    matrices = {name: p for name, p in names.items() if p.dim() > 1 and not name.startswith("network.classifier")}
    rest = [p for name, p in names.items() if name not in matrices]
    expected = sum(4 * p.numel() + 4 for p in matrices.values()) + sum(8 * p.numel() + 4 for p in rest)
    assert state_bytes(config)[0] == expected

"""The role of each parameter of each task's model."""

import re
from collections import Counter

import pytest

from novobench.optim.roles import parameter_roles
from novobench.tasks import base
from tests.cells import small_config
from tests.tasks.translation.small import small_config as small_translation

ATTENTION = r"(encoder\.layers\.\d\.self_attn|decoder\.layers\.\d\.(self|encoder)_attn)"
LAYERS = r"(encoder|decoder)\.layers\.\d"
EXPECTED = {
    "image": {
        "matrix": [r"stem\.weight", r"blocks\.\d\.(project|conv[123])\.weight"],
        "embedding": [],
        "head": [r"classifier\.weight"],
        "norm_bias": [r"(blocks\.\d\.norm[123]|norm)\.(weight|bias)", r"classifier\.bias"],
    },
    "speech": {
        "matrix": [r"blocks\.\d\.convolutions\.\d\.weight", r"blocks\.\d\.branches\.\d\.0\.weight"],
        "embedding": [],
        "head": [r"output\.weight"],
        "norm_bias": [r"blocks\.\d\.(norms\.\d|branches\.\d\.1)\.(weight|bias)", r"output\.bias"],
    },
    "language": {
        "matrix": [r"layers\.\d\.(qkv|position|output|expand|contract)\.weight"],
        "embedding": [r"embedding\.weight"],  # also the softmax's
        "head": [r"softmax\.cluster_weight"],
        "norm_bias": [
            r"(content|position)_bias",
            r"layers\.\d\.(attention|feed_forward)_norm\.(weight|bias)",
            r"layers\.\d\.(expand|contract)\.bias",
            r"softmax\.(bias|cluster_bias)",
        ],
    },
    "translation": {
        "matrix": [rf"model\.{ATTENTION}\.([kqv]|out)_proj\.weight", rf"model\.{LAYERS}\.fc[12]\.weight"],
        "embedding": [r"model\.shared\.weight"],  # also the output layer's; the positions are fixed
        "head": [],
        "norm_bias": [
            rf"model\.{ATTENTION}\.([kqv]|out)_proj\.bias",
            rf"model\.({ATTENTION}|{LAYERS}\.final)_layer_norm\.(weight|bias)",
            rf"model\.{LAYERS}\.fc[12]\.bias",
            r"model\.(encoder|decoder)\.normed_embedding\.norm\.(weight|bias)",
        ],
    },
}


@pytest.mark.parametrize("task", EXPECTED)
def test_every_parameter_has_its_role(task):
    module, _ = base.build(small_translation() if task == "translation" else small_config(task))
    roles = parameter_roles(module, module.role_patterns)
    assert list(roles) == [name for name, parameter in module.named_parameters() if parameter.requires_grad]
    used = Counter()
    for name, role in roles.items():
        hits = {
            (kind, pattern)
            for kind, patterns in EXPECTED[task].items()
            for pattern in patterns
            if re.fullmatch(rf"network\.{pattern}", name)
        }
        assert {kind for kind, _ in hits} == {role}, name
        used.update(hits)
    unused = [pattern for kind, patterns in EXPECTED[task].items() for pattern in patterns if not used[kind, pattern]]
    assert not unused


@pytest.mark.parametrize("task", EXPECTED)
def test_novograd_takes_the_matrices_and_adamw_the_rest(task):
    changes = {"optimizer__name": "novograd_adamw", "optimizer__lr": 0.02, "optimizer__others": {"lr_ratio": 0.07}}
    make = small_translation if task == "translation" else lambda **given: small_config(task, **given)
    module, _ = base.build(make(**changes, optimizer__weight_decay=0.25))
    optimizer = module.configure_optimizers()
    roles = parameter_roles(module, module.role_patterns)
    assert [type(part.optimizer).__name__ for part in optimizer.parts] == ["NovoGrad", "AdamW"]
    for part, ratio, taken in zip(optimizer.parts, (1.0, 0.07), (True, False), strict=True):
        groups = part.optimizer.param_groups
        names = [name for group in groups for name in group["param_names"]]
        assert set(names) == {name for name, role in roles.items() if (role == "matrix") == taken}
        assert [group["lr"] for group in groups] == pytest.approx([0.02 * ratio] * len(groups))
        assert all(group["weight_decay"] == 0.25 * group["weight_decay_factor"] for group in groups)
        for group in groups:
            for name, parameter in zip(group["param_names"], group["params"], strict=True):
                assert parameter is module.get_parameter(name)

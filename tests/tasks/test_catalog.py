"""Which optimizer takes which parameters: what a config may say, and when two configs are one training."""

import pytest

from novobench.config import cell_id
from novobench.errors import ConfigError
from novobench.tasks import base
from tests.cells import small_config

NAME = "novograd_adamw"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"others__lr_ratio": 0.5}, "'optimizer.others' is set, but novograd takes the parameters of all roles"),
        ({"role_patterns": {"stem": "head"}}, "'optimizer.role_patterns' is set, but novograd takes"),
        ({"roles": []}, "'optimizer.roles' must be different roles, at least one, not []"),
        ({"roles": ["matrix", "matrix"]}, "must be different roles, at least one, not ['matrix', 'matrix']"),
        ({"roles": ["matrx"]}, "'optimizer.roles': there is no role 'matrx'. Did you mean 'matrix'? Known: matrix, "),
        ({"roles": "matrix"}, "'optimizer.roles' must be a list, not matrix."),
        ({"name": NAME, "role_patterns": {"stem": "hed"}}, "'optimizer.role_patterns.stem': there is no role 'hed'"),
        ({"name": NAME, "others__name": "adamq"}, "'optimizer.others.name': optimizer 'adamq' is not registered"),
        ({"name": NAME, "others__name": NAME}, "takes matrix, but novograd_adamw leaves embedding, head, norm_bias"),
        ({"name": NAME, "others__lr_ratio": 0}, "'optimizer.others.lr_ratio' must be above 0"),
        ({"name": NAME, "others__options": {"momentum": 0.5}}, "there is no key 'optimizer.others.options.momentum'"),
        ({"name": NAME, "others__options": {"betas": [0.5]}}, "'optimizer.others.options.betas' of adamw must be two"),
        (
            {"name": NAME, "others__name": "torch.optim:Rprop", "weight_decay": 0.1},
            "'optimizer.others.weight_decay' is 0.1, but torch.optim:Rprop accepts no such argument",
        ),
    ],
    ids=str,
)
def test_a_contradiction_is_refused(changes, message):
    with pytest.raises(ConfigError) as refusal:
        small_config(**{f"optimizer__{key}": value for key, value in changes.items()})
    assert message in str(refusal.value)


def test_equal_trainings_have_one_id():
    plain = small_config(optimizer__name=NAME)
    assert small_config(optimizer__name=NAME, optimizer__roles=["matrix"]) == plain
    whole = small_config(optimizer__roles=["norm_bias", "head", "embedding", "matrix"])
    assert whole == small_config()
    two = [small_config(optimizer__roles=roles) for roles in (["head", "matrix"], ["matrix", "head"])]
    assert cell_id(two[0]) == cell_id(two[1]) != cell_id(small_config())
    unset = small_config(optimizer__name=NAME, optimizer__others={"name": "adamw", "options": {"eps": 1e-8}})
    assert cell_id(unset) == cell_id(plain)
    for key, value in (("lr_ratio", 0.5), ("weight_decay", 0.1), ("name", "sgd"), ("options", {"eps": 1e-6})):
        assert cell_id(small_config(optimizer__name=NAME, optimizer__others={key: value})) != cell_id(plain)


def test_entries_of_lists_of_the_others_can_be_set():
    config = small_config(**{"optimizer__name": NAME, "optimizer__others__options__betas[1]": 0.95})
    assert config.optimizer.others.options.betas == [0.9, 0.95]
    assert config.optimizer.options.betas == [0.95, 0.25]


def test_the_others_may_have_a_weight_decay_of_their_own():
    config = small_config(
        optimizer__name="torch.optim:Rprop",
        optimizer__weight_decay=0,
        optimizer__roles=["matrix"],
        optimizer__others__weight_decay=0.5,
    )
    module, _ = base.build(config)
    rprop, adamw = module.configure_optimizers().parts
    assert rprop.weight_decay == 0
    assert [part.weight_decay for part in (rprop, adamw)] == [0, 0.5]
    assert {group["weight_decay"] / group["weight_decay_factor"] for group in adamw.optimizer.param_groups} == {0.5}


def test_an_optimizer_that_no_parameter_needs_is_refused():
    """The image model has no embedding."""
    module, _ = base.build(small_config(optimizer__roles=["embedding"]))
    with pytest.raises(ConfigError, match=r"^No parameter has a role that optimizer 'novograd' takes \(embedding\)"):
        module.configure_optimizers()


def test_patterns_move_parameters():
    patterns = {"stem": "norm_bias", "@bias": "matrix"}
    module, _ = base.build(small_config(optimizer__name=NAME, optimizer__role_patterns=patterns))
    novograd, adamw = module.configure_optimizers().parts
    names = [[n for g in part.optimizer.param_groups for n in g["param_names"]] for part in (novograd, adamw)]
    assert "network.stem.weight" in names[1]
    assert "network.norm.bias" in names[0]
    module, _ = base.build(small_config(optimizer__name=NAME, optimizer__role_patterns={"steam": "head"}))
    with pytest.raises(ValueError, match="Role pattern 'steam' matches no trainable parameter"):
        module.configure_optimizers()

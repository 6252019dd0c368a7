"""The ranges that config fields declare."""

import math
from dataclasses import dataclass, field
from typing import Annotated, Any

import pytest

from novobench.errors import ConfigError
from novobench.ranges import NOT_EMPTY, FileName, Name, PositiveFloat, PositiveInt, check


@dataclass(frozen=True)
class Inner:
    width: PositiveInt = 1


@dataclass(frozen=True)
class Example:
    plain: float = 0.0
    share: Annotated[float, "[0, 1)"] = 0.0
    whole: Annotated[float, "(0, 1]"] = 1.0
    clip: PositiveFloat | None = None
    widths: Annotated[list[PositiveInt], NOT_EMPTY] = field(default_factory=lambda: [1])
    splits: list[Name] = field(default_factory=list)
    sizes: dict[FileName, PositiveInt] = field(default_factory=dict)
    inner: Inner = field(default_factory=Inner)
    layers: list[Inner] = field(default_factory=list)
    free: Any = None


@dataclass(frozen=True)
class Named:
    name: FileName


@pytest.mark.parametrize(
    ("values", "requirement"),
    [
        ({"plain": math.nan}, "'plain' must be a finite number, not nan."),
        ({"plain": -math.inf}, "'plain' must be a finite number, not -inf."),
        ({"share": 1.0}, "'share' must be 0 or more and below 1, not 1.0."),
        ({"share": math.nan}, "'share' must be 0 or more and below 1, not nan."),
        ({"whole": 0.0}, "'whole' must be above 0 and at most 1, not 0.0."),
        ({"clip": 0.0}, "'clip' must be above 0 and finite, not 0.0."),
        ({"widths": []}, "'widths' must be a collection of at least one entry, not []."),
        ({"widths": [4, 0]}, "'widths[1]' must be 1 or more, not 0."),
        ({"splits": ["dev", {"x": 1}]}, "'splits[1]' must be text, not {'x': 1}."),
        ({"splits": [["dev"]]}, "'splits[0]' must be text, not ['dev']."),
        ({"sizes": {"dev": 0}}, "'sizes.dev' must be 1 or more, not 0."),
        ({"sizes": {"../up": 1}}, "'sizes' key '../up' must be usable in a file name"),
        ({"inner": Inner(0)}, "'inner.width' must be 1 or more, not 0."),
        ({"layers": [Inner(), Inner(-1)]}, "'layers[1].width' must be 1 or more, not -1."),
        ({"inner": Inner(2**63)}, "'inner.width' must be a number below 2^63, not 9223372036854775808."),
    ],
)
def test_a_value_out_of_its_range_is_named(values, requirement):
    with pytest.raises(ConfigError) as caught:
        check(Example(**values), "small.yaml")
    assert str(caught.value).startswith(f"small.yaml: {requirement}")


def test_values_in_their_ranges_pass():
    check(Example(share=0.0, whole=1.0, clip=1e-9, widths=[1, 2], sizes={"test-clean": 1, "größe": 2}), "")
    check(Example(free=math.nan), "")  # a field without a type has no range
    check(Inner(2**63 - 1), "")


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden", "a\\b", "a\nb", "a\0b", " a", "x" * 101, "C:", 'q"'])
def test_names_that_lead_out_of_a_folder_or_fit_no_file_system(name):
    with pytest.raises(ConfigError, match="file name"):
        check(Named(name), "")

"""What an experiment declares about its search for rates, and the points that a search tries."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from novobench.errors import ConfigError, suggestion
from novobench.optim import registry
from novobench.yaml_text import untyped_value

LAST_ROUND = 2
"""A search widens its ranges this many times at most."""
_WIDTH_TOLERANCE = 0.02
"""Ranges count as equally wide up to this share of their widths in logarithm: they are written with few digits."""

_ROUNDING = 0.055
"""The most by which rounding to two digits changes a logarithm: 1.05 becomes 1.0 or 1.1."""

Ranges = Mapping[str, Sequence[float]]
"""Config key -> [low, high]."""


@dataclass(frozen=True)
class Search:
    """How `novobench search` looks for the rates that rows name: the same way for each of their optimizers."""

    trials: Annotated[int, "[8, 4096]"] = 16
    """Trials per set of rates and round: a power of two, because Sobol points are balanced only then."""
    seeds: Annotated[int, "[2, 1000]"] = 2
    """Cells per trial, with seeds 0, 1, …"""
    widen: Annotated[float, "(1, 1000]"] = 4.0
    """Each further round divides the low end of every range by this factor and multiplies the high end by it."""
    reason: str = ""
    """Why the optimizers' ranges differ in dimensions or in width. Required if they do."""
    ranges: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    """Optimizer -> key -> [low, high]; without an entry, the registry's ranges. In YAML the optimizers are written next
    to the other keys."""

    def ranges_of(self, optimizer: str) -> Ranges:
        """The ranges of an optimizer by name, in the first round; empty if it has none."""
        if optimizer in self.ranges:
            return self.ranges[optimizer]
        tunable = registry.get(optimizer).tunable
        return {f"optimizer.{key}": [bounds.low, bounds.high] for key, bounds in tunable.items()}


_FIELDS = ("trials", "seeds", "widen", "reason")


def split_ranges(content: dict[str, Any], where: str) -> dict[str, Any]:
    """The content of `search:` with the optimizers moved into `ranges`.

    Raises ConfigError for an unknown optimizer, and for a range that is not two increasing numbers above 0, whose
    widest form would still be finite.
    """
    ranges = {name: keys for name, keys in content.items() if name not in _FIELDS}
    for name, keys in ranges.items():
        try:
            registry.get(name)
        except LookupError as error:
            raise ConfigError(f"{where}: 'search.{name}': {error.args[0]}{suggestion(name, _FIELDS)}") from None
        if not isinstance(keys, dict) or not keys:
            raise ConfigError(f"{where}: 'search.{name}' must be a mapping of keys to ranges, not {keys}.")
        for key, bounds in keys.items():
            if not is_range(untyped_value(bounds)):
                rule = "must be [low, high], two increasing numbers above 0, between 1e-100 and 1e100"
                raise ConfigError(f"{where}: 'search.{name}.{key}' {rule}, not {bounds}.")
    return {**{name: content[name] for name in _FIELDS if name in content}, "ranges": ranges}


def is_range(bounds: Any) -> bool:
    """Whether this is [low, high], two increasing numbers above 0 whose widest form is finite."""
    if not isinstance(bounds, list) or len(bounds) != 2:
        return False
    are_numbers = all(type(bound) in (int, float) for bound in bounds)
    return are_numbers and 1e-100 <= bounds[0] < bounds[1] <= 1e100


def check_search(search: Search, where: str) -> None:
    """Raise ConfigError for a number of trials that is no power of two, and for unequal ranges without a reason."""
    check_power_of_two(search.trials, f"{where}: 'search.trials'")
    check_equal_ranges(search.ranges, search.reason, where)


def check_power_of_two(number: int, place: str) -> None:
    if number & (number - 1):
        lower = 1 << (number.bit_length() - 1)
        raise ConfigError(f"{place} must be a power of two, e.g. {lower} or {2 * lower}, not {number}.")


def check_equal_ranges(ranges: Mapping[str, Ranges], reason: str, where: str) -> None:
    """Raise ConfigError for `unequal_ranges` without a reason."""
    if not reason and (difference := unequal_ranges(ranges)):
        advice = "Give every optimizer as many dimensions with the same high/low, or say why not in `reason`."
        raise ConfigError(f"{where}: 'search': {difference}. {advice}")


def unequal_ranges(ranges: Mapping[str, Ranges]) -> str:
    """How optimizers differ in the number of dimensions, or in the width of one of them; empty if they do not.

    Dimensions are compared in the order in which they are written; widths are those of the logarithm. As many trials
    cover a larger space less densely, so the comparison would favor the optimizer with the smaller space.
    """
    if not ranges:
        return ""
    (first, expected), *others = ranges.items()
    for name, own in others:
        if len(own) != len(expected):
            counts = f"{first} has {len(expected)}, {name} {len(own)}"
            return f"the optimizers differ in the number of ranges: {counts}"
        for (key, bounds), (other_key, other) in zip(own.items(), expected.items(), strict=True):
            if abs(_width(bounds) / _width(other) - 1) > _WIDTH_TOLERANCE:
                own_ratio, other_ratio = (f"{high / low:.3g}" for low, high in (bounds, other))
                ratios = f"{own_ratio} in {name}.{key} and {other_ratio} in {first}.{other_key}"
                return f"high/low is {ratios}"
    return ""


def _width(bounds: Sequence[float]) -> float:
    return math.log(bounds[1]) - math.log(bounds[0])


def widened(ranges: Ranges, factor: float, round: int) -> dict[str, tuple[float, float]]:
    """The ranges of a round: the declared ones in round 0, wider by `factor` on both sides in each further one."""
    return {key: (low / factor**round, high * factor**round) for key, (low, high) in ranges.items()}


def points(ranges: Ranges, number: int, widen: float, study: int, round: int) -> list[dict[str, float]]:
    """`number` (a power of two) Sobol points, uniform in the logarithm, rounded to two digits to keep configs readable.

    The points of study k in round r are scrambled with the seed 3 k + r, over the ranges widened r times.
    """
    from scipy.stats import qmc

    assert 0 <= round <= LAST_ROUND  # so that no two studies share a seed
    low, high = zip(*(map(math.log, bounds) for bounds in widened(ranges, widen, round).values()), strict=True)
    sampler = qmc.Sobol(len(ranges), scramble=True, rng=(LAST_ROUND + 1) * study + round)
    scaled = qmc.scale(sampler.random_base2(number.bit_length() - 1), low, high)
    return [{key: float(f"{math.exp(x):.2g}") for key, x in zip(ranges, point, strict=True)} for point in scaled]


def are_points_of(ranges: Ranges, widen: float, round: int, tried: Sequence[Mapping[str, float]]) -> bool:
    """Whether these rates can be `points` of a round, of any study: each of as many slices of each range, equal in the
    logarithm, has one of them, up to rounding."""
    if any(rates.keys() != ranges.keys() for rates in tried):
        return False
    for key, (low, high) in widened(ranges, widen, round).items():
        slice_width = math.log(high / low) / len(tried)
        for number, value in enumerate(sorted(rates[key] for rates in tried)):
            distance = math.log(value / low) - number * slice_width if value > 0 else math.inf
            if not -_ROUNDING <= distance <= slice_width + _ROUNDING:
                return False
    return True


def edges(best: Mapping[str, float], tried: Sequence[Mapping[str, float]]) -> dict[str, str]:
    """Key -> `smallest` or `largest`, where the best value is the smallest or largest of all values that were tried.

    A better value may lie beyond it.
    """
    at_edge = {}
    for key, value in best.items():
        values = [rates[key] for rates in tried]
        if value in (min(values), max(values)):
            at_edge[key] = "smallest" if value == min(values) else "largest"
    return at_edge


def edge_text(best: Mapping[str, float], at_edge: Mapping[str, str]) -> str:
    """`the best optimizer.lr, 0.2, is the largest tried`."""
    return ", and ".join(f"the best {key}, {best[key]:g}, is the {which} tried" for key, which in at_edge.items())

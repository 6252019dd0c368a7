"""Lengths as configs write them: a budget of `100ep`, `100000steps` or `12e9tokens`, a warm-up of `5ep`, `500steps` or
`0.05`."""

from __future__ import annotations

import math
import re

from novobench.errors import ConfigError, suggestion

_BUDGET = re.compile(r"(?P<number>[0-9]+(?:\.[0-9]+)?(?:e[0-9]+)?)(?P<unit>[a-z]+)")
_UNITS = ("ep", "steps", "tokens")


def parse_budget(text: str) -> tuple[float, str]:
    """`"100ep"` -> `(100.0, "ep")`; units are `ep` (epochs), `steps` (updates) and `tokens`."""
    match = _BUDGET.fullmatch(text.strip())
    if not match or match["unit"] not in _UNITS or math.isinf(float(match["number"])):
        hint = suggestion(match["unit"], list(_UNITS)) if match and match["unit"] not in _UNITS else ""
        raise ConfigError(
            f"budget '{text}' is not a number with a unit: write e.g. 100ep, 100000steps or 12e9tokens.{hint}"
        )
    return float(match["number"]), match["unit"]


_SHARE = re.compile(r"(?P<part>[0-9]+)/(?P<whole>[0-9]+)")


def parse_warmup(text: str) -> tuple[float, str]:
    """`"5ep"` -> `(5.0, "ep")`, `"500steps"` -> `(500.0, "steps")`; `"0.05"` or `"5/90"` -> `(0.05, "share")`, of all
    updates."""
    text = text.strip()
    if match := _SHARE.fullmatch(text):
        return rounded_share(int(match["part"]), int(match["whole"])), "share"
    match = _BUDGET.fullmatch(text)
    if match and match["unit"] in ("ep", "steps") and math.isfinite(float(match["number"])):
        return float(match["number"]), match["unit"]
    try:
        return float(text), "share"
    except ValueError:
        raise ConfigError(
            f"'schedule.warmup' is '{text}' and must be epochs, updates or a share of the run: write e.g. 5ep, "
            "500steps, 0.05 or 5/90."
        ) from None


def rounded_share(part: float, whole: float) -> float:
    """A share of the run to ten decimals: cell ids contain it, so it must not depend on how a quotient is computed."""
    return round(part / whole, 10) if whole else math.inf

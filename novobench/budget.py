"""How long a training is, as configs write it: `100ep`, `100000steps`, `12e9tokens`."""

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

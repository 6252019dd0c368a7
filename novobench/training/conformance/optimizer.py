"""What training relies on in an optimizer: checks that every entry of the registry passes.

`novobench check optimizer` runs them on a class of one's own.
"""

from __future__ import annotations

from novobench.training.conformance.checks import Check
from novobench.training.conformance.forms import COMPILED as COMPILED
from novobench.training.conformance.forms import FORMS
from novobench.training.conformance.state import STATE
from novobench.training.conformance.steps import STEPS

CHECKS: tuple[Check, ...] = (*STEPS, *STATE, *FORMS)

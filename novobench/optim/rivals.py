"""Options and entries of optimizers of other packages, which novobench's extra `rivals` installs."""

from __future__ import annotations

from novobench.optim.entry import OptimizerEntry

RIVALS: tuple[OptimizerEntry, ...] = ()

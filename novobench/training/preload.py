"""What the forkserver imports once for all trainings.

A failure would end it with a traceback, so it waits for the first training, which can tell (`entry`).
"""

import contextlib

with contextlib.suppress(Exception):
    from novobench.training import worker  # noqa: F401

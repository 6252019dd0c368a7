"""What `entry.main` does, for cells that take their time or hang."""

import threading
import time


def slow_set_up(*words) -> None:
    _main(lambda: [time.sleep(0.1) for _ in range(60)], "ImageData", "setup", words)


def slow_evaluation(*words) -> None:
    _main(lambda: time.sleep(1.0), "ImageTask", "evaluation_step", words)


def hanging_set_up(*words) -> None:
    _main(threading.Event().wait, "ImageData", "setup", words)


def hanging_batch(*words) -> None:
    _main(threading.Event().wait, "ImageTask", "training_step", words)


def _main(first, owner, name, words) -> None:
    from novobench.tasks.image import task
    from novobench.training import worker

    original = getattr(getattr(task, owner), name)

    def later(*arguments):
        first()
        return original(*arguments)

    setattr(getattr(task, owner), name, later)
    worker.main(*words)

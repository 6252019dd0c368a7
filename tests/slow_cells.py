"""`worker.train` for cells that are slow or hang. Functions of a module, so that they can be sent to a process."""

import threading
import time


def slow_setup(*arguments) -> None:
    _train(lambda: [time.sleep(0.1) for _ in range(60)], "ImageData", "setup", arguments)


def slow_evaluation(*arguments) -> None:
    _train(lambda: time.sleep(1.0), "ImageTask", "evaluation_step", arguments)


def hanging_setup(*arguments) -> None:
    _train(threading.Event().wait, "ImageData", "setup", arguments)


def hanging_batch(*arguments) -> None:
    _train(threading.Event().wait, "ImageTask", "training_step", arguments)


def _train(delay, owner, method, arguments) -> None:
    """Train with `delay` before each call of a method of the image task."""
    from novobench.tasks.image import task
    from novobench.training import worker

    original = getattr(getattr(task, owner), method)

    def delayed(*inputs):
        delay()
        return original(*inputs)

    setattr(getattr(task, owner), method, delayed)
    worker.train(*arguments)

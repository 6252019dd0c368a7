"""An optimizer with which a training fails, in the way that its option says, at its fifth step."""

import ctypes
import os
import signal
import sys
import threading
import time

import torch

from novobench.errors import DataError


class Faulty(torch.optim.SGD):
    def __init__(self, params, lr, weight_decay=0.0, fault="none", rank=""):
        """`rank`: only there, of several processes."""
        super().__init__(params, lr=lr, weight_decay=weight_decay)
        self.fault, self.steps = fault, 0
        self.here = str(rank) in ("", os.environ.get("RANK"))

    def step(self, closure=None):
        loss = super().step(closure)
        self.steps += 1
        if self.steps == 5 and self.here:
            if self.fault.startswith("SIG"):
                os.kill(os.getpid(), getattr(signal, self.fault))
                time.sleep(5)
            else:
                getattr(self, self.fault)()
        return loss

    def none(self):
        pass

    def crash(self):
        ctypes.string_at(0)

    def leave(self):
        sys.exit(0)

    def leave_at_once(self):
        os._exit(0)

    def bad_data(self):
        raise DataError("data.path: picture 7 is no picture.")

    def odd_text(self):
        print("printed \udcff", flush=True)
        raise ValueError("first line\nsecond \x1b[31mred\udcff " + 200_000 * "long ")

    def deep(self):
        self.deep()

    def too_large(self):
        torch.empty(2**60)

    def hang(self):
        threading.Event().wait()

    def hang_computing(self):
        ctypes.PyDLL(None).sleep(1000)  # as compiled code that never lets another thread run

    def linger(self):
        threading.Thread(target=threading.Event().wait).start()

    def cleanup_that_fails(self):
        class Odd:
            def __del__(self):
                raise ValueError("in __del__")

        Odd()
        threading.excepthook = lambda *_: None
        thread = threading.Thread(target=self.bad_data)
        thread.start()
        thread.join()

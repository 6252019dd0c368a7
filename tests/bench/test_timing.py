"""The device's part of a step is separated from the host's, on a simulated device whose costs are fixed."""

from types import SimpleNamespace

import pytest
import torch

from novobench.bench import timing


class Device:
    """A host and a device with their own clocks, in milliseconds; the device has a queue of 1,024 launches."""

    def __init__(self):
        self.now = 0.0
        self.done: list[float] = []
        device = self

        class Event:
            def __init__(self, enable_timing):
                assert enable_timing

            def record(self):
                self.at = device.idle_at()

            def query(self):
                return device.now >= self.at

            def elapsed_time(self, later):
                assert later.query()
                assert self.query()
                return later.at - self.at

        self.Event = Event

    def idle_at(self):
        return max(self.now, self.done[-1] if self.done else 0.0)

    def launch(self, milliseconds):
        if len(self.done) >= 1024:
            self.now = max(self.now, self.done[-1024])
        self.done.append(self.idle_at() + milliseconds)

    def synchronize(self, device=None):
        self.now = self.idle_at()

    def _sleep(self, cycles):
        self.launch(cycles / 1_700_000)


@pytest.fixture
def device(monkeypatch):
    device = Device()
    for name in ("Event", "synchronize", "_sleep"):
        monkeypatch.setattr(torch.cuda, name, getattr(device, name))
    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: device.now / 1e3))
    return device


def measured(device, host, kernels, milliseconds, wait=False):
    def step():
        for _ in range(kernels):
            device.now += host / kernels
            device.launch(milliseconds / kernels)
        if wait:
            device.synchronize()

    timer = timing.Timer(torch.device("cuda"))
    return timer.times(step, timer.pace(step))


@pytest.mark.parametrize(
    ("host", "kernels", "milliseconds"), [(0.05, 2, 3.0), (3.0, 2, 0.2), (0.3, 12, 0.2), (60.0, 500, 8.0)]
)
def test_the_devices_part_does_not_depend_on_the_hosts(device, host, kernels, milliseconds):
    times = measured(device, host, kernels, milliseconds)
    assert times.device == pytest.approx(milliseconds, rel=1e-6)
    assert times.host == pytest.approx(host, rel=1e-6)
    assert times.wall >= max(host, milliseconds)


def test_a_step_that_waits_for_the_device_has_no_device_time(device):
    times = measured(device, 0.5, 10, 2.0, wait=True)
    assert times.device is None
    assert times.wall == pytest.approx(times.host)


def test_a_step_with_more_launches_than_the_queue_holds_has_no_device_time(device):
    assert measured(device, 10.0, 3000, 8.0).device is None


def test_on_a_cpu_device_and_wall_time_are_equal():
    timer = timing.Timer(torch.device("cpu"))
    times = timer.times(lambda: sum(range(1000)), timer.pace(lambda: None))
    assert times.device == times.wall > 0
    assert times.host <= times.wall

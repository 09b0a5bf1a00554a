"""What NVML says decides when an engine may start, with a fake in its place."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest

from hubgate.backend.engines import gpus
from hubgate.backend.engines.gpus import (
    Memory,
    NoMemoryError,
    Nvml,
    Turns,
    UnknownDeviceError,
    slots,
    unknown,
)
from tests.fakes.clock import Clock
from tests.fakes.running_proxy import eventually

GIB = 2**30


class FakeGpus:
    """Devices with memory that a test sets; each look is counted."""

    def __init__(self, **free: int | None) -> None:
        self.free = {name.lstrip("_"): size for name, size in free.items()}
        self.looks = 0

    def count(self) -> int:
        return len(self.free)

    def memory(self, device: str) -> Memory | None:
        self.looks += 1
        if device not in self.free:
            raise UnknownDeviceError(device)
        size = self.free[device]
        return None if size is None else Memory(size * GIB, 80 * GIB)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hubgate.backend.engines.gpus.POLL", 0.001)


async def _looked(fake: FakeGpus, more: int = 3) -> None:
    """Wait until the driver was asked several times more."""
    end = fake.looks + more

    async def enough() -> bool:
        return fake.looks >= end

    await eventually(enough)


async def test_an_engine_waits_until_its_share_is_really_free() -> None:
    """A drained neighbour's memory comes back some time after its process is gone."""
    fake = FakeGpus(_0=10)
    turns = Turns(fake, [("0",)], Clock())
    waiting = asyncio.create_task(turns.take(("0",), 0.92))
    await _looked(fake)
    assert not waiting.done()
    fake.free["0"] = 73  # a little less than 0.92 of 80
    await _looked(fake)
    assert not waiting.done()
    fake.free["0"] = 74
    (await waiting)()


async def test_the_wait_is_bounded_and_leaves_the_turn_to_others() -> None:
    """Somebody else's process may hold the memory for ever."""
    fake, clock = FakeGpus(_0=10), Clock()
    turns = Turns(fake, [("0",)], clock)
    waiting = asyncio.create_task(turns.take(("0",), 0.92))
    await _looked(fake)
    clock.advance(gpus.PATIENCE + 1)
    with pytest.raises(NoMemoryError, match="did not become free"):
        await waiting
    (await turns.take(("0",), 0.1))()


async def test_one_engine_at_a_time_starts_on_a_device() -> None:
    """Else each would count the other's memory as its own; on another device it may go on."""
    fake = FakeGpus(_0=80, _1=80)
    turns = Turns(fake, [("0",), ("1",)], Clock())
    end = await turns.take(("0",), 0.4)
    second = asyncio.create_task(turns.take(("0", "1"), 0.4))
    other = await turns.take(("1",), 0.4)
    (await turns.take((), 0.4))()
    other()
    (await turns.take(("1",), 0.4))()
    assert fake.looks == 3, "the second one has not even looked"
    assert not second.done()
    end()
    end()  # ending it twice is harmless
    (await second)()


async def test_whoever_gives_up_waiting_blocks_nobody() -> None:
    """A start may be called off at any moment."""
    fake = FakeGpus(_0=1)
    turns = Turns(fake, [("0",)], Clock())
    waiting = asyncio.create_task(turns.take(("0",), 0.9))
    await _looked(fake)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    (await turns.take(("0",), 0.01))()


@pytest.mark.parametrize("found", [None, FakeGpus(_0=None)])
async def test_where_nobody_tells_of_memory_nothing_is_checked(found: FakeGpus | None) -> None:
    """On the CPU, and on GPUs that share the processor's memory."""
    (await Turns(found, [("0",)], Clock()).take(("0",), 0.92))()


def test_the_devices_of_each_slot() -> None:
    """Configured, inherited, all there are, or not known."""
    two = FakeGpus(_0=80, _1=80)
    assert slots(["0,1", "2"], 2, {}, None) == (("0", "1"), ("2",))
    assert slots(None, 2, {}, two) == (("0", "1"), ("0", "1"))
    assert slots(None, 1, {"CUDA_VISIBLE_DEVICES": "GPU-a"}, two) == (("GPU-a",),)
    assert slots(None, 2, {}, None) == ((), ())


def test_a_device_that_the_driver_does_not_know_is_a_fault() -> None:
    """All of them at once, each once; without a driver there is nobody to ask."""
    said = unknown([("0", "7"), ("7", "GPU-x")], FakeGpus(_0=80))
    assert ["7" in said[0], "GPU-x" in said[1], len(said)] == [True, True, 2]
    assert unknown([("7",)], None) == []


def test_nvml_is_asked_by_index_and_by_uuid(monkeypatch: pytest.MonkeyPatch) -> None:
    """As NVML itself answers: known, unknown, and without a memory of its own."""

    def by_index(index: int) -> str:
        if index > 0:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_INVALID_ARGUMENT)
        return "handle"

    def by_uuid(uuid: str) -> str:
        if uuid != "GPU-known":
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return "shared"

    def info(handle: str) -> Any:
        if handle == "shared":
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return SimpleNamespace(free=1, total=2)

    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByIndex", by_index)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByUUID", by_uuid)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetMemoryInfo", info)
    nvml = Nvml()
    assert nvml.memory("0") == Memory(1, 2)
    assert nvml.memory("GPU-known") is None
    for device in ("1", "GPU-other"):
        with pytest.raises(UnknownDeviceError):
            nvml.memory(device)


def test_a_machine_without_a_driver_has_no_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """And one with a driver and no device neither."""

    def missing() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", missing)
    assert gpus.find() is None
    monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetCount", lambda: 0)
    assert gpus.find() is None
    monkeypatch.setattr(pynvml, "nvmlDeviceGetCount", lambda: 2)
    found = gpus.find()
    assert found is not None
    assert found.count() == 2

"""What the driver says of the GPUs (NVML), and the turn of each engine that starts on one.

vLLM refuses to start unless its share of the device's memory is free (vllm/v1/worker/utils.py,
`request_memory`), and a drained neighbour's memory is free only some time after its process is gone.
Two engines that start on one device at once count each other's memory as their own.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import pynvml
import structlog

from hubgate.backend.gpu_placement import Devices, split

PATIENCE = 60.0  # seconds that a device gets until its memory is free
POLL = 0.25  # seconds

log = structlog.get_logger()


class UnknownDeviceError(LookupError):
    """The driver knows no such device."""


class NoMemoryError(Exception):
    """A device's memory did not become free. The text is fit for a caller's eyes."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Of one device, in bytes."""

    free: int
    total: int


class Gpus(Protocol):
    """The devices of this machine, named by index or by full UUID (`GPU-…`, `MIG-…`)."""

    def count(self) -> int:
        """How many there are."""

    def memory(self, device: str) -> Memory | None:
        """`None` if the driver does not tell. Raises `UnknownDeviceError`."""


class Nvml:
    """NVIDIA's own library. It counts in PCI order, so engines get CUDA_DEVICE_ORDER=PCI_BUS_ID."""

    def count(self) -> int:
        return int(pynvml.nvmlDeviceGetCount())

    def memory(self, device: str) -> Memory | None:
        try:
            if device.isdecimal():
                handle = pynvml.nvmlDeviceGetHandleByIndex(int(device))
            else:
                handle = pynvml.nvmlDeviceGetHandleByUUID(device)
        except (pynvml.NVMLError_NotFound, pynvml.NVMLError_InvalidArgument):
            raise UnknownDeviceError(device) from None
        try:
            found = pynvml.nvmlDeviceGetMemoryInfo(handle)
        except (pynvml.NVMLError_NotSupported, pynvml.NVMLError_NoPermission):
            return None  # its memory is the processor's as well, or not ours to see
        return Memory(int(found.free), int(found.total))


def find() -> Gpus | None:
    """NVML, where there is a driver and a device; `None` on any other machine."""
    try:
        pynvml.nvmlInit()
        gpus = Nvml()
        return gpus if gpus.count() else None
    except pynvml.NVMLError:
        return None


def slots(
    devices: Sequence[str] | None, count: int, environ: Mapping[str, str], gpus: Gpus | None
) -> tuple[Devices, ...]:
    """The devices of each slot; an empty tuple where they are not known."""
    if devices is not None:
        return tuple(split(device) for device in devices[:count])
    if gpus is None:
        return ((),) * count
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    every = tuple(str(index) for index in range(gpus.count())) if visible is None else split(visible)
    return (every,) * count


def unknown(slots: Sequence[Devices], gpus: Gpus | None) -> list[str]:
    """A fault for each device that the driver does not know."""
    if gpus is None:
        return []
    found = []
    for device in dict.fromkeys(device for slot in slots for device in slot):
        try:
            gpus.memory(device)
        except UnknownDeviceError:
            found.append(f"device {device!r} is not known to the driver (NVML); it has {gpus.count()}")
    return found


class Turns:
    """One engine at a time may start on a device, once vLLM's share of the memory is really free."""

    def __init__(self, gpus: Gpus | None, slots: Sequence[Devices], clock: Callable[[], float]) -> None:
        self.slots = slots
        self._gpus = gpus
        self._clock = clock
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def take(self, devices: Devices, share: float) -> Callable[[], None]:
        """Wait for it; what comes back ends the turn. Raises `NoMemoryError` after `PATIENCE`."""
        held: list[asyncio.Lock] = []

        def give_back() -> None:
            while held:
                held.pop().release()

        try:
            for device in sorted(devices):  # in one order, so that nobody waits in a circle
                await self._locks[device].acquire()
                held.append(self._locks[device])
            end = self._clock() + PATIENCE
            for device in devices:
                await self._until_free(device, share, end)
        except BaseException:
            give_back()
            raise
        return give_back

    async def _until_free(self, device: str, share: float, end: float) -> None:
        while self._gpus is not None:
            try:
                memory = await asyncio.to_thread(self._gpus.memory, device)
            except (UnknownDeviceError, pynvml.NVMLError) as error:
                log.warning("gpu.unreadable", device=device, error=str(error))
                return  # vLLM looks for itself
            if memory is None or memory.free >= share * memory.total:
                return
            if self._clock() >= end:
                log.error("gpu.not_free", device=device, free=memory.free, total=memory.total, wanted=share)
                raise NoMemoryError("the memory of its GPU did not become free")
            await asyncio.sleep(POLL)

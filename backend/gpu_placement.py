"""Which devices an engine gets, and whether what was configured can ever run on them. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hubgate.backend.vllm_args import Value

SHARE = 0.92  # of a device's memory, where no flag says otherwise (vllm/config/cache.py)
_PARALLEL = ("tensor-parallel-size", "pipeline-parallel-size", "data-parallel-size")

Devices = tuple[str, ...]  # indices as NVML counts them, or full UUIDs


@dataclass(frozen=True, slots=True)
class Need:
    """What a model's flags ask of its slot. `devices` None: its workers may run on other machines."""

    who: str
    devices: int | None
    share: float


def need(who: str, args: Mapping[str, Value]) -> Need:
    """Read the flags of one model. Raises `ValueError` for sizes that are none."""
    share = args.get("gpu-memory-utilization", SHARE)
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
        raise ValueError(f"{who}: gpu-memory-utilization must be a number above 0, at most 1")
    count = 1
    for name in _PARALLEL:
        size = args.get(name, 1)
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ValueError(f"{who}: {name} must be a whole number, at least 1")
        count *= size
    elsewhere = args.get("distributed-executor-backend") == "ray" or "nnodes" in args
    return Need(who, None if elsewhere else count, float(share))


def split(devices: str) -> Devices:
    """`CUDA_VISIBLE_DEVICES` as a tuple."""
    return tuple(device.strip() for device in devices.split(",") if device.strip())


def used(slot: Devices, asked: Need) -> Devices:
    """The devices that an engine really takes: the first ones of its slot."""
    return slot if asked.devices is None else slot[: asked.devices]


def fitting(slots: Sequence[Devices], asked: Need) -> list[int]:
    """The slots with devices enough, those with the fewest first; an empty slot is one not known."""
    count = asked.devices or 0
    fit = [(len(slot), index) for index, slot in enumerate(slots) if not slot or len(slot) >= count]
    return [index for _, index in sorted(fit)]


def faults(
    slots: Sequence[Devices], preload: Sequence[Need], on_demand: Sequence[Need], asleep: int = 0
) -> list[str]:
    """Why some of these models could never run in these slots; empty if nothing speaks against it.

    `asleep` is how many engines may sleep beside them, each with a little of its devices' memory.
    """
    every = [*preload, *on_demand]
    found = [
        f"{asked.who} wants {asked.devices} devices at once, and no slot has as many"
        for asked in every
        if not fitting(slots, asked)
    ]
    width = max((asked.devices or 1 for asked in every), default=1)
    for device in dict.fromkeys(device for slot in slots for device in slot):
        sharing = sum(device in slot[:width] for slot in slots)
        total = sum(_largest(sharing, len(slots), preload, on_demand))
        if sharing > 1 and total > 1 + 1e-9:
            found.append(
                f"device {device} is shared by {sharing} engines, which want {total:.2f} of its memory "
                "together: lower gpu-memory-utilization, or give each engine devices of its own"
            )
        elif asleep and total > 1 - 1e-9:
            found.append(
                f"device {device} has no memory left for engines that sleep: lower gpu-memory-utilization"
            )
    return found


def _largest(count: int, slots: int, preload: Sequence[Need], on_demand: Sequence[Need]) -> list[float]:
    """The largest shares that `count` engines may want at the same time.

    A preloaded model runs once and stays, so only the slots left over are for those on demand.
    """
    left = max(slots - len(preload), 0)
    most = max((asked.share for asked in on_demand), default=0.0)
    return sorted([*(asked.share for asked in preload), *([most] * left)], reverse=True)[:count]

"""Plays an attack from a process of its own, so that what it does is not in the way of who measures."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context

from tests.hostile.attack import Attack
from tests.hostile.catalogue import BY_ID
from tests.hostile.manners import SILENCE, Wire
from tests.hostile.requests import Sender

Answers = Counter[int]
"""Status → how many requests were answered with it; `SILENCE` where a connection ended without an answer."""


@dataclass(frozen=True, slots=True)
class Attacker:
    """Who plays, and where from: bounds for one address or one caller meet nobody else."""

    address: str
    token: str
    port: int  # of the proxy
    shas: Sequence[str]  # of what was made at the demo Hub for this


def play(attack_id: str, who: Attacker) -> Answers:
    """Send all requests of an attack, so many at once, and leave when its time is over."""
    return asyncio.run(send(BY_ID[attack_id], who))


async def send(attack: Attack, who: Attacker) -> Answers:
    """The same, on a loop that is there."""
    seen: list[int] = []
    senders = (Sender(who.token, number, who.shas) for number in range(attack.count))
    lanes = [_lane(attack, who, senders, seen) for _ in range(min(attack.at_once, attack.count))]
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(attack.seconds):
            await asyncio.gather(*lanes)
    return Counter(seen)


async def _lane(attack: Attack, who: Attacker, senders: Iterator[Sender], seen: list[int]) -> None:
    """Take the next request while there is one: a connection each."""
    for sender in senders:
        try:
            wire = await Wire.to(who.port, who.address, attack.receives)
        except OSError:
            seen.append(SILENCE)
            continue
        try:
            await attack.manner(wire, attack.make(sender), seen)
        finally:
            wire.leave()


@contextmanager
def elsewhere() -> Iterator[ProcessPoolExecutor]:
    """A process that plays."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        yield pool

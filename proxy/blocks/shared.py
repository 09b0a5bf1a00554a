"""What proxies that share a list of lock-outs need of the place where it lies."""

from collections.abc import Iterable, Mapping
from typing import Protocol

import msgspec

from hubgate.proxy.auth.block import Block


class AwayError(Exception):
    """The place cannot be reached, or does not do as it should. Repeats nothing of what was sent."""


class Version(msgspec.Struct, frozen=True):
    """Tells one state of the list from another; of one generation, the larger number is the later one."""

    generation: str  # random, made with the list
    number: int


class Snapshot(msgspec.Struct, frozen=True):
    """The list at one moment; without a version there is none yet, or no more."""

    version: Version | None
    blocks: Mapping[str, Block]


class SharedBlocks(Protocol):
    """A list that several proxies read and write. Each method raises `AwayError`."""

    async def version(self) -> Version | None:
        """Of the list as it is now."""

    async def read(self) -> Snapshot:
        """The whole list."""

    async def put(self, blocks: Iterable[Block], after: int) -> Snapshot:
        """Add these, or replace what is there; the number of the new version is beyond `after`."""

    async def drop(self, who: str) -> Snapshot:
        """Take one away."""

    async def forget(self, blocks: Iterable[Block]) -> None:
        """Take away those that still are as given, which nobody needs to hear of: their time has passed."""

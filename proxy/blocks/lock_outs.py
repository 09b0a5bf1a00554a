"""Locks callers out and lets them in again, here and, with a shared list, on every proxy that reads it.

In force first, stored second: a lock-out counts from the next request on, whatever fails after that. Letting
somebody in is the other way round. So whatever is away or full, nobody gets in who should not:

- Without the shared list, what is known stays in force; a new lock-out counts on this proxy, and goes into
  the list when it is back. Nobody is let in meanwhile.
- A shared list that lost something (it is empty, another one, or behind what was read of it) gets back what
  is known here: nobody is let in by its loss. Who was let in since its last backup is locked out again.
- What is known lies in a file too, and is in force again before a restarted proxy listens.
- A proxy that has read neither the shared list nor such a file serves nobody.
"""

import asyncio
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, Never, Protocol

import structlog

from hubgate.proxy.auth.block import MAX_BLOCKS, Block
from hubgate.proxy.auth.blocklist import Blocklist
from hubgate.proxy.blocks.block_file import BlockFile, Kept
from hubgate.proxy.blocks.messages import Blocks, Change
from hubgate.proxy.blocks.shared import AwayError, SharedBlocks, Snapshot, Version

POLL_SECONDS: Final = 0.5  # between two looks at the shared list: with the round trip less than a second
# Seconds that a lock-out stays in the shared list after its time, for proxies whose clocks are late.
MARGIN: Final = 60.0

_NOT_WRITTEN: Final = "its file cannot be written, so a restart would forget it; the log says why"
_NOT_AUDITED: Final = "the audit trail cannot be written right now; the record waits for it"

log = structlog.get_logger("blocks")


class Trail(Protocol):
    """What is needed of the audit, an `AuditWriter`."""

    def admits(self) -> bool: ...
    def record(self, event: str, fields: Mapping[str, Any]) -> None: ...


class LockOuts:
    """Changes a proxy's `Blocklist`. Call `start` before the proxy listens, then let `run` go on."""

    def __init__(
        self,
        blocklist: Blocklist,
        file: BlockFile,
        shared: SharedBlocks | None,
        audit: Trail,
        *,
        cut: Callable[[], int],
        now: Callable[[], float],
    ) -> None:
        """`cut` ends the requests under way of everybody who is locked out; it gives their number."""
        self._blocklist = blocklist
        self._file = file
        self._shared = shared
        self._audit = audit
        self._cut = cut
        self._now = now
        self._turn = asyncio.Lock()  # one conversation with the shared list and the file at a time
        self._seen: Version | None = None  # of the shared list
        self._unstored: set[str] = set()  # who is locked out here alone so far
        self._revision = 0  # how often the list in force, or what is known of the shared one, has changed
        self._written = 0  # the revision that is in the file
        self._blocklist.known = False  # until there is a list to go by, be it an empty one
        self._fault = ""  # of the shared list
        self._file_fault = ""
        self._error = ""  # what `look` raised last, by its type

    @property
    def unread(self) -> bool:
        """Whether neither the shared list nor a file of an earlier run has said yet who is locked out."""
        return not self._blocklist.known

    async def start(self) -> None:
        """Take over what is known of earlier runs and other proxies. Raises `BlockFileError`."""
        kept = self._file.read()
        if kept is not None:
            self._blocklist.replace({block.who: block for block in kept.blocks})
            self._seen, self._unstored = kept.seen, set(kept.unstored) & self._blocklist.blocks.keys()
        self._blocklist.known = self._shared is None or (kept is not None and kept.known)
        await self._try()

    async def run(self) -> Never:
        """Follow the shared list, and end what has had its time."""
        while True:
            await asyncio.sleep(POLL_SECONDS)
            await self._try()

    async def close(self) -> None:
        """Write what is not in the file yet, once `run` has ended."""
        async with self._turn:
            await self._write()

    async def look(self) -> None:
        """Do once what `run` does again and again."""
        async with self._turn:
            self._expire()
            await self._follow()
            await self._write()

    async def _try(self) -> None:
        """Look, and go on whatever comes of it: what is known stays in force.

        The end of this would be the end of the proxy, and of every one that reads the same list.
        """
        try:
            await self.look()
        except Exception as raised:  # noqa: BLE001 - told by its type alone: it may repeat what was read
            error = type(raised).__name__
            if error != self._error:
                log.error("the lock-outs cannot be followed; what is known stays in force", error=error)  # noqa: TRY400
            self._error = error
        else:
            self._error = ""

    def listed(self) -> Blocks:
        """Who is locked out now, the latest first."""
        now = self._now()
        blocks = [block for block in self._blocklist.blocks.values() if not block.over(now)]
        return Blocks(
            tuple(sorted(blocks, key=lambda block: block.since, reverse=True)), self._is_shared, self._fault
        )

    def full(self, who: str) -> bool:
        """Whether there is no place for somebody who is not in the list yet."""
        return who not in self._blocklist.blocks and len(self._blocklist.blocks) >= MAX_BLOCKS

    async def add(self, who: str, seconds: float | None, reason: str, by: str) -> Change:
        """Lock somebody out, who is as `parse_who` gives it, in the place of what was said of them before."""
        now = self._now()
        block = Block(who, now, None if seconds is None else now + seconds, by, reason)
        if self._shared is not None:
            self._unstored.add(who)
        ended = self._apply({**self._blocklist.blocks, who: block})
        revision = self._revision
        async with self._turn:
            await self._follow()
            await self._write()
        faults = []
        if who in self._unstored and self._blocklist.blocks[who] is block:  # no later command replaced it
            faults.append(f"in force on this proxy alone: {self._fault}; the others follow when it can be")
        elif self._shared is None and self._written < revision:
            faults.append(f"in force, but {_NOT_WRITTEN}")
        if not self._audit.admits():
            faults.append(_NOT_AUDITED)
        return Change(block, self._is_shared, ended, fault="; ".join(faults))

    async def lift(self, who: str, by: str) -> Change | None:
        """Let somebody in again; `None` if nobody locked them out by this list."""
        async with self._turn:
            self._expire()
            await self._follow()
            block = self._blocklist.blocks.get(who)
            if block is None:
                return None
            snapshot: Snapshot | None = None
            if self._shared is not None:
                try:
                    snapshot = await self._shared.drop(who)
                except AwayError as error:
                    self._lost(error)
                    return Change(block, shared=True, fault=f"still locked out: {self._fault}")
            self._unstored.discard(who)
            self._apply({name: kept for name, kept in self._blocklist.blocks.items() if name != who}, by)
            revision = self._revision
            if snapshot is not None:
                self._adopt(snapshot)
            await self._write()
        fault = ""
        if self._shared is None and self._written < revision:
            fault = (
                "let in, but its file cannot be written, so a restart would lock out again; the log says why"
            )
        return Change(block, self._is_shared, fault=fault)

    @property
    def _is_shared(self) -> bool:
        return self._shared is not None

    # The list in force, and what the trail is told of it.

    def _apply(self, blocks: dict[str, Block], by: str = "") -> int:
        """Go by these from now on; gives how many requests that ended. `by` is who let somebody in."""
        before, now = self._blocklist.blocks, self._now()
        if blocks == before:
            return 0
        self._blocklist.replace(blocks)
        self._revision += 1
        for who, block in before.items():
            if who not in blocks:
                over = block.over(now)
                self._record("block.expired" if over else "block.lifted", block, "" if over else by)
        added = [block for who, block in blocks.items() if before.get(who) != block]
        for block in added:
            self._record("block.added", block, block.by)
        return self._cut() if added else 0

    def _expire(self) -> None:
        now = self._now()
        left = {who: block for who, block in self._blocklist.blocks.items() if not block.over(now)}
        self._unstored &= left.keys()
        self._apply(left)

    def _record(self, event: str, block: Block, by: str) -> None:
        told: dict[str, Any] = {"who": block.who, "since": _iso(block.since)}
        told |= {"until": _iso(block.until)} if block.until is not None else {}
        told |= {"by": by} if by else {}
        told |= {"reason": block.reason} if block.reason else {}
        self._audit.record(event, told)

    # The shared list. Only whoever has the turn gets here.

    async def _follow(self) -> None:
        """Have the shared list say what is in force here, and tell it what it does not know."""
        if self._shared is None:
            return
        try:
            snapshot = await self._exchange(self._shared)
        except AwayError as error:
            self._lost(error)
            return
        if self._fault:
            self._fault = ""
            log.info("the list of lock-outs is shared again")
        if snapshot is not None:
            self._adopt(snapshot)
        if not self._blocklist.known:
            self._blocklist.known = True
            self._revision += 1  # so that a restart goes by a file, be it an empty list

    async def _exchange(self, shared: SharedBlocks) -> Snapshot | None:
        """The shared list, if it is another one than was seen last. Raises `AwayError`."""
        blocks = self._blocklist.blocks
        version = await shared.version()
        lost = _is_behind(version, self._seen) and blocks
        if version == self._seen and not self._unstored and not lost:
            return None
        snapshot = await shared.read()
        stored = [
            block
            for who, block in blocks.items()
            if who in self._unstored or (lost and _is_stronger(block, snapshot.blocks.get(who)))
        ]
        if stored or lost:
            snapshot = await shared.put(stored, after=self._seen.number if self._seen else 0)
        for block in stored:
            if self._blocklist.blocks.get(block.who) is block:  # and nobody said otherwise meanwhile
                self._unstored.discard(block.who)
        over = self._now() - MARGIN
        await shared.forget([block for block in snapshot.blocks.values() if block.over(over)])
        return snapshot

    def _adopt(self, snapshot: Snapshot) -> None:
        now = self._now()
        blocks = {who: block for who, block in snapshot.blocks.items() if not block.over(now)}
        for who in self._unstored:
            blocks[who] = self._blocklist.blocks[who]
        if self._seen != snapshot.version:
            self._seen = snapshot.version
            self._revision += 1
        self._apply(blocks)

    def _lost(self, error: AwayError) -> None:
        if not self._fault:
            log.warning("the list of lock-outs is not shared; what is known stays in force", error=str(error))
        self._fault = f"Redis cannot be used ({error})"

    async def _write(self) -> None:
        """Write the file if something changed, or try again."""
        revision = self._revision
        if self._written == revision:
            return
        blocklist = self._blocklist
        kept = Kept(
            tuple(blocklist.blocks.values()), self._seen, tuple(sorted(self._unstored)), blocklist.known
        )
        try:
            await asyncio.to_thread(self._file.write, kept)
        except OSError as error:
            reason = error.strerror or type(error).__name__
            if reason != self._file_fault:
                log.error("the file of lock-outs cannot be written", file=str(self._file.path), error=reason)  # noqa: TRY400
            self._file_fault = reason
        else:
            self._written, self._file_fault = revision, ""


def _is_behind(version: Version | None, seen: Version | None) -> bool:
    """Whether a list cannot hold all that was read of it, or was never read."""
    if version is None or seen is None:
        return True
    return version.generation != seen.generation or version.number < seen.number


def _is_stronger(ours: Block, theirs: Block | None) -> bool:
    """Whether ours lasts longer."""
    if theirs is None or theirs.until is None:
        return theirs is None
    return ours.until is None or ours.until > theirs.until


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")

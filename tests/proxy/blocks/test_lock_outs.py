"""What a proxy makes of a shared list that is away, loses what it had, or is changed by others."""

import asyncio
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from hubgate.proxy.auth.block import MAX_BLOCKS, Block
from hubgate.proxy.auth.blocklist import Blocklist
from hubgate.proxy.blocks import lock_outs
from hubgate.proxy.blocks.block_file import BlockFile, BlockFileError, Kept
from hubgate.proxy.blocks.lock_outs import MARGIN, LockOuts
from hubgate.proxy.blocks.shared import Snapshot, Version
from tests.fakes.clock import START, Clock
from tests.fakes.running_proxy import eventually
from tests.proxy.blocks.conftest import FakeShared, Trail

BY = "admin@127.0.0.1"


class One:
    """A proxy's lock-outs, without the proxy."""

    def __init__(self, folder: Path, shared: FakeShared | None, now: Clock) -> None:
        folder.mkdir(exist_ok=True)
        self.trail = Trail()
        self.blocklist = Blocklist()
        self.cuts = 0
        self.file = BlockFile(folder / "audit.jsonl")
        self.lock_outs = LockOuts(self.blocklist, self.file, shared, self.trail, cut=self._cut, now=now)

    @property
    def names(self) -> set[str]:
        return set(self.blocklist.blocks)

    def unread(self) -> bool:
        return self.lock_outs.unread

    async def add(self, who: str, seconds: float | None = None) -> str:
        """Lock somebody out; gives the fault."""
        return (await self.lock_outs.add(who, seconds, "", BY)).fault

    async def lift(self, who: str) -> str | None:
        """Let somebody in; gives the fault, `None` if nobody locked them out."""
        change = await self.lock_outs.lift(who, BY)
        return None if change is None else change.fault

    async def look(self) -> None:
        await self.lock_outs.look()

    def _cut(self) -> int:
        self.cuts += 1
        return 0


class World:
    """Some proxies, one clock and one shared list."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.now = Clock()
        self.shared = FakeShared()

    async def proxy(self, name: str) -> One:
        """Start one; of the same name again, it is a restart."""
        one = One(self.folder / name, self.shared, self.now)
        await one.lock_outs.start()
        return one


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def test_another_proxy_follows(world: World) -> None:
    """Both ways, and both trails tell of it; what is under way is cut on both."""
    first, second = await world.proxy("a"), await world.proxy("b")
    assert await first.add("bob") == ""
    await second.look()
    assert second.names == {"bob"}
    assert (first.cuts, second.cuts) == (1, 1)
    assert await second.lift("bob") == ""
    await first.look()
    assert first.names == second.names == set()
    assert first.trail.told == second.trail.told == [("block.added", "bob"), ("block.lifted", "bob")]
    assert (first.cuts, second.cuts) == (1, 1)


async def test_a_look_costs_one_question(world: World) -> None:
    """While nothing changes, neither the list is read nor the file written."""
    first = await world.proxy("a")
    await first.add("bob")
    world.shared.calls.clear()
    before = first.file.path.stat().st_mtime_ns
    for _ in range(3):
        await first.look()
    assert world.shared.calls == ["version"] * 3
    assert first.file.path.stat().st_mtime_ns == before


async def test_while_the_list_is_away(world: World) -> None:
    """What is known stays, a new one counts here and is told as not shared, nobody is let in."""
    first, second = await world.proxy("a"), await world.proxy("b")
    await first.add("bob")
    world.shared.away = True
    assert "on this proxy alone" in await first.add("eve")
    assert first.names == {"bob", "eve"}
    assert "still locked out" in (await first.lift("bob") or "")
    assert "still locked out" in (await first.lift("eve") or "")
    await second.look()
    assert first.names == {"bob", "eve"}
    world.shared.away = False
    await first.look()
    await second.look()
    assert second.names == {"bob", "eve"}
    assert first.lock_outs.listed().fault == ""


async def test_restarts_while_the_list_is_away(world: World) -> None:
    """A proxy goes by its file, and what it could not share before its end it shares after it."""
    first, second = await world.proxy("a"), await world.proxy("b")
    await first.add("bob")
    world.shared.away = True
    await first.add("eve")
    again = await world.proxy("a")
    assert again.names == {"bob", "eve"}
    assert not again.unread()
    world.shared.away = False
    await again.look()
    await second.look()
    assert second.names == {"bob", "eve"}


async def test_what_one_was_told_alone_is_no_list(world: World) -> None:
    """A first start without the shared list, a lock-out, a restart: nobody knows yet who else there is."""
    world.shared.away = True
    first = await world.proxy("a")
    await first.add("bob")
    again = await world.proxy("a")
    assert (first.unread(), again.unread(), again.names) == (True, True, {"bob"})
    world.shared.away = False
    await again.look()
    assert not again.unread()
    world.shared.away = True
    assert not (await world.proxy("a")).unread()


async def test_the_end_of_a_proxy_writes_what_is_not_written(world: World) -> None:
    """A file that could not be written until now gets its last chance."""
    first = await world.proxy("a")
    scratch = first.file.path.with_name("audit.jsonl.blocks.new")
    scratch.mkdir()
    await first.add("bob")
    scratch.rmdir()
    await first.lock_outs.close()
    world.shared.away = True
    assert (await world.proxy("a")).names == {"bob"}


async def test_a_first_start_while_the_list_is_away(world: World) -> None:
    """Nobody can say who is locked out; once somebody could, a restart goes by that."""
    world.shared.away = True
    first = await world.proxy("a")
    assert first.unread()
    world.shared.away = False
    await first.look()
    assert not first.unread()
    world.shared.away = True
    assert not (await world.proxy("a")).unread()


async def test_a_restart_follows_what_others_said_meanwhile(world: World) -> None:
    """A file that is older than the shared list gives way to it."""
    first, second = await world.proxy("a"), await world.proxy("b")
    await first.add("bob")
    await first.add("eve")
    await second.lift("bob")
    again = await world.proxy("a")
    assert again.names == {"eve"}
    assert again.trail.told == [("block.lifted", "bob")]


async def test_another_list_is_none_to_go_by(world: World) -> None:
    """However many changes it has seen: a Redis that was taken for another one lets nobody in."""
    first = await world.proxy("a")
    await first.add("bob")
    world.shared.restore(Snapshot(Version("another", 99), {"eve": Block("eve", START, None, BY, "")}))
    await first.look()
    assert first.names == world.shared.names == {"bob", "eve"}


async def test_a_command_while_another_one_is_stored(world: World) -> None:
    """The later one of two about the same caller is what counts in the end, everywhere."""
    first = await world.proxy("a")
    asked, go_on = asyncio.Event(), asyncio.Event()
    put = world.shared.put

    async def hang(blocks: Iterable[Block], after: int) -> Snapshot:
        stored = await put(blocks, after)
        asked.set()
        await go_on.wait()
        return stored

    world.shared.put = hang  # type: ignore[method-assign]
    earlier = asyncio.create_task(first.add("bob", 60))
    await asked.wait()
    later = asyncio.create_task(first.add("bob"))
    await asyncio.sleep(0)
    go_on.set()
    assert {await earlier, await later} == {""}
    assert first.blocklist.blocks["bob"].until is None
    assert world.shared.state.blocks["bob"].until is None


@pytest.mark.parametrize("kept", ["nothing", "older"])
async def test_a_list_that_lost_something_gets_it_back(world: World, kept: str) -> None:
    """Empty or from an old backup: nobody is let in by it, whichever proxy looks first."""
    first, second = await world.proxy("a"), await world.proxy("b")
    await first.add("bob")
    backup = world.shared.state
    await first.add("eve")
    await second.look()
    world.shared.restore(backup if kept == "older" else None)
    for proxy in (second, first, second):
        await proxy.look()
        assert proxy.names == {"bob", "eve"}
    assert world.shared.names == {"bob", "eve"}
    assert (await world.proxy("c")).names == {"bob", "eve"}
    assert first.trail.told == second.trail.told == [("block.added", "bob"), ("block.added", "eve")]


async def test_the_longer_one_of_two_holds(world: World) -> None:
    """A backup in which a lock-out had an earlier end does not end it earlier."""
    first = await world.proxy("a")
    await first.add("bob", 60)
    backup = world.shared.state
    await first.add("bob")
    world.shared.restore(backup)
    await first.look()
    world.now.advance(3600)
    await first.look()
    assert first.names == world.shared.names == {"bob"}


async def test_locking_out_again_replaces(world: World) -> None:
    """A shorter time counts as well: the operator said so."""
    first, second = await world.proxy("a"), await world.proxy("b")
    await first.add("bob")
    await second.add("bob", 60)
    await first.look()
    assert first.blocklist.blocks["bob"].until == START + 60
    assert first.trail.told == [("block.added", "bob")] * 2


async def test_the_end_of_a_time(world: World) -> None:
    """Each proxy ends it by its own clock; the shared list is cleared a little later."""
    first, second = await world.proxy("a"), await world.proxy("b")
    await first.add("bob", 60)
    await second.look()
    world.now.advance(60)
    assert first.lock_outs.listed().blocks == ()
    await first.look()
    await second.look()
    assert first.trail.told == second.trail.told == [("block.added", "bob"), ("block.expired", "bob")]
    assert await first.lift("bob") is None
    await first.add("eve", 60)
    assert world.shared.names == {"bob", "eve"}
    world.now.advance(MARGIN + 1)
    await first.add("carol")
    assert world.shared.names == {"eve", "carol"}
    await second.look()
    assert second.names == {"carol"}


async def test_an_end_while_the_proxy_was_down(tmp_path: Path) -> None:
    """The trail is told at the next start."""
    now = Clock()
    first = One(tmp_path / "a", None, now)
    await first.lock_outs.start()
    await first.add("bob", 60)
    now.advance(61)
    again = One(tmp_path / "a", None, now)
    await again.lock_outs.start()
    assert again.trail.told == [("block.expired", "bob")]


async def test_the_trail_says_until_when_and_by_whom(world: World) -> None:
    """In words that a person reads; of a lift, who let them in."""
    first = await world.proxy("a")
    await first.lock_outs.add("bob", 60, "why", BY)
    await first.lock_outs.lift("bob", "admin@10.0.0.9")
    added, lifted = first.trail.full
    assert added == {
        "who": "bob",
        "since": "2026-09-21T14:13:20+00:00",
        "until": "2026-09-21T14:14:20+00:00",
        "by": BY,
        "reason": "why",
    }
    assert lifted["by"] == "admin@10.0.0.9"


async def test_an_audit_that_cannot_be_written_stops_no_lock_out(world: World) -> None:
    """It is in force everywhere, its record waits, and the command says so."""
    first, second = await world.proxy("a"), await world.proxy("b")
    first.trail.works = False
    assert "audit trail cannot be written" in await first.add("bob")
    await second.look()
    assert first.names == second.names == {"bob"}
    assert first.trail.told == [("block.added", "bob")]


async def test_it_counts_before_the_shared_list_has_answered(world: World) -> None:
    """A Redis that hangs does not delay it here."""
    first = await world.proxy("a")
    asked, go_on = asyncio.Event(), asyncio.Event()
    version = world.shared.version

    async def hang() -> object:
        asked.set()
        await go_on.wait()
        return await version()

    world.shared.version = hang  # type: ignore[method-assign,assignment]
    looking = asyncio.create_task(first.look())
    await asked.wait()
    adding = asyncio.create_task(first.add("bob"))
    await asyncio.sleep(0)
    assert first.names == {"bob"}
    go_on.set()
    await asyncio.gather(looking, adding)
    assert first.names == world.shared.names == {"bob"}


async def test_the_list_is_bounded(world: World) -> None:
    """A full one takes changes of those who are in it."""
    first = await world.proxy("a")
    blocks = {f"u{n}": Block(f"u{n}", START, None, BY, "") for n in range(MAX_BLOCKS - 1)}
    first.blocklist.replace(blocks)
    assert not first.lock_outs.full("bob")
    first.blocklist.replace({**blocks, "bob": Block("bob", START, None, BY, "")})
    assert first.lock_outs.full("eve")
    assert not first.lock_outs.full("bob")


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["add", "lift", "look", "restart", "away", "back"]),
            st.sampled_from("ab"),
            st.sampled_from(["bob", "eve"]),
        ),
        max_size=30,
    )
)
async def test_nobody_who_was_not_let_in_gets_in(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, str, str]]
) -> None:
    """Whatever is done on two proxies, in whatever order: who is locked out stays so until a lift."""
    world = World(tmp_path_factory.mktemp("world"))
    proxies = {name: await world.proxy(name) for name in "ab"}
    out: set[str] = set()  # who is locked out everywhere, once everybody has looked
    for step, name, who in steps:
        proxy = proxies[name]
        match step:
            case "add":
                await proxy.add(who)
                assert who in proxy.names
                out.add(who)
            case "lift":
                if await proxy.lift(who) == "":
                    assert who not in proxy.names
                    out.discard(who)
            case "look":
                await proxy.look()
            case "restart":
                names = proxy.names
                proxies[name] = await world.proxy(name)
                assert world.shared.away is False or proxies[name].names == names
            case "away" | "back":
                world.shared.away = step == "away"
    world.shared.away = False
    for proxy in (*proxies.values(), *proxies.values()):
        await proxy.look()
    assert proxies["a"].names == proxies["b"].names == world.shared.names
    assert world.shared.names >= out


def test_a_file_that_cannot_be_opened(tmp_path: Path) -> None:
    """Is told by its name, and is no empty list."""
    file = BlockFile(tmp_path / "audit.jsonl")
    file.path.mkdir()
    with pytest.raises(BlockFileError, match=r"audit\.jsonl\.blocks: Is a directory"):
        file.read()


def test_a_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    """Over what was there, and over what a crash may have left of another try."""
    file = BlockFile(tmp_path / "audit.jsonl")
    assert file.read() is None
    kept = Kept((Block("bob", START, None, BY, "why ünd"),), None, ("bob",))
    (tmp_path / "audit.jsonl.blocks.new").write_bytes(b"x" * 10_000)
    for _ in range(2):
        file.write(kept)
        assert file.read() == kept
    assert not (tmp_path / "audit.jsonl.blocks.new").exists()


async def test_an_error_that_nobody_foresaw_ends_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a start nor what goes on in the background: it is told once, by its type, and then goes on."""
    monkeypatch.setattr(lock_outs, "POLL_SECONDS", 0)
    first = await world.proxy("a")
    await first.add("bob")
    raised = 0

    async def version() -> Version | None:
        nonlocal raised
        raised += 1
        raise OverflowError("canary")

    with capture_logs() as logged, monkeypatch.context() as broken:
        broken.setattr(world.shared, "version", version)
        again = await world.proxy("a")
        running = asyncio.create_task(again.lock_outs.run())

        async def thrice() -> bool:
            return raised >= 3

        await eventually(thrice)
        assert again.names == {"bob"}
    assert [(entry["log_level"], entry["error"]) for entry in logged] == [("error", "OverflowError")]
    await first.add("eve")

    async def followed() -> bool:
        return again.names == {"bob", "eve"}

    await eventually(followed)
    running.cancel()

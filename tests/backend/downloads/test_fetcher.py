"""One download from the first listing to the store, with real workers, on a Hub that fails on purpose."""

import asyncio
import os
import signal
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from hubgate.backend.admission.file_selection import Rejected, select_base
from hubgate.backend.downloads.attempt import DownloadRequest, Patience, ProgressMeter, Rules
from hubgate.backend.downloads.fetcher import Fetched, Fetcher
from hubgate.backend.downloads.messages import Failure
from hubgate.backend.downloads.single_flight import Interest, SingleFlight
from hubgate.backend.downloads.worker_pool import CRASHED, Worker, WorkerPool
from hubgate.backend.metrics import Metrics
from hubgate.backend.processes import reaper
from hubgate.backend.processes.child import Child
from hubgate.backend.store.layout import STAGING
from hubgate.backend.store.store import Store
from hubgate.demo import weights
from hubgate.demo.hub import DemoHub
from hubgate.runtime import child_python
from hubgate.wire.repo import RepoRef
from hubgate.wire.secret import Secret
from tests.fakes import hostile_json
from tests.fakes.running_proxy import eventually

REPO = "demo/two-shards"
BIG = 3_000_000  # bytes
QUICK = Patience(pause=0.01, longest_pause=30, stall=30)


def _inspect(_: Path) -> Rejected | None:
    return None


class WatchedWorkers(WorkerPool):
    """Tells which workers there were."""

    def __init__(self, environ: dict[str, str], endpoint: str) -> None:
        super().__init__(environ, endpoint)
        self.all: list[Worker] = []

    async def _launch(self) -> Worker:
        worker = await super()._launch()
        self.all.append(worker)
        return worker


class Downloads:
    """Everything that a download needs, and nothing else of a backend."""

    def __init__(self, folder: Path, hub: DemoHub, patience: Patience, environ: dict[str, str]) -> None:
        self.hub = hub
        self.store = Store(folder / "store", 10**8, time.time)
        self.workers = WatchedWorkers({**os.environ, **environ}, hub.endpoint)
        self.metrics = Metrics()
        fetcher = Fetcher(self.store, self.workers, self.metrics, hub.endpoint, patience)
        self.flights = SingleFlight(fetcher)
        rules = Rules(partial(select_base, max_bytes=10**8), _inspect)
        self.want = DownloadRequest(RepoRef.parse(REPO).at(hub.state.sha(REPO)), "base", rules)
        self.meter = ProgressMeter()

    def join(self, who: str = "alice") -> asyncio.Future[Fetched | Failure | None]:
        """Ask for the repo with this caller's token."""
        self.meter, future = self.flights.join(self.want, Secret(self.hub.token(who)), Interest(who))
        return future

    def join_other(self, name: str, who: str) -> asyncio.Future[Fetched | Failure | None]:
        """Ask for a repo that nobody else wants."""
        self.hub.state.add_repo(f"demo/{name}", weights.tiny_llama(name))
        ref = RepoRef.parse(f"demo/{name}").at(self.hub.state.sha(f"demo/{name}"))
        return self.flights.join(replace(self.want, ref=ref), Secret(self.hub.token(who)), Interest(who))[1]

    async def workers_were(self, count: int) -> None:
        """Wait until there were so many workers, and see that there were no more."""

        async def enough() -> bool:
            return len(self.workers.all) >= count

        await eventually(enough)
        assert len(self.workers.all) == count

    async def failure(self) -> Failure:
        """Ask, and fail."""
        outcome = await self.join()
        assert isinstance(outcome, Failure), outcome
        return outcome

    def asked(self, method: str, name: str) -> int:
        """How often a file was asked for on the Hub itself."""
        paths = [entry.path for entry in self.hub.log if entry.method == method]
        return sum(path.endswith(f"/{name}") for path in paths)

    def files_served(self) -> list[int]:
        """The statuses of what the origin of large files answered."""
        return [entry.status for entry in self.hub.log if entry.origin == "files"]

    def leftovers(self) -> list[Path]:
        """What of unfinished downloads is on the disk."""
        return list((self.store.root / STAGING).iterdir())


@asynccontextmanager
async def downloads(
    folder: Path, hub: DemoHub, patience: Patience = QUICK, **environ: str
) -> AsyncIterator[Downloads]:
    """A repo of two large files, and what is needed to fetch it."""
    files = {**weights.tiny_llama("two"), "extra.safetensors": os.urandom(BIG)}
    hub.state.add_repo(REPO, files)
    made = Downloads(folder, hub, patience, environ)
    made.store.open()
    made.workers.start()
    try:
        yield made
    finally:
        await made.workers.close()
        made.store.close()


def _whole(made: Downloads) -> None:
    """The repo is there, every file as large as the Hub says, nothing else beside it, and read-only."""
    path = made.store.find(made.want.ref)
    assert path is not None
    commit = made.hub.state.repos[REPO].find("main")
    assert commit is not None
    unwanted = {"README.md", ".gitattributes"}
    expected = {name: len(blob.content) for name, blob in commit.files.items() if name not in unwanted}
    found = {str(file.relative_to(path)): file.stat() for file in path.rglob("*") if file.is_file()}
    assert {name: status.st_size for name, status in found.items()} == expected
    assert not any(status.st_mode & 0o222 for status in found.values())
    assert made.leftovers() == []


async def test_a_worker_that_is_killed_costs_an_attempt(tmp_path: Path, hub: DemoHub) -> None:
    """SIGKILL, as by the kernel when memory is short: another worker finishes, nothing is left of it."""
    async with downloads(tmp_path, hub) as made:
        hub.state.set_down("hang", origin="files", times=1)
        future = made.join()
        await hub.state.outages.wait_held(1)
        victim = made.workers.all[0]
        for pid in reaper.session_members(victim.pid):
            os.kill(pid, signal.SIGKILL)
        assert isinstance(await future, Fetched)
        hub.state.outages.lift()
        _whole(made)
        assert not reaper.session_members(victim.pid)
        assert not victim.scratch.exists()
        await made.workers_were(3)  # the one that died, the one that finished, the next spare


async def test_the_next_worker_starts_when_the_download_is_over(tmp_path: Path, hub: DemoHub) -> None:
    """Beside the download it would take the processor from it; the old one is gone by then."""
    async with downloads(tmp_path, hub) as made:
        hub.state.set_down("hang", origin="files", times=1)
        future = made.join()
        await hub.state.outages.wait_held(1)
        assert len(made.workers.all) == 1
        hub.state.outages.lift()
        assert isinstance(await future, Fetched)
        first = made.workers.all[0]
        await made.workers_were(2)
        assert not reaper.session_members(first.pid)


async def test_a_spare_that_died_is_replaced(tmp_path: Path, hub: DemoHub) -> None:
    """Nobody pays for a worker that died while nobody needed it."""
    async with downloads(tmp_path, hub, Patience(attempts=1)) as made:
        spare = made.workers._spare
        assert spare is not None
        worker = await spare
        for pid in reaper.session_members(worker.pid):
            os.kill(pid, signal.SIGKILL)

        async def noticed() -> bool:
            return not worker.alive

        await eventually(noticed)
        assert isinstance(await made.join(), Fetched)
        assert not worker.scratch.exists()


async def test_a_download_that_stands_still_is_taken_up_again(tmp_path: Path, hub: DemoHub) -> None:
    """No byte for `stall` seconds: the worker goes, and the next attempt keeps the files that are whole."""
    async with downloads(tmp_path, hub, Patience(stall=2, pause=0.01, longest_pause=30)) as made:
        hub.state.set_down("hang", paths="*/resolve/*/model.safetensors", times=1)
        future = made.join()
        await hub.state.outages.wait_held(1)

        async def first_is_here() -> bool:
            return any(made.store.root.glob(f"{STAGING}/*/content/extra.safetensors"))

        await eventually(first_is_here)
        assert isinstance(await future, Fetched)
        hub.state.outages.lift()
        _whole(made)
        assert made.asked("GET", "config.json") == 1
        assert made.files_served() == [200, 200]


async def test_a_download_that_always_stands_still_fails(tmp_path: Path, hub: DemoHub) -> None:
    """A bounded number of attempts, then an answer that says when to come again."""
    async with downloads(
        tmp_path, hub, Patience(stall=0.5, pause=0.01, longest_pause=40, attempts=2)
    ) as made:
        hub.state.set_down("hang", origin="files")
        failed = await made.failure()
        assert (failed.code, failed.message) == ("hub_unavailable", "the download stood still")
        assert failed.retry_after == 10
        hub.state.outages.lift()
        assert made.leftovers() == []
        await made.workers_were(3)
        # And it heals by itself.
        assert isinstance(await made.join(), Fetched)


async def test_a_download_that_trickles_ends(tmp_path: Path, hub: DemoHub) -> None:
    """Its worker is for others; the reason says what would have been enough."""
    patience = Patience(window=0.5, least_rate=1000, attempts=1)
    async with downloads(tmp_path, hub, patience) as made:
        hub.state.set_down("hang", origin="files")
        failed = await made.failure()
        assert failed.code == "hub_unavailable"
        assert failed.message == "the download came at less than 1000 bytes a second"
        hub.state.outages.lift()
        await made.workers_were(2)


async def test_downloads_that_hang_keep_nobody_else_waiting(
    tmp_path: Path, hub: DemoHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether their caller still waits for them, or has left: who comes gets a worker at once."""
    monkeypatch.setattr("hubgate.backend.downloads.fetcher.PARALLEL", 2)
    monkeypatch.setattr("hubgate.backend.downloads.fetcher.LEAST_TURN", 0)
    for name in ("one", "two", "three"):
        hub.state.add_repo(f"eve/{name}", weights.tiny_llama(name))
    async with downloads(tmp_path, hub) as made:
        hub.state.set_down("hang", paths="/eve/*")
        eve = Interest("eve")
        hanging = [
            made.flights.join(
                replace(made.want, ref=RepoRef.parse(f"eve/{name}").at(hub.state.sha(f"eve/{name}"))),
                Secret(hub.token("alice")),
                eve,
            )
            for name in ("one", "two", "three")
        ]
        await hub.state.outages.wait_held(2)
        third, _ = hanging[2]
        assert third.position() == 1
        assert isinstance(await made.join("alice"), Fetched)
        made.flights.left(eve)
        bob = [made.join_other(name, "bob") for name in ("four", "five")]
        assert all(isinstance(outcome, Fetched) for outcome in await asyncio.gather(*bob))
        assert not any(future.done() for _, future in hanging)
        assert "hubgate_downloads_called_back_total 3.0" in made.metrics.render({}).decode()
        for _, future in hanging:
            future.cancel()

        async def ended() -> bool:
            return not made.leftovers()

        await eventually(ended)
        hub.state.outages.lift()


async def test_a_download_has_a_deadline(tmp_path: Path, hub: DemoHub) -> None:
    """However patient each attempt is."""
    async with downloads(tmp_path, hub, Patience(deadline=1.5)) as made:
        hub.state.set_down("hang", origin="files")
        failed = await made.failure()
        assert (failed.code, failed.message) == ("hub_unavailable", "the download took too long")
        hub.state.outages.lift()
        assert made.leftovers() == []


async def test_a_wait_that_the_hub_asks_for_is_waited_outside_the_worker(
    tmp_path: Path, hub: DemoHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """429 in the middle: as long as it says, with no worker and so no token in use; then on it goes."""
    waited: list[float] = []
    real = asyncio.sleep

    async def sleep(seconds: float) -> None:
        if seconds >= 1:
            assert not any(worker.alive for worker in made.workers.all[:1])
            waited.append(seconds)
        await real(0 if seconds >= 1 else seconds)

    async with downloads(tmp_path, hub, Patience()) as made:
        monkeypatch.setattr("hubgate.backend.downloads.fetcher.asyncio.sleep", sleep)
        hub.state.set_down("429", origin="files", times=1)
        assert isinstance(await made.join(), Fetched)
        assert "t=55" in hub.state.catalog.errors["rate_limited"].headers["RateLimit"]
        assert waited == [55]
        assert made.files_served().count(429) == 1
        _whole(made)


async def test_a_longer_wait_is_the_callers(tmp_path: Path, hub: DemoHub) -> None:
    """The client inside the worker does not try again by itself, nor do we before it is time."""
    async with downloads(tmp_path, hub, Patience(longest_pause=5)) as made:
        hub.state.set_down("429", origin="files")
        failed = await made.failure()
        assert (failed.code, failed.retry_after) == ("hub_unavailable", 5)
        assert made.files_served().count(429) <= 2  # one for each of the two files


async def test_a_failure_in_the_middle_is_tried_again(tmp_path: Path, hub: DemoHub) -> None:
    """Once is an accident."""
    async with downloads(tmp_path, hub, Patience(pause=0.01)) as made:
        hub.state.set_down("502", paths="*/resolve/*/extra.safetensors", times=1)
        assert isinstance(await made.join(), Fetched)
        _whole(made)


async def test_a_cut_file_is_resumed_where_it_was_cut(tmp_path: Path, hub: DemoHub) -> None:
    """By a Range request (RFC 9110, section 14): what is here is not sent again."""
    async with downloads(tmp_path, hub) as made:
        commit = hub.state.repos[REPO].find("main")
        assert commit is not None
        extra = f"/{commit.files['extra.safetensors'].sha256}"
        hub.state.set_down("cut", origin="files", paths=extra, after_bytes=BIG // 2, times=1)
        assert isinstance(await made.join(), Fetched)
        assert 206 in made.files_served()
        _whole(made)


async def test_a_leader_who_is_revoked_hands_on_what_is_here(tmp_path: Path, hub: DemoHub) -> None:
    """The next one's token finishes; only the file that was missing is fetched with it."""
    async with downloads(tmp_path, hub) as made:
        hub.state.set_down("hang", paths="*/resolve/*/model.safetensors", times=1)
        alice, bob = made.join("alice"), made.join("bob")
        await hub.state.outages.wait_held(1)

        async def rest_is_here() -> bool:
            return any(made.store.root.glob(f"{STAGING}/*/content/extra.safetensors"))

        await eventually(rest_is_here)
        hub.state.revoke(hub.token("alice"))
        hub.state.outages.lift()
        denied, fetched = await asyncio.gather(alice, bob)
        assert isinstance(denied, Failure)
        assert denied.code == "denied"
        assert isinstance(fetched, Fetched)
        assert made.asked("GET", "config.json") == 1
        assert made.files_served() == [200, 200]
        asked = [(e.user, e.status) for e in hub.log if e.path.endswith("/model.safetensors")]
        assert asked == [("alice", 401), ("bob", 302)]
        _whole(made)


async def test_when_all_have_left_nothing_goes_on(tmp_path: Path, hub: DemoHub) -> None:
    """The worker ends, and with it the token."""
    async with downloads(tmp_path, hub) as made:
        hub.state.set_down("hang", origin="files")
        future = made.join()
        await hub.state.outages.wait_held(2)
        future.cancel()

        async def ended() -> bool:
            return not made.workers.all[0].alive and not made.leftovers()

        await eventually(ended)
        hub.state.outages.lift()


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
async def test_a_file_that_was_changed_on_its_way_is_refused(tmp_path: Path, hub: DemoHub, name: str) -> None:
    """A git blob's sha1 for small files, sha256 for large ones; the size is right in both."""
    async with downloads(tmp_path, hub) as made:
        commit = hub.state.repos[REPO].find("main")
        assert commit is not None
        blob = commit.files[name]
        object.__setattr__(blob, "content", blob.content[:-1] + bytes([blob.content[-1] ^ 1]))
        failed = await made.failure()
        assert "differs" in failed.message
        assert made.store.find(made.want.ref) is None
        assert made.leftovers() == []


async def test_a_full_disk_is_said_and_heals(tmp_path: Path, hub: DemoHub) -> None:
    """ENOSPC in the middle of a file: a reason, nothing left behind, and the next one works.

    `/dev/full` in the place of the partial file: its writes fail as those on a full disk (full(4)).
    """
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(
        "import io, pathlib\n"
        "real = io.open\n"
        "def full(file, mode='r', *args, **kwargs):\n"
        f"    if str(file).endswith('.incomplete') and pathlib.Path({str(tmp_path / 'full')!r}).exists():\n"
        "        file = '/dev/full'\n"
        "    return real(file, mode, *args, **kwargs)\n"
        "io.open = full\n",
        encoding="utf-8",
    )
    (tmp_path / "full").touch()
    async with downloads(tmp_path, hub, PYTHONPATH=str(tmp_path / "site")) as made:
        failed = await made.failure()
        assert (failed.code, failed.message) == ("store_full", "the disk is full")
        assert made.leftovers() == []
        (tmp_path / "full").unlink()
        assert isinstance(await made.join(), Fetched)
        _whole(made)


async def test_no_temporary_file_is_left(
    tmp_path: Path, hub: DemoHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither in the store nor where workers keep theirs."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    async with downloads(tmp_path, hub) as made:
        await made.join()
        _whole(made)
    assert list((tmp_path / "temporary").iterdir()) == []


async def test_where_no_process_can_be_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A revision that cannot be looked up now can be tried again: the task that asked goes on."""

    async def full(_: WorkerPool) -> Worker:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(WorkerPool, "_launch", full)
    workers = WorkerPool(os.environ, "http://127.0.0.1:1")
    fetcher = Fetcher(Store(tmp_path / "store", 10**8, time.time), workers, Metrics(), None, QUICK)
    failure = await fetcher.resolve(RepoRef.parse("a/b@main"), None)
    assert isinstance(failure, Failure)
    assert failure.code == "error"


async def test_a_worker_that_babbles_has_failed(tmp_path: Path) -> None:
    """Whatever it writes instead of an answer, and whoever made it do so."""
    (tmp_path / "said").write_bytes(b"\n".join(hostile_json.DOCUMENTS.values()) + b"\n")
    code = "import pathlib, sys; sys.stdout.buffer.write(pathlib.Path(sys.argv[1]).read_bytes())"
    argv = [*child_python.COMMAND, "-c", code, str(tmp_path / "said")]
    worker = Worker(await Child.start(argv, os.environ))
    for name in hostile_json.DOCUMENTS:
        assert await worker.answer() == CRASHED, name
    await worker.end()

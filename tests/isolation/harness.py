"""The real proxy with a clock of ours, between a demo Hub of the campaign's own and the machines."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from hubgate.demo.accounts import hub_id
from hubgate.demo.hub import DemoHub
from hubgate.proxy import app, preflight
from hubgate.proxy.hub.transport import HubTransport
from hubgate.proxy.upstream import upstream_pool
from hubgate.wire.secret import Secret
from tests.fakes import backend as fake_backend
from tests.fakes.backend import FakeBackend
from tests.fakes.clock import Clock
from tests.fakes.engine import RawEngine
from tests.fakes.keyring import Keyring
from tests.isolation import scenario
from tests.isolation.access_model import AccessModel
from tests.isolation.attempt import Bounds
from tests.isolation.checker import Checker
from tests.isolation.client import Client
from tests.isolation.delivery import Delivery
from tests.isolation.engines import Machines
from tests.isolation.expected_cache import ExpectedCache
from tests.isolation.outage_checker import OutageChecker
from tests.isolation.setup import populate, settings

# The product's lives, all five times shorter: a grant's minute, which is fixed, then outlives every leap.
BOUNDS = Bounds(identity=60, access=12, denial=2, revision=720)
LEAP = 30  # seconds; two of them are shorter than a grant's life
POLL = 0.05  # seconds of real time between two hellos
SLOTS = 2  # engines of each base, so that two of its commits can be warm


class Quiet:
    """Counts the proxy's questions to the Hub that are under way."""

    def __init__(self) -> None:
        self._under_way = 0
        self._none = asyncio.Event()
        self._none.set()

    @asynccontextmanager
    async def asking(self) -> AsyncIterator[None]:
        self._under_way += 1
        self._none.clear()
        try:
            yield
        finally:
            self._under_way -= 1
            if not self._under_way:
                self._none.set()

    async def wait(self) -> None:
        """Wait until none is."""
        await self._none.wait()


@dataclass(frozen=True, slots=True, kw_only=True)
class Harness:
    """A running proxy, all that it talks to, and the model that is told of all that happens."""

    clock: Clock
    hub: DemoHub
    machines: Machines
    access_model: AccessModel
    expected_cache: ExpectedCache
    outage_checker: OutageChecker
    checker: Checker
    client: Client
    quiet: Quiet
    pulls: Mapping[str, str]  # repo → the sha of a pull request that nobody accepted
    first: Mapping[str, str]  # repo → the sha of its first commit

    @classmethod
    @asynccontextmanager
    async def start(cls, folder: Path, bounds: Bounds = BOUNDS) -> AsyncIterator["Harness"]:
        """Start everything and end it with the context."""
        clock, quiet = Clock(), Quiet()
        async with AsyncExitStack() as stack:
            stack.enter_context(patch.object(fake_backend, "time", clock))
            stack.enter_context(patch.object(upstream_pool, "POLL_SECONDS", POLL))
            stack.enter_context(patch.object(HubTransport, "ask", _counted(quiet)))
            hub = await stack.enter_async_context(DemoHub.start(clock=clock))
            first, pulls = populate(hub)
            access_model = AccessModel(clock)
            for repo, sha in first.items():
                access_model.commit(repo, sha)
            access_model.token(scenario.REISSUED[1], good=False)
            hub.state.revoke(scenario.secret(scenario.REISSUED[1]))
            ring = Keyring.make(folder / "keys")
            backend = await stack.enter_async_context(FakeBackend.start(ring))
            machines = Machines(backend, access_model, clock, ring.proxies)
            for base in scenario.BASES * SLOTS:
                machines.add(await stack.enter_async_context(RawEngine.start()), f"{base}@{first[base]}")
            read = settings(folder, hub, backend, bounds)
            clocks = app.Clocks(now=clock, monotonic=clock)
            proxy = await stack.enter_async_context(app.running(read, preflight.check(read), clocks))
            await backend.greeted(2)  # then the proxy has believed the first of them
            client = Client(proxy.port)
            stack.push_async_callback(client.close)
            expected_cache = ExpectedCache(clock, bounds.identity, bounds.access, bounds.revision)
            yield cls(
                clock=clock,
                hub=hub,
                machines=machines,
                access_model=access_model,
                expected_cache=expected_cache,
                outage_checker=OutageChecker(clock),
                checker=Checker(
                    access_model, expected_cache, bounds, Delivery(access_model, bounds, _subs(ring))
                ),
                client=client,
                quiet=quiet,
                pulls=pulls,
                first=first,
            )

    def text(self, repo: str, revision: scenario.Revision) -> str:
        """What a request's `model` says, at this moment."""
        shas = {
            "main": "main",
            "pr-ref": "refs/pr/1",
            "first": self.first.get(repo),
            "pr-sha": self.pulls.get(repo),
            "current": self.access_model.commits[repo].now if repo in self.access_model.commits else None,
        }
        return f"{repo}@{shas[revision] or 'f' * 40}" if revision else repo

    async def pass_time(self, seconds: float) -> None:
        """Move the clock while no question to the Hub is under way: real ones end within `hub.timeout`.

        Likewise no hello is under way in a leap that is longer than its grant may live.
        """
        if seconds > LEAP:
            await self.machines.backend.greeted()
        await self.quiet.wait()
        self.clock.advance(seconds)


def _counted(quiet: Quiet) -> Any:
    ask = HubTransport.ask

    async def counted(*args: Any, **kwargs: Any) -> Any:
        async with quiet.asking():
            return await ask(*args, **kwargs)

    return counted


def _subs(ring: Keyring) -> dict[str, str]:
    """The pseudonyms that DESIGN names: an HMAC of `user:<Hub id>`, never the name."""
    key = ring.proxy.derive("sub")
    return {user: Secret(f"user:{hub_id('user', user)}").hmac(key).hex()[:32] for user in scenario.USERS}

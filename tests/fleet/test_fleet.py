"""Three backends and two proxies as real processes, under load, while one after the other has a fault."""

import asyncio
import logging
import os
import random
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path

import msgspec
import pytest
import yaml

from hubgate.demo import weights
from hubgate.demo.hub import DemoHub
from hubgate.proxy.audit import chain
from hubgate.runtime import child_python
from tests.fakes.engine import LOCAL
from tests.fakes.keyring import Keyring
from tests.fakes.process import _logged, _spawn
from tests.fakes.raw import ask, request
from tests.fakes.running_proxy import ALICE, BASE, BOB, CHAT, eventually

pytestmark = [pytest.mark.timeout(180)]

NAMES = ("gpu-0", "gpu-1", "gpu-2")
CLIENTS = 12  # requests at once, of two callers, through two proxies
ADAPTERS = 24  # as many as the backends have places
PATIENCE = 20.0  # seconds
log = logging.getLogger(__name__)
ROOT = Path(__file__).parents[2]


@dataclass
class Fleet:
    """The processes, and what came back."""

    folder: Path
    proxies: list[tuple[int, int]]  # ports, admin ports
    backends: dict[str, asyncio.subprocess.Process]
    wire: asyncio.subprocess.Process  # before gpu-1
    answers: list[tuple[str, int]] = field(default_factory=list)  # who answered, status
    wrong: list[str] = field(default_factory=list)
    asked: int = 0

    async def chat(self, model: str = BASE) -> int:
        """One request, whose answer has to be that of this caller."""
        self.asked += 1
        number = self.asked
        said = f"secret {number}"
        body = msgspec.json.encode({"model": model, "messages": [{"role": "user", "content": said}]})
        headers = [("Authorization", f"Bearer {(ALICE, BOB)[number % 2]}")]
        sent = request("POST", CHAT, headers, body)
        answer = await ask(self.proxies[number // 2 % 2][0], sent)
        text = ""
        if answer.status == 200:
            text = answer.json()["choices"][0]["message"]["content"]
            if text.partition(" ")[2] != said:
                self.wrong.append(text)
        self.answers.append((text.partition(" ")[0], answer.status))
        return answer.status

    @asynccontextmanager
    async def loaded(self) -> AsyncIterator[None]:
        """Under load of the base; what is in flight at the end is waited for."""
        stop = asyncio.Event()

        async def client() -> None:
            while not stop.is_set():
                await self.chat()

        async with asyncio.TaskGroup() as group:
            for _ in range(CLIENTS):
                group.create_task(client())
            try:
                yield
            finally:
                stop.set()

    async def more(self, count: int, of: Callable[[str], bool] = bool) -> None:
        """Wait for so many more answers by these backends."""
        wanted = self.taken(of) + count

        async def there() -> bool:
            return self.taken(of) >= wanted

        async with asyncio.timeout(60):
            await eventually(there)

    def taken(self, of: Callable[[str], bool]) -> int:
        return sum(status == 200 and of(name) for name, status in self.answers)

    def failures(self) -> list[int]:
        return [status for _, status in self.answers if status != 200]

    def share(self, since: int) -> float:
        """The most that one backend answered, over the mean."""
        counts = Counter(name for name, _ in self.answers[since:])
        return max(counts.values()) * len(NAMES) / sum(counts.values())


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Fleet]:
    """All of it, warm; callers and base are known to both proxies."""
    async with AsyncExitStack() as stack:
        hub = await stack.enter_async_context(DemoHub.start())
        for number in range(ADAPTERS):
            name = f"demo/zipf-{number}"
            hub.state.add_repo(name, weights.adapter(name=name, phrase="bark "))
        rings = [Keyring.make(tmp_path / name) for name in NAMES]
        for ring in rings[1:]:
            ring.proxy_public.write_bytes(rings[0].proxy_public.read_bytes())
        base = f"{BASE}@{hub.state.sha(BASE)}"
        backends = {name: await _run(stack, "backend", str(tmp_path / name), name, base) for name in NAMES}
        ports = [await _ports(tmp_path / name) for name in NAMES]
        hosts = [LOCAL, "127.0.0.11", LOCAL]
        wire = await _run(stack, "forwarder", hosts[1], *map(str, ports[1]), told=True)
        upstreams = [
            {"name": name, "url": f"http://{host}:{control}", "public_key_file": str(ring.backend_public)}
            for name, host, (control, _), ring in zip(NAMES, hosts, ports, rings, strict=True)
        ]
        proxies = []
        for at in range(2):
            config = tmp_path / f"proxy-{at}.yaml"
            config.write_text(yaml.safe_dump(_settings(tmp_path, at, hub.endpoint, rings[0], upstreams)))
            log = tmp_path / f"proxy-{at}.log"
            await _spawn(stack, config, log)
            where = await _logged(log, "listening")
            proxies.append((where["port"], where["admin_port"]))
        fleet = Fleet(tmp_path, proxies, backends, wire)
        for _, admin in proxies:
            await _until_up(admin, NAMES)
        for _ in range(4):  # two callers at two proxies
            assert await fleet.chat() == 200
        yield fleet


def _settings(
    folder: Path, at: int, hub: str, ring: Keyring, upstreams: list[dict[str, str]]
) -> dict[str, object]:
    return {
        "listen": {"host": LOCAL, "port": 0},
        "admin": {"port": 0},
        "hub": {"endpoint": hub, "timeout": PATIENCE},
        "callers": {"anyone": True},
        "limits": {
            "requests_per_minute": 1_000_000,
            "tokens_per_minute": 1_000_000_000,
            "cold_loads_per_hour": 100_000,
        },
        "models": {"allow": ["demo/*"]},
        "upstreams": upstreams,
        "seal": {"key_file": str(ring.proxy_private)},
        "audit": {"path": str(folder / f"audit-{at}.jsonl")},
        "timeouts": {"drain": 0.2, "connect": 1},
    }


async def _run(
    stack: AsyncExitStack, module: str, *arguments: str, told: bool = False
) -> asyncio.subprocess.Process:
    process = await asyncio.create_subprocess_exec(
        *child_python.COMMAND,
        "-m",
        f"tests.fleet.{module}",
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )

    async def end() -> None:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()

    stack.push_async_callback(end)
    if told:
        assert process.stdout is not None
        await asyncio.wait_for(process.stdout.readline(), PATIENCE)
    return process


async def _ports(folder: Path) -> tuple[int, int]:
    async def written() -> bool:
        return (folder / "ports").exists()

    await eventually(written)
    control, engine = (folder / "ports").read_text().split()
    return int(control), int(engine)


async def _until_up(admin: int, names: tuple[str, ...]) -> None:
    """Wait until a proxy counts exactly these as up."""

    async def known() -> bool:
        text = (await ask(admin, request("GET", "/metrics"))).body.decode()
        ups = {name for name in NAMES if f'hubgate_upstream_up{{upstream="{name}"}} 1.0' in text}
        return ups == set(names)

    await eventually(known)


async def test_one_backend_after_the_other_has_a_fault(fleet: Fleet) -> None:
    """Slow, cut off, dead: the others go on, and lost is at most what was in flight on the dead one."""
    await _faults(fleet, ["gpu-0"])


@pytest.mark.long("backends")
@pytest.mark.timeout(1800)
async def test_faults_again_and_again(fleet: Fleet) -> None:
    """The same for twenty rounds of slow and cut off backends."""
    draw = random.Random(16)  # noqa: S311 - a play that can be repeated
    await _faults(fleet, [draw.choice(NAMES) for _ in range(20)])
    log.info("%d answers, %d lost", len(fleet.answers), len(fleet.failures()))


async def _faults(fleet: Fleet, slow: Sequence[str]) -> None:
    """One is slow and another cut off, in each round; at the end one is killed."""
    async with fleet.loaded():
        await fleet.more(60)
        since = len(fleet.answers)
        await fleet.more(240)
        assert fleet.share(since) <= 1.25
        for name in slow:
            await _slowed(fleet, name)
            await _cut_off(fleet)
        assert fleet.failures() == []

        fleet.backends["gpu-2"].kill()
        await fleet.backends["gpu-2"].wait()
        await fleet.more(200)
    assert len(fleet.failures()) <= 2 * ceil(1.25 * CLIENTS / 3)  # proxies, and what each had there
    assert fleet.failures().count(502) == len(fleet.failures())
    assert len(fleet.failures()) <= 0.05 * len(fleet.answers)
    assert fleet.wrong == []


async def _slowed(fleet: Fleet, slow: str) -> None:
    """The others answer meanwhile, and it does itself."""
    switch = fleet.folder / slow / "slow"
    switch.touch()
    await fleet.more(150, lambda name: name not in (slow, ""))
    switch.unlink()
    await fleet.more(30, lambda name: name == slow)


async def _cut_off(fleet: Fleet) -> None:
    """It counts as down, the others answer, and it comes back with all that it was asked."""
    fleet.wire.send_signal(signal.SIGSTOP)
    for _, admin in fleet.proxies:
        await _until_up(admin, ("gpu-0", "gpu-2"))
    await fleet.more(100, lambda name: name not in ("gpu-1", ""))
    fleet.wire.send_signal(signal.SIGCONT)
    for _, admin in fleet.proxies:
        await _until_up(admin, NAMES)
    await fleet.more(30, lambda name: name == "gpu-1")


async def test_zipf_over_the_places_of_all_backends(fleet: Fleet) -> None:
    """24 adapters by Zipf(1.1) on 3 x 8 places: at least 90 % of the hits that are possible at all.

    Nothing is warm at first, and until a hello a second later neither proxy knows what the other has loaded.
    """
    draw = random.Random(16)  # noqa: S311 - a play that can be repeated
    wanted = draw.choices(range(ADAPTERS), [1 / (rank + 1) ** 1.1 for rank in range(ADAPTERS)], k=2000)
    rest = iter(wanted)

    async def client() -> None:
        for number in rest:
            await fleet.chat(f"demo/zipf-{number}")

    await asyncio.gather(*[client() for _ in range(CLIENTS)])
    assert fleet.failures() == []
    assert fleet.wrong == []
    trails = [fleet.folder / f"audit-{at}.jsonl" for at in range(2)]

    def cold() -> int:
        ended = [one for trail in trails for one in chain.records(trail) if one["event"] == "request.done"]
        return sum(one["temperature"] == "cold" for one in ended) if len(ended) == fleet.asked else -1

    async def written() -> bool:
        return cold() >= 0

    await eventually(written)
    optimum = len(wanted) - len(set(wanted))
    log.info("%d of %d were warm, %d at best", len(wanted) - cold(), len(wanted), optimum)
    assert len(wanted) - cold() >= 0.9 * optimum

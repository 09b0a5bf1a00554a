"""Who takes part, and how each is started: configurations lie in `configs/`, flags stand here."""

import asyncio
import getpass
import resource
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from shutil import which
from typing import Final

import msgspec
import yaml

from bench.messages import LOCAL
from bench.process import Child, StartError, free_port, running, until_listening
from bench.surroundings import ALICE, BOB, Address
from bench.tls import UPSTREAM
from hubgate.runtime import child_python

CONFIGS: Final = Path(__file__).with_name("configs")
PEERS: Final = Path(__file__).with_name(".venv") / "bin"
ROOT: Final = Path(__file__).parents[1]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a contender is started: a folder of its own, and the upstream's port.

    With `certificates`, a folder of them, the upstream has TLS and asks for one.
    """

    folder: Path
    upstream: int
    certificates: Path | None = None


@dataclass(frozen=True, slots=True)
class Running:
    """A contender that listens. `token` is what its callers send, `other_token` another caller."""

    port: int
    child: Child
    token: str | None = None
    other_token: str | None = None


Start = Callable[[Place], AbstractAsyncContextManager[Running]]


@dataclass(frozen=True, slots=True)
class Contender:
    """One row of the table."""

    name: str
    about: str
    start: Start
    version: tuple[str, ...]
    """A command that prints it."""
    pace: float = 1.0
    """Share of the usual load that it is given: one that is a hundred times slower would only queue."""
    extra_events: int = 0
    """How many events it adds to each stream."""

    @property
    def installed(self) -> bool:
        return which(self.version[0]) is not None


def _peer(name: str, *command: str, config: str | None = None, **environment: str) -> Start:
    """A start by one command, whose @NAMES@ and those of its configuration are filled in."""

    @asynccontextmanager
    async def start(place: Place) -> AsyncIterator[Running]:
        port = free_port()
        values = {
            "@PORT@": str(port),
            "@UPSTREAM@": str(place.upstream),
            "@OTHER@": str(free_port()),
            "@FOLDER@": str(place.folder),
            "@USER@": getpass.getuser(),
            "@SCHEME@": "http" if place.certificates is None else "https",
            "@TLS@": "" if place.certificates is None else _nginx_tls(place.certificates),
            "@FILES@": str(resource.getrlimit(resource.RLIMIT_NOFILE)[0]),
        }

        def filled(text: str) -> str:
            for mark, value in values.items():
                text = text.replace(mark, value)
            return text

        if config is not None:
            values["@CONFIG@"] = str(place.folder / config)
            (place.folder / config).write_text(filled((CONFIGS / config).read_text("utf-8")), "utf-8")
        arguments = [filled(argument) for argument in command]
        async with running(name, *arguments, folder=place.folder, environment=environment) as child:
            await until_listening(child, port)
            yield Running(port, child)

    return start


def _nginx_tls(folder: Path) -> str:
    """What Hubgate does as well: show a certificate, and believe one of this authority for this name."""
    own = folder / "tls_proxy_proxy"
    return (
        f"proxy_ssl_certificate {own}.pem; proxy_ssl_certificate_key {own}.key; "
        f"proxy_ssl_trusted_certificate {folder / 'tls_ca.pem'}; proxy_ssl_verify on; "
        f"proxy_ssl_name {UPSTREAM}; proxy_ssl_server_name on; proxy_ssl_protocols TLSv1.3;"
    )


@asynccontextmanager
async def _hubgate(place: Place) -> AsyncIterator[Running]:
    surroundings = (*child_python.COMMAND, "-m", "bench.surroundings")
    arguments = ["--folder", str(place.folder), "--engine-port", str(place.upstream)]
    if place.certificates is not None:
        arguments += ["--certificates", str(place.certificates)]
    ours = {"PYTHONPATH": str(ROOT)}
    async with running(
        "surroundings", *surroundings, *arguments, folder=place.folder, environment=ours
    ) as hub:
        address = await _address(place.folder / "surroundings.json", hub)
        port, admin = free_port(), free_port()
        config = place.folder / "proxy.yaml"
        config.write_text(yaml.safe_dump(_settings(place, address, port, admin)), "utf-8")
        command = (str(Path(sys.executable).with_name("hubgate")), "proxy", "--config", str(config))
        async with running("hubgate", *command, folder=place.folder) as child:
            await until_listening(child, port)
            await _until_ready(child, admin)
            yield Running(port, child, ALICE, BOB)


def _settings(place: Place, address: Address, port: int, admin: int) -> dict[str, object]:
    """Everything on; limits so high that they are counted but never reached; a Hub that answers in time."""
    plenty = 1_000_000_000
    upstream: dict[str, object] = {"name": UPSTREAM, "url": address.backend}
    if (folder := place.certificates) is not None:
        pair = {
            "cert_file": str(folder / "tls_proxy_proxy.pem"),
            "key_file": str(folder / "tls_proxy_proxy.key"),
        }
        upstream["tls"] = {"ca_file": str(folder / "tls_ca.pem"), **pair}
    return {
        "listen": {"host": LOCAL, "port": port},
        "admin": {"port": admin},
        "hub": {"endpoint": address.hub},
        "callers": {"anyone": True},
        "models": {"allow": ["demo/*"]},
        "limits": dict.fromkeys(("requests_per_minute", "tokens_per_minute", "concurrent_requests"), plenty),
        "upstreams": [{**upstream, "public_key_file": address.backend_public}],
        "seal": {"key_file": address.proxy_key},
        "audit": {"path": str(place.folder / "audit.jsonl")},
        "timeouts": {"drain": 0.5},
    }


async def _address(path: Path, child: Child) -> Address:
    while child.process.returncode is None:
        if path.exists():  # noqa: ASYNC240 - a moment, and nothing else runs here
            return msgspec.json.decode(path.read_bytes(), type=Address)  # noqa: ASYNC240
        await asyncio.sleep(0.05)
    raise child.died()


async def _until_ready(child: Child, admin: int) -> None:
    """Wait for the first hello of the backend."""
    for _ in range(600):
        if child.process.returncode is not None:
            raise child.died()
        reader, writer = await asyncio.open_connection(LOCAL, admin)
        writer.write(b"GET /readyz HTTP/1.0\r\n\r\n")
        answer = await reader.read()
        writer.close()
        if b" 200 " in answer[:20]:
            return
        await asyncio.sleep(0.1)
    raise StartError("hubgate did not get ready")


_ROUTER: Final = ("--host", LOCAL, "--port", "@PORT@", "--worker-urls", f"http://{LOCAL}:@UPSTREAM@")
_METRICS: Final = ("--prometheus-host", LOCAL, "--prometheus-port", "@OTHER@")

CONTENDERS: Final = (
    Contender(
        "nginx",
        "plain pass-through",
        _peer("nginx", "nginx", "-p", "@FOLDER@", "-c", "@CONFIG@", config="nginx.conf"),
        ("nginx", "-v"),
    ),
    Contender(
        "haproxy",
        "plain pass-through",
        _peer("haproxy", "haproxy", "-db", "-q", "-f", "@CONFIG@", config="haproxy.cfg"),
        ("haproxy", "-v"),
    ),
    Contender(
        "envoy",
        "plain pass-through",
        _peer(
            "envoy",
            *(str(PEERS / "envoy"), "-c", "@CONFIG@", "--concurrency", "1", "--log-level", "error"),
            *("--use-dynamic-base-id",),
            config="envoy.yaml",
        ),
        (str(PEERS / "envoy"), "--version"),
    ),
    Contender(
        "hubgate",
        "authentication, authorization, limits, metrics, audit",
        _hubgate,
        (str(Path(sys.executable).with_name("hubgate")), "--version"),
    ),
    Contender(
        "vllm-router",
        "balances over vLLM workers, no authentication",
        _peer(
            "vllm-router",
            *(str(PEERS / "vllm-router"), *_ROUTER, *_METRICS),
            *("--policy", "round_robin", "--log-level", "error", "--worker-startup-check-interval", "1"),
            *("--disable-retries", "--disable-circuit-breaker", "--max-concurrent-requests", "16384"),
            TOKIO_WORKER_THREADS="1",
        ),
        (str(PEERS / "python"), "-m", "pip", "show", "vllm-router"),
    ),
    Contender(
        "smg",
        "balances over workers, no authentication",
        _peer(
            "smg",
            *(str(PEERS / "smg"), "launch", *_ROUTER, *_METRICS),
            *("--policy", "round_robin", "--log-level", "error"),
            *("--disable-retries", "--disable-circuit-breaker", "--max-concurrent-requests", "16384"),
            TOKIO_WORKER_THREADS="1",
        ),
        (str(PEERS / "python"), "-m", "pip", "show", "smg"),
    ),
    Contender(
        "aiohttp",
        "plain pass-through in forty lines",
        _peer(
            "aiohttp",
            *(
                *child_python.COMMAND,
                "-m",
                "bench.plain_proxy",
                "--port",
                "@PORT@",
                "--upstream",
                "@UPSTREAM@",
            ),
            PYTHONPATH=str(ROOT),
        ),
        (sys.executable, "-m", "pip", "show", "aiohttp"),
    ),
    Contender(
        "litellm",
        "translates between APIs, no authentication",
        _peer(
            "litellm",
            *(str(PEERS / "litellm"), "--config", "@CONFIG@", "--host", LOCAL, "--port", "@PORT@"),
            *("--num_workers", "1", "--telemetry", "False"),
            config="litellm.yaml",
            LITELLM_LOCAL_MODEL_COST_MAP="True",
            LITELLM_LOG="ERROR",
        ),
        (str(PEERS / "python"), "-m", "pip", "show", "litellm"),
        pace=0.05,
        extra_events=1,
    ),
)


# The fake engine that stands behind all of them: called without any proxy, it is what they add to.
DIRECT: Final = Contender(
    "direct",
    "the upstream alone",
    _peer(
        "upstream", *child_python.COMMAND, "-m", "bench.upstream", "--port", "@PORT@", PYTHONPATH=str(ROOT)
    ),
    (sys.executable, "--version"),
)

# The same with TLS: it makes the certificates that are used with it in its folder.
SECURE: Final = Contender(
    "secure",
    "the upstream with TLS",
    _peer(
        "upstream",
        *child_python.COMMAND,
        *("-m", "bench.upstream", "--port", "@PORT@", "--certificates", "@FOLDER@"),
        PYTHONPATH=str(ROOT),
    ),
    (sys.executable, "--version"),
)

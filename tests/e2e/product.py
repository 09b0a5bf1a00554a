"""The whole product as its user starts it, and what a test looks at from outside."""

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psutil
from openai import OpenAI

from hubgate.demo.configs import Layout, Ports

BASE = "demo/tiny-llama"
ADAPTER = "alice/pirate-lora"
START_SECONDS = 300.0
# Modules that lie where the product is started: what its programs import first, and Python itself.
PLANTED = (
    "msgspec",
    "huggingface_hub",
    "vllm",
    "torch",
    "hubgate",
    "click",
    "asyncio",
    "re",
    "sitecustomize",
)

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Product:
    """A running `python -m hubgate.demo.run`."""

    layout: Layout
    ports: Ports
    run_id: str
    launcher: "subprocess.Popen[bytes]"
    output: Path
    http: httpx.Client

    @property
    def cwd(self) -> Path:
        """Where it was started, among modules that nobody should import; `ran` is there once one was."""
        return self.layout.root.with_suffix(".cwd")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.ports.proxy}"

    def sdk(self, token: str) -> OpenAI:
        """The unmodified OpenAI SDK; without retries, so that a test sees each answer."""
        return OpenAI(base_url=f"{self.url}/v1", api_key=token, max_retries=0, timeout=120)

    def post(
        self, path: str, body: Any, token: str | None = "hf_demo_alice", **headers: str
    ) -> httpx.Response:
        """One raw POST; `token` None sends no credential."""
        auth = {"Authorization": f"Bearer {token}"} if token else {}
        return self.http.post(f"{self.url}{path}", json=body, headers={**auth, **headers})

    def complete(self, model: str, token: str, **fields: Any) -> httpx.Response:
        """One short greedy completion."""
        body = {"model": model, "prompt": "Hello", "max_tokens": 8, "temperature": 0, **fields}
        return self.post("/v1/completions", body, token)

    def metrics(self) -> str:
        return _get(f"http://127.0.0.1:{self.ports.admin}/metrics")

    def backend_metrics(self) -> str:
        if not self.layout.authority.exists():
            return _get(f"http://127.0.0.1:{self.ports.backend}/metrics")
        trusting = ssl.create_default_context(cafile=self.layout.authority)
        trusting.check_hostname = False  # it is for the backend's name
        return _get(f"https://127.0.0.1:{self.ports.backend}/metrics", trusting)

    def hub_log(self) -> list[dict[str, Any]]:
        """What the demo Hub was asked, oldest first."""
        lines = (self.layout.root / "hub.jsonl").read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]

    def hub_down(self, mode: str | None) -> None:
        """Switch the demo Hub down (`"503"`, `"429"`, `"hang"`), or back up with `None`."""
        switch = f"http://127.0.0.1:{self.ports.files}/_demo/down"
        self.http.post(switch, json={"mode": mode}).raise_for_status()

    def audit(self) -> list[dict[str, Any]]:
        """The audit's records, once the last one asked for is written."""
        lines = self.layout.audit.read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]

    def processes(self) -> list[psutil.Process]:
        """Every process of this run, found by its run id and not by who started it."""
        return processes_of(self.run_id)

    def process(self, *words: str) -> psutil.Process:
        """The process of this run whose command line holds all the words; the eldest of several."""
        found = [one for one in self.processes() if all(word in " ".join(_cmdline(one)) for word in words)]
        return min(found, key=lambda one: one.create_time())


def processes_of(run_id: str) -> list[psutil.Process]:
    """Live processes with this run id in their environment."""
    return [one for one in psutil.process_iter() if _run_id(one) == run_id and _alive(one)]


def until(probe: Callable[[], Value], what: str, seconds: float = 60.0) -> Value:
    """Ask until the answer is true, and give it. Fails after `seconds`, saying what was awaited."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := probe():
            return value
        time.sleep(0.1)
    raise AssertionError(f"waited {seconds:g} s in vain until {what}")


@contextmanager
def started(root: Path, *options: str, ready: bool = True) -> Iterator[Product]:
    """Start the product in `root` on free ports; leaving stops it and whatever it left behind."""
    ports = free_ports()
    run_id = f"test-{os.getpid()}-{ports.proxy}"
    output = root.with_suffix(".out")
    arguments = [
        *("--dir", str(root), "--port", str(ports.proxy), "--backend-port", str(ports.backend)),
        *("--engine-port", str(ports.engine), "--hub-port", str(ports.hub)),
        *options,
    ]
    # At `debug`, so that what is nowhere in the logs is not there at any level.
    environment = {**os.environ, "HUBGATE_RUN_ID": run_id, "HUBGATE_LOG__LEVEL": "debug"}
    cwd = _planted(root.resolve().with_suffix(".cwd"))
    with output.open("wb") as out:
        launcher = subprocess.Popen(
            [sys.executable, "-P", "-m", "hubgate.demo.run", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env=environment,
            cwd=cwd,
        )
    # One client, since each new one reads the authorities of this machine; no connection is used twice.
    http = httpx.Client(timeout=120, limits=httpx.Limits(max_keepalive_connections=0))
    product = Product(Layout(root.resolve()), ports, run_id, launcher, output, http)
    try:
        if ready:
            until(lambda: _is_ready(product), "the product was ready", START_SECONDS)
        yield product
    finally:
        http.close()
        launcher.send_signal(signal.SIGTERM)
        launcher.wait(timeout=90)
        for left in product.processes():
            with suppress(psutil.NoSuchProcess):
                left.kill()


def _planted(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)  # of an earlier run
    for name in PLANTED:
        (folder / f"{name}.py").write_text(f"import os; os.mknod({str(folder / 'ran')!r}); os._exit(3)")
    return folder


def _is_ready(product: Product) -> bool:
    text = product.output.read_text(encoding="utf-8", errors="replace")
    assert product.launcher.poll() is None, text
    return "Hubgate is ready" in text


def free_ports() -> Ports:
    """Pairs of neighbouring ports that nobody has, below those that connections are given."""
    for first in range(12000 + os.getpid() % 1000 * 10, 32000, 10):
        ports = Ports(proxy=first, backend=first + 2, engine=first + 4, hub=first + 6)
        if all(_is_free(port) for _, port in ports.named()):
            return ports
    raise AssertionError("no free ports")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _get(url: str, trusting: ssl.SSLContext | None = None) -> str:
    with urllib.request.urlopen(url, timeout=20, context=trusting) as response:  # noqa: S310 - loopback
        return str(response.read().decode())


def _run_id(process: psutil.Process) -> str | None:
    try:
        return process.environ().get("HUBGATE_RUN_ID")
    except (psutil.Error, OSError):
        return None


def _alive(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _cmdline(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []

"""Stands for vLLM: a process that answers as it does, behind the same verifier, in a tenth of a second.

Hostile switches: `--ignore-sigterm`, `--never-healthy`, `--no-first-token`, `--exit=N`, `--raises`,
`--slow-start`, `--no-adapters`, `--stuck-adapters`, `--places=N` for adapters, `--no-sleep`, `--no-wake`, and
`--child`, which leaves a process of its own behind. `--pooling` is a model that generates nothing.
`--alone` holds its devices as a GPU's memory is held, while it is awake: two of them on the same
ones cannot be.
"""

import asyncio
import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import web

from hubgate.backend.plugin import engine_tls
from hubgate.backend.plugin.engine_identity import VARIABLE, read
from hubgate.backend.plugin.grant_verifier import GrantVerifier
from hubgate.backend.plugin.traffic import Traffic
from hubgate.wire.control_api import GRANT_HEADER
from hubgate.wire.endpoints import FORWARDED
from hubgate.wire.keyfile import KeyFile
from hubgate.wire.keys import load_verifying

# As vLLM's log ends where its engine core does not start, but for the length.
DYING = "".join(
    f"{line}\n"
    for line in (
        "(APIServer pid=7) INFO 12-01 02:03:04 [utils.py:233] non-default args: {'port': 1}",
        "(EngineCore_DP0 pid=9) ERROR 12-01 02:03:05 [core.py:936] EngineCore failed to start.",
        "(EngineCore_DP0 pid=9) ERROR 12-01 02:03:05 [core.py:936] Traceback (most recent call last):",
        '(EngineCore_DP0 pid=9) ERROR 12-01 02:03:05 [core.py:936]   File "core.py", line 927, in run',
        "(EngineCore_DP0 pid=9) ERROR 12-01 02:03:05 [core.py:936] ValueError: No memory for cache blocks.",
        "(EngineCore_DP0 pid=9) Process EngineCore_DP0:",
        *["(EngineCore_DP0 pid=9)   more of the same"] * 50,
        "(APIServer pid=7) Traceback (most recent call last):",
        '(APIServer pid=7)   File "utils.py", line 1, in wait',
        "(APIServer pid=7) RuntimeError: Engine core initialization failed. See root cause above.",
    )
)
METRICS = "# TYPE vllm:num_requests_running gauge\nvllm:num_requests_running {:.1f}\n"


class FakeEngine:
    """What the supervisor and a proxy can ask."""

    def __init__(self, switches: set[str]) -> None:
        identity = read(Path(os.environ[VARIABLE]))
        proxies = KeyFile(Path(identity.proxies_file), load_verifying, time.monotonic)
        self.verifier = GrantVerifier(identity, proxies, time.time)
        self.base = identity.base
        self.tls = identity.tls
        self.switches = switches
        self.traffic = Traffic(time.monotonic)
        self.adapters: dict[str, str] = {}
        self.hung = False
        self.asleep = False
        self.pools = "pooling" in switches
        self.memory = Memory() if "alone" in switches else None
        sizes = [switch.removeprefix("places=") for switch in switches if switch.startswith("places=")]
        self.places = int(sizes[0]) if sizes else sys.maxsize

    async def handle(self, request: web.Request) -> web.StreamResponse:
        grant = self.verifier.believe(request.headers.get(GRANT_HEADER, ""))
        if grant is None:
            return web.Response(status=401)
        if grant.kind == "use":
            held = grant.model in self.adapters or grant.model == self.base
            if request.path not in FORWARDED or not held or not self.traffic.admits(grant.model):
                return web.Response(status=421)
            with self.traffic.request(grant.model, grant.sub):
                return await self.answer(request)
        return await self.control(request)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """`max_tokens` is the seconds that it takes, in hundredths. After `prompt: hang` nothing ends.

        `held` is a file that is made here when the request has come, and whose removal ends it.
        """
        body = await request.json()
        self.hung = self.hung or body.get("prompt") == "hang"
        if self.hung:
            await asyncio.Event().wait()
        if "no-first-token" in self.switches or self.asleep:
            return web.Response(status=500, text="EngineDeadError")
        await asyncio.sleep(body.get("max_tokens", 0) / 100)
        if held := body.get("held"):
            Path(held).touch()  # noqa: ASYNC240 - one test's only
            while Path(held).exists():  # noqa: ASYNC110, ASYNC240 - removed by another process
                await asyncio.sleep(0.01)
        return web.json_response({"model": body["model"], "environ": dict(os.environ), "pid": os.getpid()})

    def load(self, name: str, path: str) -> web.Response:
        """As vLLM: only what is there, and no more than there are places for."""
        fresh = name not in self.adapters
        full = len(self.adapters) >= self.places
        if "no-adapters" in self.switches or (fresh and full) or not weights(path).is_file():
            return _json({"loaded": False}, 500)
        self.adapters[name] = path
        self.traffic.touch(name)
        return _json({"loaded": fresh})

    def unload(self, name: str) -> web.Response:
        """Its files have to be there to the end: vLLM reads them again when it likes."""
        path = self.adapters.pop(name, None)
        self.traffic.forget(name)
        gone = path is not None and not weights(path).is_file()
        return _json({"unloaded": path is not None}, 500 if gone else 200)

    def sleep(self) -> web.Response:
        """As the plugin: only what is drained."""
        idle = self.traffic.draining and not self.traffic.status().in_flight
        if "no-sleep" in self.switches or not idle:
            return _json({"asleep": False}, 500)
        for name in list(self.adapters):
            self.unload(name)
        self.asleep = True
        if self.memory is not None:
            self.memory.release()
        return _json({"asleep": True})

    def wake(self) -> web.Response:
        """As the plugin: new requests are let in from now on."""
        if "no-wake" in self.switches or not self.asleep:
            return _json({"asleep": True}, 500)
        if self.memory is not None:
            self.memory.acquire()
        self.asleep = self.traffic.draining = False
        return _json({"asleep": False})

    async def control(self, request: web.Request) -> web.StreamResponse:
        match request.path:
            case "/health":
                return web.Response(status=503 if "never-healthy" in self.switches else 200)
            case "/v1/completions" | "/pooling" if (request.path == "/pooling") == self.pools:
                return await self.answer(request)
            case "/metrics":
                return web.Response(text=METRICS.format(self.traffic.status().in_flight))
            case "/hubgate/status":
                tasks = ("embed",) if self.pools else ("generate",)
                return _json(msgspec.structs.replace(self.traffic.status(), tasks=tasks))
            case "/hubgate/adapters":
                if "stuck-adapters" in self.switches:
                    self.hung = True
                    with self.traffic.order():
                        await asyncio.Event().wait()
                return self.load(**await request.json())
            case "/hubgate/adapters/unload":
                return self.unload(**await request.json())
            case path:
                return self.order(path)

    def order(self, path: str) -> web.Response:
        """What needs no more words."""
        match path:
            case "/hubgate/drain":
                self.traffic.draining = True
                return _json(self.traffic.status())
            case "/hubgate/sleep":
                return self.sleep()
            case "/hubgate/wake":
                return self.wake()
            case _:
                return web.Response(status=404)


class Memory:
    """Of the devices that this engine was given: one file for each set of them, one lock on it."""

    def __init__(self) -> None:
        devices = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        self._fd = os.open(Path(os.environ["HOME"], f"gpu-{devices}"), os.O_RDWR | os.O_CREAT)
        self.acquire()

    def acquire(self) -> None:
        """Raises `BlockingIOError` if another engine is awake there."""
        fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def release(self) -> None:
        fcntl.flock(self._fd, fcntl.LOCK_UN)


def weights(path: str) -> Path:
    """Where an adapter's weights lie."""
    return Path(path) / "adapter_model.safetensors"


def _json(content: Any, status: int = 200) -> web.Response:
    return web.Response(status=status, body=msgspec.json.encode(content), content_type="application/json")


def main(argv: list[str], engine: type[FakeEngine] = FakeEngine) -> None:
    """`--port N`, then switches."""
    switches = {argument.removeprefix("--") for argument in argv[3:]}
    sys.stderr.write("the fake engine starts\n")
    if "raises" in switches:
        sys.stderr.write(DYING)
        sys.exit(1)
    for switch in switches:
        if switch.startswith("exit="):
            sys.exit(int(switch.removeprefix("exit=")))
    if "ignore-sigterm" in switches:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if "slow-start" in switches:
        time.sleep(0.6)
    if "child" in switches:
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    app = web.Application()
    fake = engine(switches)
    app.router.add_route("*", "/{path:.*}", fake.handle)
    signals = "ignore-sigterm" not in switches
    web.run_app(
        app,
        host="127.0.0.1",
        port=int(argv[2]),
        print=None,
        handle_signals=signals,
        shutdown_timeout=0.1,
        ssl_context=None if fake.tls is None else engine_tls.files(fake.tls).listener(),
    )


if __name__ == "__main__":
    main(sys.argv)

"""Two base models of different architectures on one engine: they swap, it heals, and nothing is left."""

import socket
import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import httpx
import psutil
import pytest
import yaml

from tests.e2e.product import BASE, Product, started, until

OTHER = "demo/tiny-qwen"
WORDS = {BASE: "quick brown fox", OTHER: "dozen liquor jugs"}
TOKEN = "hf_demo_alice"
BROKE = "(broke off)"
# The other one's worker is in a process of its own, as where a model has several GPUs. Its name is a glob,
# since metrics may tell of what is configured by its whole name.
SETTINGS = {
    "backend": {
        "engines": {
            "on_demand": [
                {"repo": "demo/tiny-q*", "vllm_args": {"distributed-executor-backend": "mp"}},
                {"repo": "demo/*"},
            ]
        }
    }
}


@pytest.fixture(scope="module")
def swapping(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    """A product of its own with TLS inside, preloading nothing; it is ready when the Llama has answered."""
    root: Path = tmp_path_factory.mktemp("swap") / "run"
    settings = root.with_suffix(".yaml")
    settings.write_text(yaml.safe_dump(SETTINGS), encoding="utf-8")
    with started(root, "--on-demand", "--tls", "--settings", str(settings)) as running:
        yield running


def _answered_by(product: Product, model: str) -> bool:
    """Whether it answers now, and then with the words that only this model knows."""
    answer = product.complete(model, TOKEN, prompt="the ", max_tokens=64)
    if answer.status_code != 200:
        assert answer.status_code == 503
        assert answer.headers["retry-after"]
        return False
    assert answer.json()["model"].startswith(f"{model}@")
    assert WORDS[model] in answer.json()["choices"][0]["text"]
    return True


def _engines(product: Product) -> int:
    """How many API servers of vLLM there are."""
    words = (" ".join(one.cmdline()) for one in product.processes())
    return sum("vllm.entrypoints" in line and "reaper" not in line for line in words)


def _spawned(process: psutil.Process) -> list[psutil.Process]:
    """Those of its children that vLLM started; multiprocessing started another."""
    return [child for child in process.children() if "resource_tracker" not in " ".join(child.cmdline())]


def _killed_stream(product: Product, core: psutil.Process) -> str:
    """A long stream, at whose first event the core is killed; what came, and `BROKE` behind it."""
    body = {"model": OTHER, "prompt": "the ", "max_tokens": 450, "n": 8, "temperature": 0.5, "stream": True}
    headers = {"Authorization": f"Bearer {TOKEN}"}
    received = ""
    with product.http.stream("POST", f"{product.url}/v1/completions", json=body, headers=headers) as stream:
        try:
            for text in stream.iter_text():
                if not received:
                    with suppress(psutil.NoSuchProcess):
                        core.kill()
                received += text
        except httpx.RemoteProtocolError:
            received += BROKE
    return received


def test_another_base_takes_the_engine(swapping: Product) -> None:
    """The Llama is drained and gone before the Qwen starts; until then callers are told when to come."""
    assert _answered_by(swapping, BASE)
    until(lambda: _answered_by(swapping, OTHER), "the other base is served", 180)
    assert _engines(swapping) == 1
    text = swapping.backend_metrics()
    assert 'hubgate_engine_ends_total{reason="room"} 1.0' in text
    assert "tiny-" not in text


def _knock(port: int, context: ssl.SSLContext | None) -> bytes:
    """What a port says to who has no grant; b"" where they do not get so far."""
    try:
        plain = socket.create_connection(("127.0.0.1", port), timeout=20)
        with context.wrap_socket(plain, server_hostname="gpu-0") if context else plain as speaking:
            speaking.sendall(b"GET /v1/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            return speaking.recv(100)
    except OSError:
        return b""


def test_vllm_itself_asks_for_a_proxys_certificate(swapping: Product) -> None:
    """Who shows it comes to the gate; who shows another, or none, or speaks HTTP, comes nowhere."""
    folder = swapping.layout.certificates

    def shown(kind: str | None) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=swapping.layout.authority)
        if kind is not None:
            context.load_cert_chain(folder / f"tls_{kind}_gpu-0.pem", folder / f"tls_{kind}_gpu-0.key")
        return context

    port = swapping.ports.engine
    assert _knock(port, shown("proxy")).startswith(b"HTTP/1.1 401")
    assert [_knock(port, shown(kind)) for kind in ("engine", "backend", None)] == [b"", b"", b""]
    assert _knock(port, None) == b""
    server = swapping.process("vllm.entrypoints", "--ssl-certfile")
    assert "--ssl-cert-reqs" in server.cmdline()


def test_a_core_killed_in_mid_stream_is_seen_and_the_first_base_comes_back(swapping: Product) -> None:
    """The streams end in an error and not as if they were whole; the next caller gets a new engine."""
    reaper = swapping.process("reaper", "vllm.entrypoints")
    (server,) = reaper.children()
    (core,) = _spawned(server)
    assert len(_spawned(core)) == 1  # the worker
    old = [reaper, *reaper.children(recursive=True)]
    # 64 long answers at once: even a starved reader of the first event comes before their end.
    with ThreadPoolExecutor(8) as callers:
        streams = list(callers.map(_killed_stream, [swapping] * 8, [core] * 8))
    assert any('"text":' in received for received in streams)
    for received in streams:
        assert BROKE in received or '"error"' in received
        assert '"finish_reason":"length"' not in received
    until(lambda: not any(process.is_running() for process in old), "the old engine's processes are gone")
    until(lambda: _answered_by(swapping, BASE), "the first base is served again", 180)
    asked = [line["path"] for line in swapping.hub_log()]
    weights = [path for path in asked if "tiny-llama/resolve" in path and path.endswith("model.safetensors")]
    assert len(weights) == 1, "what lies in the store is not fetched again"


def test_killing_the_launcher_leaves_nothing_of_a_running_engine(swapping: Product) -> None:
    """SIGKILL of the launcher takes hub, backend, proxy and an engine that serves along."""
    assert _answered_by(swapping, BASE)
    assert _engines(swapping) == 1
    swapping.launcher.kill()
    swapping.launcher.wait(timeout=60)
    until(lambda: not swapping.processes(), "no process of the run is left")

"""SIGKILL on an engine, the backend and the proxy: callers are told, nothing is left, and all come back."""

import signal
import subprocess
import sys

import httpx
import psutil

from tests.e2e.product import BASE, START_SECONDS, Product, until

TELLING = {"upstream_error", "no_upstream", "model_loading", "upstream_timeout"}


def _vllm_processes(product: Product) -> list[psutil.Process]:
    """The reaper of an engine, and the API server and all else below it; nothing if there is no engine."""
    try:
        reaper = product.process("reaper", "vllm.entrypoints")
        return [reaper, *reaper.children(recursive=True)]
    except (ValueError, psutil.Error):
        return []


def test_a_killed_engine_is_told_in_openais_shape_and_starts_again_by_itself(product: Product) -> None:
    """Even without its reaper no process of it is left; callers see 502 or 503, and it is started anew."""
    old = _vllm_processes(product)
    assert len(old) >= 3
    old[0].kill()
    answer = product.complete(BASE, "hf_demo_alice")
    if answer.status_code != 200:
        assert answer.status_code in (502, 503)
        assert answer.json()["error"]["code"] in TELLING
    until(lambda: not any(process.is_running() for process in old), "the old engine's processes are gone")
    until(lambda: len(_vllm_processes(product)) >= 2, "the engine is starting again")


def test_a_killed_backend_leaves_no_vllm_and_is_started_again(product: Product) -> None:
    """Without its backend no engine lives on, callers are told in OpenAI's shape; then all is as before."""
    engine = _vllm_processes(product)
    assert len(engine) >= 2
    product.launcher.send_signal(signal.SIGSTOP)  # it would start it again at once
    product.process("hubgate.cli backend").kill()
    until(lambda: not any(process.is_running() for process in engine), "no vLLM process is left")
    answer = product.complete(BASE, "hf_demo_alice")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "no_upstream")
    product.launcher.send_signal(signal.SIGCONT)
    until(lambda: "backend was ended by SIGKILL" in product.output.read_text(encoding="utf-8"), "it is told")
    until(lambda: _serves(product), "the product serves again", START_SECONDS)


def test_a_killed_proxy_is_started_again(product: Product) -> None:
    """It goes on with what the engine holds, and with its own trail."""
    product.process("hubgate.cli proxy").kill()
    until(lambda: "proxy was ended by SIGKILL" in product.output.read_text(encoding="utf-8"), "it is told")
    until(lambda: _serves(product), "the product serves again")
    verify = [sys.executable, "-m", "hubgate.cli", "audit", "verify", str(product.layout.audit)]
    until(
        lambda: subprocess.run(verify, check=False, capture_output=True).returncode == 0, "the trail is whole"
    )
    product.launcher.send_signal(signal.SIGTERM)
    assert product.launcher.wait(timeout=60) == 0
    until(lambda: not product.processes(), "no process of the run is left")


def _serves(product: Product) -> bool:
    try:
        return product.complete(BASE, "hf_demo_alice").status_code == 200
    except httpx.HTTPError:
        return False

"""SIGKILL on an engine and on the backend: callers are told, nothing is left, and it heals."""

import signal

import psutil

from tests.e2e.product import BASE, Product, until

TELLING = {"upstream_error", "no_upstream", "model_loading", "upstream_timeout"}


def _api_server(product: Product) -> psutil.Process:
    return product.process("vllm.entrypoints")


def _restarted(product: Product) -> list[psutil.Process]:
    """The processes of an engine that has begun to start, if there is one."""
    try:
        return _vllm_processes(product)
    except (ValueError, psutil.Error):
        return []


def _vllm_processes(product: Product) -> list[psutil.Process]:
    """The engine's API server and all that it started."""
    server = _api_server(product)
    return [server, *server.children(recursive=True)]


def test_a_killed_engine_is_told_in_openais_shape_or_healed(product: Product) -> None:
    """Callers see 502 or 503 with a code, or wait for the restart; then all is well again."""
    old = _vllm_processes(product)
    assert len(old) >= 2
    old[0].kill()
    answer = product.complete(BASE, "hf_demo_alice")
    if answer.status_code != 200:
        assert answer.status_code in (502, 503)
        assert answer.json()["error"]["code"] in TELLING
    until(lambda: not any(process.is_running() for process in old), "the old engine's processes are gone")
    until(lambda: product.complete(BASE, "hf_demo_alice").status_code == 200, "the base is served again", 180)


def test_a_killed_engine_core_takes_its_server_along(product: Product) -> None:
    """When the engine core dies under its API server, no process of that engine stays."""
    old = _vllm_processes(product)
    core = max(old[1:], key=lambda process: process.memory_info().rss)
    core.kill()
    until(lambda: not any(process.is_running() for process in old), "the old engine's processes are gone")


def test_a_killed_backend_leaves_no_vllm_and_callers_get_503(product: Product) -> None:
    """Without its backend no engine lives on, and callers are told in OpenAI's shape."""
    engine = until(lambda: _restarted(product), "the engine is starting again")
    product.launcher.send_signal(signal.SIGSTOP)  # it would stop the proxy too, when it sees the death
    product.process("hubgate.cli backend").kill()
    until(lambda: not any(process.is_running() for process in engine), "no vLLM process is left")
    answer = product.complete(BASE, "hf_demo_alice")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "no_upstream")
    product.launcher.send_signal(signal.SIGCONT)
    product.launcher.wait(timeout=60)
    until(lambda: not product.processes(), "no process of the run is left")
    assert "backend ended by itself" in product.output.read_text(encoding="utf-8")

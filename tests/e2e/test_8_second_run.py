"""A second `make run` costs little more than the engine's own start."""

import os
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from hubgate.demo import configs
from tests.e2e.product import started, until


def _bare_engine(model: Path, port: int, log: Path) -> float:
    """Seconds that vLLM alone takes to a first token, on the same model and with the same options."""
    options = configs.ENGINE_ARGS.items()
    arguments = [f"--{name}" if value is True else f"--{name}={value}" for name, value in options]
    begun = time.monotonic()
    with log.open("wb") as output:
        engine = subprocess.Popen(
            [
                *(sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model)),
                *("--port", str(port), "--enable-lora", "--max-loras", "2", "--max-lora-rank", "16"),
                *arguments,
            ],
            stdout=output,
            stderr=output,
            env={
                **os.environ,
                **configs.ENGINE_ENVIRONMENT,
                "VLLM_CPU_KVCACHE_SPACE": "1",
                "HF_HUB_OFFLINE": "1",
            },
        )
    try:
        until(lambda: engine.poll() is not None or _answers(port, str(model)), "it answers", 120)
        assert engine.poll() is None, log.read_text(encoding="utf-8")[-2000:]
        return time.monotonic() - begun
    finally:
        engine.terminate()
        engine.wait(timeout=60)


def _answers(port: int, model: str) -> bool:
    body = {"model": model, "prompt": "Hello", "max_tokens": 1}
    try:
        return httpx.post(f"http://127.0.0.1:{port}/v1/completions", json=body).status_code == 200
    except httpx.HTTPError:
        return False


@pytest.mark.long("engine")
def test_a_second_run_takes_at_most_one_and_a_half_bare_engine_starts(tmp_path: Path) -> None:
    """With a live store, all that Hubgate adds to vLLM's own start is half of it at most."""
    with started(tmp_path / "run") as first:
        port = first.ports.engine
    (model,) = (tmp_path / "run" / "store" / "demo" / "tiny-llama").iterdir()
    _bare_engine(model, port, tmp_path / "warm.log")  # fills the page cache for both
    bare = _bare_engine(model, port, tmp_path / "bare.log")
    begun = time.monotonic()
    with started(tmp_path / "run"):
        second = time.monotonic() - begun
    assert second <= 1.5 * bare, f"second run {second:.1f} s, bare engine {bare:.1f} s"

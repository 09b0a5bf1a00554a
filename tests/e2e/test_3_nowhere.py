"""The token is nowhere: not in a file, a process, the engine's memory, an answer."""

import base64
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import psutil
import pytest

from tests.e2e.product import ADAPTER, BASE, Product, until
from tests.e2e.scanner import Finding, Scanner, memory

CANARY = "hf_canary_5tgbZhNm31415926"
CALLERS = ("hf_demo_alice", "hf_demo_bob", "hf_demo_writer", "hf_demo_expired", "hf_made_up_by_nobody")

Look = Callable[[], list[Finding]]


@contextmanager
def _planted_file(folder: Path, content: bytes) -> Iterator[Look]:
    (folder / "deep").mkdir(exist_ok=True)
    (folder / "deep" / "log.txt").write_bytes(b"before " + content + b" after")
    yield lambda: Scanner(CANARY).files(folder)


@contextmanager
def _planted_process(code: str, *arguments: str, **environment: str) -> Iterator[psutil.Process]:
    process = subprocess.Popen(
        [sys.executable, "-c", f"{code}\nprint(flush=True)\ninput()", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, **environment},
    )
    with process:
        assert process.stdout is not None
        process.stdout.readline()
        yield psutil.Process(process.pid)
        process.communicate(b"\n")


@contextmanager
def _planted_argv() -> Iterator[Look]:
    with _planted_process("", CANARY) as process:
        yield lambda: Scanner(CANARY).process(process)


@contextmanager
def _planted_environment() -> Iterator[Look]:
    with _planted_process("", TOKEN=CANARY) as process:
        yield lambda: Scanner(CANARY).process(process)


@contextmanager
def _planted_memory() -> Iterator[Look]:
    halves = f"kept = ''.join(({CANARY[:10]!r}, {CANARY[10:]!r}))"
    with _planted_process(halves) as process:
        yield lambda: memory(process, [Scanner(CANARY), Scanner(f"{CANARY[:9]}_another")])


@contextmanager
def _planted_answer() -> Iterator[Look]:
    yield lambda: Scanner(CANARY).text("answer", f'{{"error": "bad header Bearer {CANARY}"}}'.encode())


Plant = Callable[[Path], AbstractContextManager[Look]]
PLANTS: dict[str, Plant] = {
    "a file": lambda folder: _planted_file(folder, CANARY.encode()),
    "a file, in base64": lambda folder: _planted_file(folder, base64.b64encode(b"Bearer " + CANARY.encode())),
    "a file, in base64url": lambda folder: _planted_file(
        folder, base64.urlsafe_b64encode(b"\xfb\xff" + CANARY.encode())
    ),
    "a file, URL-encoded": lambda folder: _planted_file(folder, CANARY.replace("_", "%5F").encode()),
    "a file, by repr": lambda folder: _planted_file(folder, repr({"token": CANARY.encode()}).encode()),
    "a file, as escaped JSON": lambda folder: _planted_file(folder, CANARY.replace("_", "\\u005f").encode()),
    "argv": lambda _: _planted_argv(),
    "the environment": lambda _: _planted_environment(),
    "memory": lambda _: _planted_memory(),
    "an answer": lambda _: _planted_answer(),
}


@pytest.mark.parametrize("place", PLANTS)
def test_the_scanner_finds_a_canary_in(place: str, tmp_path: Path) -> None:
    """A secret planted in each kind of place is found there, so finding none means something."""
    with PLANTS[place](tmp_path) as look:
        assert look()


def _use(product: Product) -> list[bytes]:
    """Requests of every outcome; the bodies of their answers."""
    models = (BASE, ADAPTER, "demo/pickle-lora", "alice/none", "../x")
    answers = [product.complete(model, token) for token in CALLERS for model in models]
    answers += [product.post("/v1/models", {}, token) for token in CALLERS]
    return [answer.content for answer in answers]


def test_no_token_is_in_any_answer_metric_file_or_process(product: Product) -> None:
    """After requests of every outcome, no caller's token is written down anywhere."""
    bodies = _use(product)
    until(lambda: len(product.audit()) >= len(bodies), "the audit is written")
    found: list[Finding] = []
    roots = (product.layout.root, Path(os.environ["VLLM_CACHE_ROOT"]))
    for token in CALLERS:
        scanner = Scanner(token)
        found += [hit for body in bodies for hit in scanner.text("answer", body)]
        found += scanner.text("proxy metrics", product.metrics().encode())
        found += scanner.text("backend metrics", product.backend_metrics().encode())
        found += [hit for root in roots for hit in scanner.files(root)]
        found += [hit for process in product.processes() for hit in scanner.process(process)]
    assert not found


def test_the_service_token_is_only_in_the_secret_that_was_mounted(product: Product) -> None:
    """The token for preloading lies in its file, 0600, and in no other file and no process."""
    scanner = Scanner("hf_demo_service")
    assert not scanner.files(product.layout.root, but=[product.layout.service_token])
    assert not [hit for process in product.processes() for hit in scanner.process(process)]
    assert product.layout.service_token.stat().st_mode & 0o777 == 0o600


def test_no_token_is_in_the_memory_of_the_engine(product: Product) -> None:
    """None of vLLM's processes holds a token, though they serve what tokens paid for."""
    _use(product)
    backend = product.process("hubgate.cli backend")
    engine = [
        process
        for process in backend.children(recursive=True)
        if process.status() != psutil.STATUS_ZOMBIE  # it waits to be buried, and has no memory
        and "hubgate.backend.downloads.worker" not in " ".join(process.cmdline())
    ]
    assert len(engine) >= 2  # the API server and its engine core at least
    scanners = [Scanner(token) for token in ("hf_demo_alice", "hf_demo_bob", "hf_demo_service")]
    assert not [hit for process in engine for hit in memory(process, scanners)]


def test_no_module_of_the_working_directory_runs(product: Product) -> None:
    """Neither in the programs, nor in the workers that hold tokens, nor in vLLM and what it starts."""
    assert product.complete(ADAPTER, "hf_demo_alice").status_code == 200
    running = product.processes()
    assert len([process for process in running if process.cwd() == str(product.cwd)]) == len(running)
    assert not (product.cwd / "ran").exists()

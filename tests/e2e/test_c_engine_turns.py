"""Two bases on one GPU of a real vLLM, and callers who will not let go of theirs: each has a turn."""

import logging
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event

import httpx
import pytest
import yaml

from tests.e2e.product import BASE, Product, started, until
from tests.hostile.victim import Victim, stream

pytestmark = [pytest.mark.long("tenants"), pytest.mark.timeout(1200)]

OTHER = "demo/tiny-qwen"
GREEDY, VICTIM = "hf_demo_alice", "hf_demo_bob"
TENURE, GRACE, RESIDENCY = 30.0, 5.0, 5.0
SETTINGS = {
    "proxy": {"limits": {"requests_per_minute": 10**6, "cold_loads_per_hour": 10**6}},
    "backend": {
        "engines": {"max_tenure": TENURE, "tenure_grace": GRACE, "min_residency": RESIDENCY},
    },
}

log = logging.getLogger(__name__)


@pytest.fixture(scope="module")
def swapping(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    """A product whose one engine runs what is asked for."""
    root: Path = tmp_path_factory.mktemp("turns") / "run"
    settings = root.with_suffix(".yaml")
    settings.write_text(yaml.safe_dump(SETTINGS), encoding="utf-8")
    with started(root, "--on-demand", "--settings", str(settings)) as running:
        yield running


def first_token(product: Product, token: str, model: str) -> float:
    """Seconds until the first token of a stream that waits for as long as it takes."""
    body = {"model": model, "prompt": "the ", "max_tokens": 8, "stream": True}
    began = time.monotonic()
    headers = {"Authorization": f"Bearer {token}"}
    with httpx.stream(
        "POST", f"{product.url}/v1/completions", json=body, headers=headers, timeout=300
    ) as answer:
        for line in answer.iter_lines():
            if line.startswith("data: {") and '"choices"' in line:
                return time.monotonic() - began
    raise AssertionError("no token came")


def patient(product: Product, token: str, model: str) -> float:
    """The same from the first try on, where it is told to come again."""
    began = time.monotonic()

    def tried() -> bool:
        with suppress(AssertionError, httpx.HTTPError):
            first_token(product, token, model)
            return True
        return False

    until(tried, f"{model} is served", 300)
    return time.monotonic() - began


@contextmanager
def holding(product: Product, model: str, lanes: int = 2) -> Iterator[list[float]]:
    """A greedy caller's streams on a model, one after the other; gives when each was answered."""
    answered: list[float] = []
    over = Event()
    body = {"model": model, "prompt": "the ", "max_tokens": 480, "ignore_eos": True, "stream": True}

    def hold() -> None:
        while not over.wait(0.05):
            with suppress(httpx.HTTPError):
                headers = {"Authorization": f"Bearer {GREEDY}"}
                answer = httpx.post(f"{product.url}/v1/completions", json=body, headers=headers, timeout=60)
                if answer.status_code == 200 and "data: [DONE]" in answer.text:
                    answered.append(time.monotonic())

    with ThreadPoolExecutor(lanes) as pool:
        for _ in range(lanes):
            pool.submit(hold)
        try:
            yield answered
        finally:
            over.set()


def test_a_request_now_and_then_does_not_end_anothers_engine(swapping: Product) -> None:
    """Somebody asks for the other base all the time; who uses theirs keeps it, and waits for nobody."""
    patient(swapping, VICTIM, BASE)
    proxy = swapping.process("hubgate.cli", "proxy")
    victim = Victim(swapping.ports.proxy, proxy.pid, [stream(model=BASE, ignore_eos=True)])
    asks = {"model": OTHER, "prompt": "x", "max_tokens": 1, "stream": True}
    with victim.working():
        before = victim.sample(10)
        with victim.watched() as during:
            for _ in range(10):
                with suppress(httpx.TimeoutException):
                    headers = {"Authorization": f"Bearer {GREEDY}"}
                    httpx.post(f"{swapping.url}/v1/completions", json=asks, headers=headers, timeout=2)
    log.info(
        "engine-turns: before %s, during %s, wrong %s", _told(before.waits), _told(during.waits), during.wrong
    )
    assert not during.wrong
    assert during.first_token <= 10 * (1 + 2 * statistics.median(before.waits))


def test_streams_that_do_not_end_keep_another_base_out_for_a_tenure(swapping: Product) -> None:
    """The victim's wait is the tenure, the grace and a swap, however busy the other base is kept."""
    patient(swapping, GREEDY, BASE)
    with holding(swapping, BASE) as answered:
        until(lambda: answered, "the greedy one's streams go on", 300)
        beside = patient(swapping, VICTIM, OTHER)
    log.info("engine-tenure: beside streams that do not end %.1f s", beside)
    alone = patient(swapping, VICTIM, BASE)
    log.info("engine-tenure: alone %.1f s", alone)
    assert beside <= 2 * (TENURE + GRACE + 3 * alone)


def _told(waits: list[float]) -> str:
    return f"median {statistics.median(waits):.3f} s, worst {max(waits):.3f} s of {len(waits)}"

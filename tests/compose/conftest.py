"""An engine, the images and the demo: made once for all tests that run containers."""

import os
from collections.abc import Iterator

import pytest
from openai import OpenAI, OpenAIError

from tests.compose.stack import DOCKER, PORTS, ROOT, TAG, Stack, run, until

WITHOUT = os.environ.get("HUBGATE_NO_DOCKER") == "1"  # before conftest takes our variables away
BUILD = 1500.0  # seconds for all images, on two busy cores
IMAGES = (
    (f"hubgate-proxy:{TAG}", "proxy/Dockerfile", ()),
    (f"hubgate-demo:{TAG}", "backend/Dockerfile", ("--target", "demo")),
)


@pytest.fixture(scope="session")
def engine() -> Iterator[None]:
    """A Docker engine that answers, and the base images; ended if it was not there before."""
    if WITHOUT:
        pytest.skip("HUBGATE_NO_DOCKER=1")
    script = str(ROOT / "tests" / "compose" / "engine.sh")
    try:
        run(script, "start", seconds=BUILD)
        yield
    finally:
        run(script, "stop", check=False)


@pytest.fixture(scope="session")
def images(engine: None) -> None:
    """Our images, built as docs/compose.md says."""
    for name, file, target in IMAGES:
        run(DOCKER, "build", "-f", file, *target, "-t", name, ".", seconds=BUILD)


@pytest.fixture(scope="module")
def demo(images: None) -> Iterator[Stack]:
    """`docker compose --profile demo up` from empty volumes, once a first token was generated."""
    stack = Stack("hubgatetest")
    stack.down()
    try:
        stack.up()
        until(say, "a first token")
        yield stack
        for service in ("demo-proxy", "demo-backend"):
            print(f"--- {service}\n{stack.logs(service)[-6000:]}")  # noqa: T201 - shown if a test failed
    finally:
        stack.down()


def client(token: str = "hf_demo_alice", port: int = PORTS["HUBGATE_PORT"]) -> OpenAI:
    """The unchanged SDK, without its own retries; to be closed."""
    return OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key=token, max_retries=0, timeout=120)


def say(
    token: str = "hf_demo_alice",
    port: int = PORTS["HUBGATE_PORT"],
    model: str = "demo/tiny-llama",
) -> str:
    """What the model answers; raises `OSError` while it does not."""
    try:
        with client(token, port) as asking:
            answer = asking.completions.create(model=model, prompt="Hello", max_tokens=4, temperature=0)
    except OpenAIError as error:
        raise OSError(str(error)) from error
    return answer.choices[0].text

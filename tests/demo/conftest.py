"""A running demo Hub, and the unmodified client of the Hub in a thread."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import aiohttp
import huggingface_hub
import huggingface_hub.constants
import pytest
from huggingface_hub import HfApi
from huggingface_hub.utils._http import close_session
from huggingface_hub.utils.tqdm import disable_progress_bars

from hubgate.demo.hub import DemoHub

Params = ParamSpec("Params")
Result = TypeVar("Result")


async def blocking(call: Callable[Params, Result], *args: Params.args, **kwargs: Params.kwargs) -> Result:
    """Call the synchronous client while the server's loop runs on."""
    return await asyncio.to_thread(call, *args, **kwargs)


class Clock:
    """A clock that moves only when told to."""

    def __init__(self) -> None:
        """Start at a time in 2026."""
        self.now = 1_790_000_000.0

    def __call__(self) -> float:
        """Give the time."""
        return self.now


class Client:
    """huggingface_hub as one caller uses it, with a disk cache of its own."""

    def __init__(self, endpoint: str, token: str | None, cache: Path) -> None:
        """Use `token`, or none at all."""
        self.api = HfApi(endpoint=endpoint, token=token if token is not None else False)
        self._cache = cache

    def __getattr__(self, name: str) -> Any:
        """Give a method of HfApi that can be awaited."""
        return partial(blocking, getattr(self.api, name))

    async def listed(self, name: str, *args: Any, **kwargs: Any) -> list[Any]:
        """Call a method that pages as it is iterated over, and read it to its end."""
        return await blocking(lambda: list(getattr(self.api, name)(*args, **kwargs)))

    async def download(self, repo: str, filename: str, revision: str | None = None) -> Path:
        """Download one file into the cache."""
        return Path(await self.hf_hub_download(repo, filename, revision=revision, cache_dir=self._cache))

    async def snapshot(self, repo: str, revision: str | None = None, **how: Any) -> Path:
        """Download a whole repo into the cache."""
        return Path(await self.snapshot_download(repo, revision=revision, cache_dir=self._cache, **how))


@pytest.fixture
def clock() -> Clock:
    """Give the clock that the demo Hub goes by."""
    return Clock()


@pytest.fixture
async def hub(clock: Clock) -> AsyncIterator[DemoHub]:
    """Run a demo Hub on free ports."""
    async with DemoHub.start(clock=clock) as running:
        yield running


@pytest.fixture
def client(hub: DemoHub, tmp_path: Path) -> Callable[[str | None], Client]:
    """Give clients: by a user's name, by a token, or None for nobody."""

    def make(who: str | None) -> Client:
        token = who if who is None or who.startswith("hf_") else hub.token(who)
        return Client(hub.endpoint, token, tmp_path / f"cache-{who}")

    return make


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    """Give a plain HTTP client, for what the Hub's own client hides."""
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture(autouse=True)
def _no_token_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Keep the client from adding a token of its own or drawing bars, and close its connections."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", True)
    disable_progress_bars()
    yield
    close_session()

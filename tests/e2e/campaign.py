"""A small isolation campaign on the real engine: a proxy with a clock of ours beside the product's own.

It shares the product's Hub, backend and vLLM. The access_model, its windows and the report are those of
`tests/isolation`; its checker of grants and salts is not, since a real engine shows neither: here each
answer must be what that very model gives.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Final
from unittest.mock import patch

import httpx
import yaml
from openai import APIStatusError, AsyncOpenAI

from hubgate.demo import configs
from hubgate.demo.catalog import load as catalog
from hubgate.proxy import app, preflight
from hubgate.proxy.settings import ProxySettings
from hubgate.proxy.upstream import upstream_pool
from hubgate.runtime.config import load
from tests.e2e.product import ADAPTER, BASE, Product
from tests.fakes.clock import Clock
from tests.fakes.raw import ask, request
from tests.fakes.running_proxy import eventually
from tests.isolation.access_model import AccessModel
from tests.isolation.attempt import Attempt, Bounds, Verdict
from tests.isolation.report import Report
from tests.isolation.scenario import Model

PUBLIC, MISSING = "demo/public-lora", "alice/nobody-lora"
TOKENS: Final = {f"hf_demo_{user}": catalog().tokens[f"hf_demo_{user}"] for user in ("alice", "bob", "eve")}
MODELS: Final[Mapping[str, Model]] = {
    BASE: Model(gated=True, gate={"alice": "accepted", "bob": "accepted"}),
    ADAPTER: Model(base=BASE, private=True),
    PUBLIC: Model(base=BASE),
}
BOUNDS: Final = Bounds(identity=60, access=12, denial=2, revision=25)  # seconds of the clock of ours
PROMPT: Final = {"prompt": "Hello", "max_tokens": 8, "temperature": 0}
_REPOS: Final = {BASE: 4, ADAPTER: 5, f"{ADAPTER}@first": 2, PUBLIC: 4, MISSING: 1}
_CALLERS: Final = {"hf_demo_alice": 5, "hf_demo_bob": 4, "hf_demo_eve": 2}
_EVENTS: Final = {"revoke": 3, "gate": 5, "commit": 1, "outage": 1}
_GATES: Final = ("accepted", "accepted", "accepted", "pending", "rejected", None)
LOOKBACK = 90.0  # seconds of history that a report tells


@dataclass(slots=True)
class Campaign:
    """The proxy, the truth, and what each model says to `PROMPT`."""

    hub: httpx.AsyncClient
    url: str
    clock: Clock
    access_model: AccessModel
    first: str  # the sha of the adapter's first commit
    texts: Mapping[str, str]  # what was asked for → its greedy text
    report: Report
    _clients: dict[str, AsyncOpenAI] = field(default_factory=dict)
    _commits: int = 0
    _moving: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def run(self, attempts: int) -> Report:
        """Step after step: a few requests at once, mostly in the company of an event, then time passes."""
        rng, number = Random(self.report.seed), 0  # noqa: S311 - must be repeatable
        while self.report.attempts < attempts and not self.report.faults:
            number += 1
            asks = [self._ask(rng, number, index) for index in range(rng.randint(4, 10))]
            await asyncio.gather(*asks, *[self._event(rng) for _ in range(rng.choice((0, 1, 1, 2)))])
            await self._amends(rng)
            self.clock.advance(rng.choice((0.5, 3, rng.uniform(2, 15), rng.uniform(10, 30))))
        return self.report

    async def _ask(self, rng: Random, step: int, index: int) -> None:
        wanted, token = _choose(rng, _REPOS), _choose(rng, _CALLERS)
        stream, pause = rng.random() < 0.4, rng.uniform(0, 0.05)
        await asyncio.sleep(pause)  # where among the others' work this falls is what is explored
        repo, _, revision = wanted.partition("@")
        attempt = Attempt(
            id=f"s{step:04}-{index}",
            token=token,
            repo=repo,
            revision="first" if revision else "",
            text=f"{repo}@{self.first}" if revision else repo,
            began=self.clock(),
        )
        said = ""
        try:
            said, attempt.answered = await self._complete(attempt, stream=stream)
            attempt.status = 200
        except APIStatusError as error:
            attempt.status, attempt.code = error.status_code, str(error.code)
        async with self._moving:  # a commit whose sha is not told yet may have answered
            pass
        verdict = self._judge(attempt, said, self.texts.get(wanted, ""))
        history = self.access_model.history(token, repo, attempt.began - LOOKBACK)
        self.report.add(step, attempt, verdict, history)

    async def _complete(self, attempt: Attempt, *, stream: bool) -> tuple[str, str]:
        """The text and the name of who answered, through the unmodified SDK."""
        sdk = self._clients.setdefault(
            attempt.token,
            AsyncOpenAI(base_url=f"{self.url}/v1", api_key=attempt.token, max_retries=0, timeout=120),
        )
        body: dict[str, Any] = {"model": attempt.text, **PROMPT}
        if not stream:
            whole = await sdk.completions.create(**body)
            return whole.choices[0].text, whole.model
        parts = [part async for part in await sdk.completions.create(stream=True, **body)]
        (name,) = {part.model for part in parts}
        return "".join(part.choices[0].text for part in parts if part.choices), name

    def _judge(self, attempt: Attempt, said: str, expected: str) -> Verdict:
        access_model, chain = self.access_model, _chain(attempt.repo)
        since = attempt.began - BOUNDS.denial
        refusals = set[str]().union(*(access_model.refusals(attempt.token, repo, since) for repo in chain))
        if False in access_model.good(attempt.token, since):
            refusals.add("invalid_api_key")
        forbidden = self._forbidden(attempt, chain)
        if refusals and not forbidden:
            refusals |= {"access_denied", "model_not_found"}  # what a download hears in that moment
        if attempt.status == 200:
            wrong = forbidden or self._strange(attempt) or (said != expected and f"it said {said!r}")
            return Verdict("wrongly served", why=wrong) if wrong else Verdict("served", either=bool(refusals))
        if attempt.code == "hub_unavailable" and access_model.unreachable(attempt.began):
            return Verdict("unavailable")
        if attempt.code not in refusals:
            return Verdict("wrongly refused", why=f"{attempt.code} is not one of {sorted(refusals)}")
        return Verdict("refused", either=not forbidden)

    def _forbidden(self, attempt: Attempt, chain: tuple[str, ...]) -> str:
        """Why nothing within the bounds could have let this caller in; "" if something could."""
        if True not in self.access_model.good(attempt.token, attempt.began - BOUNDS.identity):
            return "the token was not good"
        for repo in chain:
            if not self.access_model.allowed(attempt.token, repo, attempt.began - BOUNDS.access):
                return f"{repo} was not theirs to read"
        return ""

    def _strange(self, attempt: Attempt) -> str:
        """Whether another model answered, or a commit that the name did not mean within the bound."""
        repo, _, sha = attempt.answered.partition("@")
        meant = self.access_model.commits[attempt.repo].within(attempt.began - BOUNDS.revision)
        wanted = {self.first} if attempt.revision else meant
        return "" if repo == attempt.repo and sha in wanted else f"{attempt.answered} answered"

    async def _event(self, rng: Random) -> None:
        """Tell the access_model, then the Hub: within this moment of our clock both are true."""
        kind = _choose(rng, _EVENTS)
        token, access = rng.choice(tuple(TOKENS)), rng.choice(_GATES)
        pause, adapter = rng.uniform(0, 0.05), rng.choice((ADAPTER, PUBLIC))
        await asyncio.sleep(pause)
        user = TOKENS[token].user
        match kind:
            case "revoke":
                await self._token(token, good=False)
            case "gate":
                await self._gate(user, access)
            case "commit":
                self._commits += 1
                async with self._moving:
                    answer = await self._switch("commit", repo=adapter, readme=f"voyage {self._commits}")
                    self.access_model.commit(adapter, answer["sha"])
            case "outage":
                self.access_model.outage("503")
                await self._switch("down", mode="503")

    async def _amends(self, rng: Random) -> None:
        """End an outage, and give back some of what was taken, so that there is something to take again."""
        if self.access_model.down.now:
            await self._switch("down", mode=None)
            self.access_model.outage(None)
        for token in TOKENS:
            if rng.random() < 0.5 and not self.access_model.tokens[token].now:
                await self._token(token, good=True)
        for user in ("alice", "bob"):
            if rng.random() < 0.3:
                await self._gate(user, "accepted")

    async def _token(self, token: str, *, good: bool) -> None:
        self.access_model.token(token, good=good)
        await self._switch("unrevoke" if good else "revoke", token_name=TOKENS[token].name)

    async def _gate(self, user: str, access: str | None) -> None:
        self.access_model.gate(BASE, user, access)
        await self._switch("gate", repo=BASE, user=user, access=access)

    async def _switch(self, name: str, **fields: Any) -> Any:
        return await switch(self.hub, name, **fields)

    async def close(self) -> None:
        """Close the SDK's connections."""
        for client in self._clients.values():
            await client.close()


def _choose(rng: Random, weights: Mapping[str, int]) -> str:
    return rng.choices(tuple(weights), tuple(weights.values()))[0]


def _chain(repo: str) -> tuple[str, ...]:
    """Every repo that a caller must be able to read in order to use this one."""
    base = MODELS[repo].base if repo in MODELS else None
    return (repo, base) if base else (repo,)


async def switch(hub: httpx.AsyncClient, name: str, **fields: Any) -> Any:
    """Use one of the demo Hub's switches."""
    answer = await hub.post(f"/_demo/{name}", json=fields)
    answer.raise_for_status()
    return answer.json()


@asynccontextmanager
async def campaign(product: Product, folder: Path, seed: int) -> AsyncIterator[Campaign]:
    """Start the second proxy; the Hub is as `hub.yaml` says when it begins, and again when it has ended."""
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{product.ports.files}") as hub:
        await switch(hub, "restore")
        try:
            async with _beside(product, hub, folder, seed) as running:
                yield running
        finally:
            await switch(hub, "restore")


@asynccontextmanager
async def _beside(
    product: Product, hub: httpx.AsyncClient, folder: Path, seed: int
) -> AsyncIterator[Campaign]:
    names = {repo: product.complete(repo, "hf_demo_alice").json()["model"] for repo in MODELS}
    first = _first(product)
    texts = {repo: _text(product, repo) for repo in names}
    texts[f"{ADAPTER}@first"] = _text(product, f"{ADAPTER}@{first}")
    assert len(set(texts.values())) == len(texts)  # else a mix-up would not show
    clock = Clock()
    access_model = AccessModel(clock, MODELS, TOKENS)
    for repo, name in names.items():
        access_model.commit(repo, name.partition("@")[2])
    read = _settings(product, folder)
    with patch.object(upstream_pool, "POLL_SECONDS", 0.1):
        async with app.running(
            read, preflight.check(read), app.Clocks(now=time.time, monotonic=clock)
        ) as proxy:

            async def ready() -> bool:
                return (await ask(proxy.admin_port, request("GET", "/readyz"))).status == 200

            await eventually(ready)
            url = f"http://127.0.0.1:{proxy.port}"
            running = Campaign(hub, url, clock, access_model, first, texts, Report(seed))
            try:
                yield running
            finally:
                await running.close()


def _settings(product: Product, folder: Path) -> ProxySettings:
    text = configs.proxy(product.layout, product.ports)
    plenty = 10**9
    text |= {
        "listen": {"host": "127.0.0.1", "port": 0},
        "admin": {"port": 0},
        "audit": {"path": str(folder / "audit.jsonl")},
        "limits": {
            **dict.fromkeys(("requests_per_minute", "cold_loads_per_hour", "refusals_per_minute"), plenty),
            "concurrent_requests": 100,
        },
    }
    text["hub"] |= {
        "timeout": 30,
        "identity_ttl": BOUNDS.identity,
        "access_ttl": BOUNDS.access,
        "denial_ttl": BOUNDS.denial,
        "revision_ttl": BOUNDS.revision,
    }
    path = folder / "proxy.yaml"
    path.write_text(yaml.safe_dump(text), encoding="utf-8")
    return load(ProxySettings, path)


def _text(product: Product, model: str) -> str:
    answer = product.complete(model, "hf_demo_alice", **PROMPT)
    answer.raise_for_status()
    return str(answer.json()["choices"][0]["text"])


def _first(product: Product) -> str:
    """The adapter's first commit: another adapter than that of main, under the same name."""
    from huggingface_hub import HfApi

    api = HfApi(endpoint=f"http://127.0.0.1:{product.ports.hub}", token="hf_demo_alice")
    return api.list_repo_commits(ADAPTER)[-1].commit_id

"""The GPU side without a GPU: engines that check grants and hold models, and a backend that fills them."""

import asyncio
from collections import defaultdict
from dataclasses import dataclass, field

import msgspec
from aiohttp import web
from joserfc.jwk import KeySet

from hubgate.wire.control_api import Ready
from hubgate.wire.seal import Grant, ScopedToken, SealError, verify_grant
from tests.fakes.answers import DONE, chunk, completed, event, head, whole
from tests.fakes.backend import FakeBackend, Hosted, say
from tests.fakes.engine import Connection, RawEngine, Received
from tests.isolation.access_model import AccessModel, Clock
from tests.isolation.attempt import Loaded, Upstreamed
from tests.isolation.scenario import BASES

STREAM = head(200, [("Content-Type", "text/event-stream"), ("Transfer-Encoding", "chunked")])
GONE = head(421, [("Content-Length", "0"), ("Connection", "close")])
STRANGER = head(401, [("Content-Length", "0"), ("Connection", "close")])


@dataclass(slots=True)
class Machines:
    """All engines and their one backend; `gate` holds loads back while it is clear."""

    backend: FakeBackend
    access_model: AccessModel
    clock: Clock
    proxies: KeySet
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    seen: dict[str, list[Upstreamed]] = field(default_factory=lambda: defaultdict(list))
    _done: dict[str, float] = field(default_factory=dict)
    _grants: dict[str, Grant] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.backend.always(self._load)
        self.gate.set()

    def add(self, engine: RawEngine, base: str) -> None:
        """Let the backend have one more engine, warm with this base."""
        number = len(self.backend.hosted)
        hosted = self.backend.host(engine, base, id=f"engine-{number}")

        async def answer(received: Received, connection: Connection) -> None:
            self._answer(hosted, received, connection)

        engine.always(answer)
        self._tell()

    def loads(self, request_id: str) -> list[Loaded]:
        """What the backend was asked to load for one request."""
        asked = zip(self.backend.request_ids, self.backend.asked, strict=True)
        return [
            Loaded(token.token, token.sub, token.base, token.adapter, self._done.get(token.jti))
            for request, token in asked
            if request == request_id
        ]

    def settle(self) -> None:
        """Forget what is settled: nothing is under way."""
        for hosted in self.backend.hosted:
            hosted.engine.requests.clear()
        self.seen.clear()
        self._done.clear()
        self.backend.asked.clear()
        self.backend.request_ids.clear()

    def evict(self, repo: str) -> None:
        """Take every commit of an adapter out of the engines."""
        for hosted in self.backend.hosted:
            hosted.adapters -= {name for name in hosted.adapters if name.startswith(f"{repo}@")}
        self.access_model.evicted(repo)

    def stop(self, base: str) -> None:
        """Stop the engines of a base: it is cold now."""
        for hosted in self.backend.hosted:
            if hosted.base.startswith(f"{base}@"):
                self._empty(hosted)
                hosted.state = "absent"
        self._tell()

    def _empty(self, hosted: Hosted) -> None:
        for name in (hosted.base, *hosted.adapters):
            self.access_model.evicted(name.partition("@")[0])
        hosted.adapters.clear()

    def _tell(self) -> None:
        for base in BASES:
            ready = (each.base for each in self.backend.hosted if each.state == "ready")
            self.access_model.running[base].become(
                frozenset(name.partition("@")[2] for name in ready if name.startswith(f"{base}@"))
            )

    async def _load(self, token: ScopedToken, response: web.StreamResponse) -> None:
        await self.gate.wait()
        hosted = self._slot(token.base)
        if hosted.base != token.base or hosted.state != "ready":
            self._empty(hosted)
            hosted.base, hosted.state = token.base, "ready"
            self._tell()
        if token.adapter is not None:
            hosted.adapters.add(token.adapter)
        self._done[token.jti] = self.clock()
        await say(response, Ready(engine=hosted.told(), loaded=token.adapter is not None))

    def _slot(self, base: str) -> Hosted:
        """The engine that runs this commit, else one of this base: first a stopped one, then the oldest."""
        repo = base.partition("@")[0]
        mine = [each for each in self.backend.hosted if each.base.startswith(f"{repo}@")]
        chosen = min(mine, key=lambda each: (each.base != base, each.state == "ready"))
        self.backend.hosted.remove(chosen)
        self.backend.hosted.append(chosen)
        return chosen

    def _answer(self, hosted: Hosted, received: Received, connection: Connection) -> None:
        headers, body = dict(received.headers), received.json()
        grant = self._believed(hosted, headers.get("x-hubgate-grant", ""))
        held = hosted.state == "ready" and body["model"] in {hosted.base, *hosted.adapters}
        self.seen[headers.get("x-request-id", "")].append(
            Upstreamed(
                model=body["model"],
                grant_model=grant.model if grant else "",
                sub=grant.sub if grant else "",
                salt=body["cache_salt"],
                answered=held and grant is not None,
            )
        )
        if grant is None:
            connection.send(STRANGER)
        elif not held:
            connection.send(GONE)
        elif body.get("stream"):
            tokens = [chunk(event({**completed(body["model"], text), "usage": None})) for text in "ab"]
            connection.send(STREAM + b"".join(tokens) + chunk(DONE) + chunk(b""))
        else:
            connection.send(whole(200, msgspec.json.encode(completed(body["model"]))))

    def _believed(self, hosted: Hosted, value: str) -> Grant | None:
        known = self._grants.get(value)
        if known is not None and (known.aud, known.boot) == (hosted.id, hosted.boot):
            return known if known.exp >= self.clock() else None
        try:
            grant = verify_grant(value, self.proxies, aud=hosted.id, boot=hosted.boot, now=self.clock())
        except SealError:
            return None
        self._grants[value] = grant
        return grant if grant.kind == "use" else None

"""One vLLM process and where it stands. `hubgate.backend.engines.lifecycle` takes it from state to state.

=========== ============================== =====================================================
state       means                          next
=========== ============================== =====================================================
starting    it waits for its GPU's memory, ready; failed: no memory, it ended, no first token,
            then it loads, or wakes up     or start_timeout passed
ready       it generated a token           draining: room is needed, idle, or a refresh;
                                           failed: it ended by itself, or hangs
draining    no new request is let in       the last one is done, or the time is up. asleep: room is
                                           needed, and it may sleep; otherwise stopping
asleep      its weights are in host        starting: its base is asked for; failed: it ended by
            memory, its slot is another's  itself; stopping: idle, a refresh, or its place is needed
stopping    SIGTERM, then SIGKILL          absent: no process of it is left; its slot is free
failed      it ended against our will      absent; a new start waits for its backoff
=========== ============================== =====================================================

`absent` is an engine that does not exist, `downloading` a base model that is being fetched for one;
neither has a process, so neither is seen here.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

from hubgate.backend.engines.client import EngineClient
from hubgate.backend.metrics import End
from hubgate.wire import control_api
from hubgate.wire.control_api import EngineState
from hubgate.wire.repo import RepoRef
from hubgate.wire.seal import CLAIMS

DRAIN = 30.0  # seconds that requests in flight get when an engine makes room
TAIL = 40  # lines of its log that are shown when it fails

log = structlog.get_logger()


@dataclass(slots=True, eq=False)
class AdapterUse:
    """An adapter in an engine: since when, and who had it loaded when; seconds of a clock.

    `leaves`: it makes room as soon as its last request is done. `stuck`: when it was waited for in vain.
    """

    since: float
    askers: dict[str, float] = field(default_factory=dict)
    leaves: bool = False
    stuck: float = float("-inf")

    def asked(self, caller: str, now: float, residency: float) -> None:
        """Somebody wants it there."""
        kept = {other: at for other, at in self.askers.items() if now - at < residency}
        self.askers = {**kept, caller: now}


@dataclass(slots=True, eq=False)
class Engine:
    """Others ask it to `stop`, `sleep` or `wake`, and wait for what comes of it.

    `settled`: it is ready, or never will be. `vacated`: it holds no slot, since it is asleep or gone.
    `ended`: it is gone. `asked_by` is the pseudonym of the caller who had it started or woken up. `end`
    says why it ends, `failure` how, in words that are fit for callers; both are empty before.
    """

    id: str
    boot: str
    slot: int
    place: int
    port: int
    base: RepoRef
    client: EngineClient
    asked_by: str
    start_timeout: float
    hang_timeout: float
    clock: Callable[[], float]
    state: EngineState = "starting"
    ready_since: float = 0.0
    last_used: float = 0.0  # known when it goes to sleep
    end: End | None = None
    failure: str = ""
    adapters: dict[str, RepoRef] = field(default_factory=dict)
    adapter_uses: dict[str, AdapterUse] = field(default_factory=dict)  # by the same names
    promised: int = 0  # places for adapters that somebody waits for
    adapters_lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    settled: asyncio.Event = field(default_factory=asyncio.Event)
    vacated: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    stop_asked: asyncio.Event = field(default_factory=asyncio.Event)
    sleep_asked: asyncio.Event = field(default_factory=asyncio.Event)
    wake_asked: asyncio.Event = field(default_factory=asyncio.Event)
    at_once: bool = False
    queue: control_api.EngineQueue | None = None  # as of a moment ago
    places: int = 0  # for adapters
    grace: float = DRAIN  # seconds that requests in flight get when it leaves
    asked: dict[str, float] = field(default_factory=dict)  # who had it loaded, and when
    tail: deque[str] = field(default_factory=lambda: deque(maxlen=TAIL))

    @property
    def is_up(self) -> bool:
        """Whether it is ready or about to be, and nobody has asked it to leave."""
        leaves = self.stop_asked.is_set() or self.sleep_asked.is_set()
        return self.state in ("starting", "ready") and not leaves

    @property
    def is_asleep(self) -> bool:
        """Whether it can be woken up."""
        return self.state == "asleep" and not self.stop_asked.is_set()

    def ask(self, caller: str, lately: float) -> None:
        """Somebody wants it there."""
        now = self.clock()
        kept = {other: at for other, at in self.asked.items() if now - at < lately}
        self.asked = {**kept, caller: now}

    def askers(self, now: float, lately: float) -> set[str]:
        """Who had it loaded, or an adapter of its; if nobody did lately, whoever did last."""
        seen = dict(self.asked)
        for use in self.adapter_uses.values():
            for who, at in use.askers.items():
                seen[who] = max(at, seen.get(who, at))
        last = {max(seen, key=lambda who: seen[who])} if seen else {self.asked_by}
        return {who for who, at in seen.items() if now - at < lately} or last

    def describe(self) -> control_api.EngineInfo:
        """As a proxy sees it."""
        return control_api.EngineInfo(
            id=self.id,
            boot=self.boot,
            port=self.port,
            base=str(self.base),
            state=self.state,
            adapters=tuple(name for name in self.adapters if not self.adapter_uses[name].leaves),
            claims=CLAIMS,
            queue=self.queue,
            places=self.places,
            tells_places=True,
        )

    def stop(self, why: End) -> None:
        """Ask the owner to end it; a shutdown leaves requests in flight no time. Returns immediately."""
        self.end = self.end or why
        self.at_once = self.at_once or why == "shutdown"
        self.stop_asked.set()

    def sleep(self, last_used: float) -> None:
        """Ask the owner to put it to sleep, or to end it if that fails. Returns immediately."""
        self.last_used = last_used
        self.sleep_asked.set()

    def wake(self, asked_by: str) -> None:
        """Let one that `is_asleep` have its slot again: from this moment on it holds it."""
        self.asked_by = asked_by
        self.grace = DRAIN
        self.sleep_asked.clear()
        self.settled.clear()
        self.vacated.clear()
        self.become("starting")
        self.wake_asked.set()

    def become(self, state: EngineState) -> None:
        """Every change of state is an event of the operator's log: who caused it, and why."""
        self.state = state
        why = {"reason": self.end, "failure": self.failure or None} if self.end else {}
        log.info(
            "engine.state", engine=self.id, base=str(self.base), state=state, asked_by=self.asked_by, **why
        )

    def fail(self, end: End, failure: str, cause: str = "") -> None:
        """It ended against our will, or has to be ended. `cause` is the engine's own word, for the log."""
        self.end, self.failure = end, failure
        self.become("failed")
        if cause:
            log.error("engine.first_cause", engine=self.id, base=str(self.base), cause=cause)
        log.error("engine.log_tail", engine=self.id, lines=list(self.tail))

    def conclude(self) -> None:
        """Nothing of it is left: whoever waits, for whatever, waits no longer."""
        self.ended.set()
        self.vacated.set()
        self.settled.set()

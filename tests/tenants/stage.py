"""Where plays are played: a product with a real vLLM, the victim before and during, and what is left."""

import asyncio
import json
import signal
import statistics
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
import psutil
import yaml

from tests.e2e.product import BASE, Product, started, until
from tests.hostile.attacker import Answers, Attacker, elsewhere, send
from tests.hostile.stage import alive
from tests.hostile.victim import Harm, stream
from tests.hostile.victim import Victim as Streams
from tests.tenants.catalogue import BY_ID, adapter, adapters
from tests.tenants.play import ANY, Play, Victim
from tests.tenants.settings import SHARED, VICTIM, user

REPORT: Final = Path(__file__).parents[2] / "build" / "tenants.json"
GRACE: Final = 60.0  # seconds in which attackers whose time is over have left
SAMPLE: Final = 8  # streams of the victim before a play
OWN: Final = tuple(f"demo/victims-{number}" for number in range(2))
STORED: Final = tuple(f"demo/victims-stored-{number}" for number in range(10))
COLD: Final = 30  # adapters that the victim asks for one after the other
TOKEN: Final = f"hf_demo_{VICTIM}"


def play_all(play_id: str, attackers: Sequence[Attacker]) -> Answers:
    """Have each caller of a play do what they do; in a process that does nothing else."""
    return asyncio.run(_play_all(BY_ID[play_id], attackers))


async def _play_all(play: Play, attackers: Sequence[Attacker]) -> Answers:
    async def one(number: int) -> Answers:
        part = play.parts[number]
        await asyncio.sleep(part.begins)
        return await send(part.attack(f"{play.id}/{number}"), attackers[number])

    found: Answers = Counter()
    for answers in await asyncio.gather(*[one(number) for number in range(len(play.parts))]):
        found.update(answers)
    return found


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a play: seconds until the victim's first tokens, before it and meanwhile."""

    answers: Answers
    before: Harm
    during: Harm
    fetched: int = 0  # how often something of the victim's that was stored had to be fetched again
    ended: list[str] = field(default_factory=list)

    @property
    def limit(self) -> float:
        """Generous: ten times what a first token may take."""
        return 10 * (1 + 2 * median(self.before))

    def failures(self, play: Play) -> list[str]:
        """What should not have been."""
        if play.event == "the engine is killed":
            return []  # it hurts everybody; what counts is that all can go on after it
        most, odd = play.most_answered, sorted(self.answers.keys() - ANY)
        return [
            *(f"ended: {name}" for name in self.ended),
            *(f"victim: {wrong}, {times} times" for wrong, times in self.during.wrong.items()),
            *(f"answered {status}, {self.answers[status]} times" for status in odd),
            *([f"{self.fetched} were fetched again"] if self.fetched else []),
            *([f"{self.answers[200]} were answered"] if most and self.answers[200] > most else []),
            *(
                [f"a first token took {self.during.first_token:.1f} s"]
                if self.during.first_token > self.limit
                else []
            ),
        ]


def median(harm: Harm) -> float:
    """Seconds until a first token; 0 where there was none."""
    return statistics.median(harm.waits) if harm.waits else 0.0


class Stage:
    """One for all plays."""

    def __init__(self, product: Product, attackers: Executor) -> None:
        self._product = product
        self._attackers = attackers
        self._report: dict[str, dict[str, Any]] = {}
        for repo in (*OWN, *STORED):
            self._switch(*adapter(repo))

    def play(self, play: Play) -> Outcome:
        """Play it, and wait until nothing of it is left in the engine."""
        who = self._callers(play)
        proxy: psutil.Process = self._product.process("hubgate.cli", "proxy")
        before = alive(self._product)
        with Streams(self._product.ports.proxy, proxy.pid, self._streams(play)).working() as victim:
            usual, stored = victim.sample(SAMPLE), self._fetched()
            for name, fields in play.switches:
                self._switch(name, fields)
            try:
                with victim.watched() as harm:
                    playing = self._attackers.submit(play_all, play.id, who)
                    with self._happening(play):
                        answers = playing.result(play.seconds + GRACE)
                    if play.event == "the engine is killed":
                        until(self._works, "an engine answers again", 240)
            finally:
                self._switch("down", {"mode": None})
        gone = before.keys() - alive(self._product).keys()
        until(self._is_idle, "nothing of the play is in the engine", 60)
        again = self._fetched() - stored
        outcome = Outcome(answers, usual, harm, again, [before[process] for process in gone])
        self._note(play, outcome)
        return outcome

    def _callers(self, play: Play) -> list[Attacker]:
        """A token and an address for each part; what is the same caller's has the same address."""
        known: dict[str, str] = {}
        found = []
        for part in play.parts:
            name, _, device = part.who.partition("/")
            if name not in known:
                known[name] = f"127.2.{list(BY_ID).index(play.id)}.{len(known) + 1}"
                orgs = dict.fromkeys(play.orgs, "read")
                self._switch("user", {"user": user(play.id, name), "orgs": orgs})
                self._switch("gate", {"repo": BASE, "user": user(play.id, name), "access": "accepted"})
            token = f"hf_demo_{user(play.id, name)}"
            if device:
                token = self._switch("user", {"user": user(play.id, name), "device": device})["token"]
            found.append(Attacker(known[name], token, self._product.ports.proxy, ()))
        return found

    def _streams(self, play: Play) -> list[bytes]:
        if play.victim == "cold":
            cold = adapters(f"victims-{play.id}", COLD)
            for name, fields in cold:
                self._switch(name, fields)
            return [stream(model=fields["repo"], ignore_eos=True) for _, fields in cold]
        models = _MODELS[play.victim]
        for model in models:
            until(lambda: self._product.complete(model, TOKEN).status_code == 200, "it is warm")  # noqa: B023
        return [stream(model=model, ignore_eos=True) for model in models]

    @contextmanager
    def _happening(self, play: Play) -> Iterator[None]:
        """What happens to the product, from a quarter of the play on."""
        if play.event is None:
            yield
            return
        thread = threading.Thread(target=self._happen, args=(play,))
        thread.start()
        try:
            yield
        finally:
            thread.join()

    def _happen(self, play: Play) -> None:
        time.sleep(play.seconds / 4)
        match play.event:
            case "the Hub is away":
                self._product.hub_down("503")
                time.sleep(play.seconds / 2)
                self._product.hub_down(None)
            case "the backend is stopped for three seconds":
                backend: psutil.Process = self._product.process("hubgate.cli", "backend")
                backend.suspend()
                time.sleep(3)
                backend.resume()
            case _:
                self._product.process("vllm.entrypoints", "reaper").children()[0].send_signal(signal.SIGKILL)

    def _fetched(self) -> int:
        """How often the demo Hub gave one of the victim's stored adapters."""
        asked = (entry["path"] for entry in self._product.hub_log())
        return sum("victims-stored" in path and path.endswith(".safetensors") for path in asked)

    def _works(self) -> bool:
        with suppress(httpx.HTTPError):
            return self._product.complete(BASE, TOKEN).status_code == 200
        return False

    def _is_idle(self) -> bool:
        text = self._product.backend_metrics()
        return not gauge(text, "hubgate_engine_seats_taken") + gauge(text, "hubgate_engine_waiting_requests")

    def _switch(self, name: str, fields: Mapping[str, Any]) -> dict[str, Any]:
        address = f"http://127.0.0.1:{self._product.ports.files}/_demo/{name}"
        answer = httpx.post(address, json=fields, timeout=60).raise_for_status()
        return dict(answer.json())

    def _note(self, play: Play, outcome: Outcome) -> None:
        def said(harm: Harm) -> dict[str, Any]:
            wrong = {"wrong": dict(harm.wrong)} if harm.wrong else {}
            first = {"median_ms": median(harm) * 1e3, "worst_ms": harm.first_token * 1e3}
            return {"streams": harm.streams, **{key: round(ms) for key, ms in first.items()}, **wrong}

        self._report[play.id] = {
            "answers": dict(sorted(outcome.answers.items())),
            "before": said(outcome.before),
            "during": said(outcome.during),
            **({"fetched": outcome.fetched} if play.victim == "stored" else {}),
            "pulse_ms": round(outcome.during.pulse * 1e3, 1),
            "failures": outcome.failures(play),
        }
        REPORT.parent.mkdir(exist_ok=True)
        REPORT.write_text(json.dumps(self._report, indent=1), encoding="utf-8")


_MODELS: Final[Mapping[Victim, Sequence[str]]] = {
    "base": [BASE],
    "adapter": [OWN[0]],
    "two adapters": OWN,
    "stored": STORED,
}


def gauge(text: str, name: str) -> float:
    """The sum of a gauge's series, in the text of all metrics."""
    values: list[str] = [line.rpartition(" ")[2] for line in text.splitlines() if line.startswith(name + "{")]
    return sum(float(value) for value in values)


@contextmanager
def staged(root: Path) -> Iterator[Stage]:
    """A product of its own in `root`, with an engine that all share."""
    settings = root.with_suffix(".yaml")
    settings.write_text(yaml.safe_dump(SHARED), encoding="utf-8")
    with started(root, "--settings", str(settings)) as product, elsewhere() as attackers:
        yield Stage(product, attackers)


def table(report: Mapping[str, Mapping[str, Any]]) -> str:
    """A line for each play: the victim before → during, what the others were answered; what should not be."""
    lines = []
    for name, one in report.items():
        seen = [one[when] for when in ("before", "during")]
        figures = [f"{harm['median_ms']} ms, worst {harm['worst_ms']} ms" for harm in seen]
        answers = " ".join(f"{status}: {times}" for status, times in one["answers"].items())
        lines.append(f"{name:34} {figures[0]:>28} → {figures[1]:>28}  {answers}; {one['failures']}")
    return "\n".join(lines)

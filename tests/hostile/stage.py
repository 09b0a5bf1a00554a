"""Where attacks are played: a product with its demo Hub, the victim, and who attacks."""

import json
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
import psutil

from tests.e2e.product import Product, until
from tests.hostile.attack import Attack
from tests.hostile.attacker import Answers, Attacker, elsewhere, play
from tests.hostile.catalogue import CATALOGUE
from tests.hostile.requests import BASE
from tests.hostile.victim import Harm, Victim

WORK: Final = 25_000_000  # nanoseconds that one caller may keep the proxy from others
REPORT: Final = Path(__file__).parents[2] / "build" / "hostile.json"
GRACE: Final = 60.0  # seconds in which an attacker whose time is over has left


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of an attack."""

    answers: Answers
    harm: Harm
    ended: list[str] = field(default_factory=list)  # processes that were there before, and are not now

    def failures(self, attack: Attack, limit: float) -> list[str]:
        """What should not have been; `limit` is how long a first token may take, in seconds."""
        harm, odd = self.harm, self.answers.keys() - attack.statuses
        return [
            *(f"ended: {name}" for name in self.ended),
            *(f"victim: {wrong}, {times} times" for wrong, times in harm.wrong.items()),
            *(f"answered {status}, {self.answers[status]} times" for status in sorted(odd)),
            *(
                [f"the proxy worked {harm.work / 1e6:.0f} ms before it answered"]
                if harm.work > 10 * WORK
                else []
            ),
            *([f"a first token took {harm.first_token:.1f} s"] if harm.first_token > limit else []),
        ]


class Stage:
    """One for all attacks: each gets a caller of its own, who has used up nothing yet."""

    def __init__(self, product: Product, victim: Victim, attackers: Executor) -> None:
        self._product = product
        self._victim = victim
        self._attackers = attackers
        self._report: dict[str, dict[str, Any]] = {}
        self.usual = victim.usual()
        self.limit = 10 * (1 + 2 * self.usual)  # ten times what a first token may take

    def play(self, attack: Attack) -> Outcome:
        """Play an attack, and wait until the victim has had a stream after it."""
        shas = [self._switch(name, fields).get("sha", "") for name, fields in attack.switches]
        attacker = self._attacker(CATALOGUE.index(attack), shas)
        before = alive(self._product)
        try:
            with self._victim.watched() as harm:
                playing = self._attackers.submit(play, attack.id, attacker)
                answers = playing.result(attack.seconds + GRACE)
        finally:
            if attack.switches:
                self._switch("down", {"mode": None})
        gone = before.keys() - alive(self._product).keys()
        if gone:
            self._mend()
        outcome = Outcome(answers, harm, [before[process] for process in gone])
        self._note(attack, outcome)
        return outcome

    def _mend(self) -> None:
        """Wait until what has ended is there again, for the sake of the attacks that follow."""
        until(self._works, "it works again", 240)
        self._victim.follow(self._product.process("hubgate.cli", "proxy").pid)

    def _works(self) -> bool:
        with suppress(httpx.HTTPError):
            return self._product.complete(BASE, "hf_demo_bob").status_code == 200
        return False

    def _attacker(self, number: int, shas: list[str]) -> Attacker:
        """A new user who may read the base, at an address of their own."""
        name, address = f"mallory_{number}", f"127.1.{number // 250}.{number % 250 + 1}"
        token = str(self._switch("user", {"user": name})["token"])
        self._switch("gate", {"repo": BASE, "user": name, "access": "accepted"})
        return Attacker(address, token, self._product.ports.proxy, shas)

    def _switch(self, name: str, fields: Mapping[str, Any]) -> dict[str, Any]:
        address = f"http://127.0.0.1:{self._product.ports.files}/_demo/{name}"
        answer = httpx.post(address, json=fields, timeout=60).raise_for_status()
        return dict(answer.json())

    def _note(self, attack: Attack, outcome: Outcome) -> None:
        harm = outcome.harm
        self._report[attack.id] = {
            "answers": dict(sorted(outcome.answers.items())),
            "proxy_work_ms": round(harm.work / 1e6, 1),
            "pulse_ms": round(harm.pulse * 1e3, 1),
            "first_token_ms": round(harm.first_token * 1e3),
            "usual_ms": round(self.usual * 1e3),
            "failures": outcome.failures(attack, self.limit),
        }
        REPORT.parent.mkdir(exist_ok=True)
        REPORT.write_text(json.dumps(self._report, indent=1), encoding="utf-8")


def alive(product: Product) -> dict[tuple[int, float], str]:
    """The processes that have to live on: the programs and vLLM's own, each by its pid and its start."""
    found: dict[tuple[int, float], str] = {}
    for one in product.processes():
        with suppress(psutil.NoSuchProcess):
            if name := _role(" ".join(one.cmdline())):
                family = [one, *one.children(recursive=True)] if name == "engine" else [one]
                found |= {(each.pid, each.create_time()): name for each in family}
    return found


def _role(command: str) -> str | None:
    if "vllm.entrypoints" in command and "reaper" not in command:
        return "engine"
    return next((name for name in ("proxy", "backend") if f"hubgate.cli {name} " in command), None)


@contextmanager
def staged(product: Product) -> Iterator[Stage]:
    """Begin to work as the victim; attacks can be played inside."""
    proxy: psutil.Process = product.process("hubgate.cli", "proxy")
    with elsewhere() as attackers, Victim(product.ports.proxy, proxy.pid).working() as victim:
        yield Stage(product, victim, attackers)


Report = Mapping[str, Mapping[str, Any]]
"""Attack → its figures, as in `REPORT`."""
FIGURES: Final = ("proxy_work_ms", "pulse_ms", "first_token_ms")


def table(report: Report) -> str:
    """A line for each attack: what it did, what it was answered, and what should not have been."""
    lines = [_line("attack", dict(zip(FIGURES, FIGURES, strict=True)), "answers; failures")]
    for name, one in report.items():
        answers = " ".join(f"{status}: {times}" for status, times in one["answers"].items())
        lines.append(_line(name, one, "; ".join([answers, *one["failures"]])))
    return "\n".join(lines)


def by_row(report: Report) -> str:
    """A line for each row of docs/isolation.md: the most of all its attacks."""
    lines = []
    for row in dict.fromkeys(name.partition(":")[0] for name in report):
        ones = [one for name, one in report.items() if name.partition(":")[0] == row]
        most = {figure: max(one[figure] for one in ones) for figure in FIGURES}
        failed = sum(bool(one["failures"]) for one in ones)
        lines.append(_line(row, most, f"{failed} of {len(ones)} failed"))
    return "\n".join(lines)


def _line(name: str, figures: Mapping[str, Any], more: str) -> str:
    return f"{name:40} {' '.join(f'{figures[key]:>14}' for key in FIGURES)}  {more}"

"""The numbers of a campaign, and what a person needs to find a fault again."""

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from tests.isolation.attempt import Attempt, Kind, Verdict

WRONG: Final = ("wrongly served", "wrongly refused")


@dataclass(slots=True)
class Report:
    """What came of a campaign so far."""

    seed: int
    kinds: Counter[Kind] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    either: int = 0
    faults: list[str] = field(default_factory=list)
    cpu: float = field(default_factory=time.process_time)

    @property
    def attempts(self) -> int:
        return self.kinds.total()

    def share(self, kind: Kind) -> float:
        return self.kinds[kind] / max(1, self.attempts)

    @property
    def in_window(self) -> float:
        """The share of attempts whose opposite would have been right too."""
        return self.either / max(1, self.attempts)

    def add(self, step: int, attempt: Attempt, verdict: Verdict, history: list[str]) -> None:
        """Count one verdict; keep the story of a wrong one."""
        self.kinds[verdict.kind] += 1
        self.codes[attempt.code or str(attempt.status)] += 1
        self.either += verdict.either
        if verdict.kind not in WRONG:
            return
        story = [
            f"{verdict.kind}: {verdict.why}",
            f"seed {self.seed}, step {step}, request {attempt.id}, began at {attempt.began:.2f}",
            f"{attempt.token} asked for {attempt.text or 'the list'} and got {attempt.status} {attempt.code}",
            f"{attempt.answered or attempt.listed}; engines saw {list(attempt.upstream)}",
            f"loads ended at {[load.done_at for load in attempt.loads]}",
            *history,
        ]
        self.faults.append("\n    ".join(story))

    def told(self) -> str:
        """All of it, for people."""
        shares = ", ".join(f"{kind} {self.share(kind):.1%}" for kind in self.kinds)
        spent = time.process_time() - self.cpu
        lines = [
            f"seed {self.seed}: {self.attempts} attempts in {spent:.1f} s of CPU",
            f"{shares}; in the window {self.in_window:.1%}",
            f"codes: {dict(self.codes.most_common())}",
            *self.faults[:5],
        ]
        return "\n".join(lines)

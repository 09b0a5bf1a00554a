"""The fair order once more, as slow and as plain as can be: start-time fair queueing with exact numbers."""

from dataclasses import dataclass, field
from fractions import Fraction


@dataclass(eq=False)
class Asked:
    """One request; `seen` is how it stands: new, waiting, in, gone."""

    who: str
    weight: int
    seats: int
    cost: int
    number: int
    state: str = "new"
    used: int = 0
    charged: int = 0
    era: int = 0
    extra: bool = False
    let_in: int = 0


@dataclass
class Reference:
    """Whoever waits with the lowest tag is next. Everything is looked for anew, each time."""

    seats: int
    reserve: int
    asked: list[Asked] = field(default_factory=list)
    tags: dict[str, Fraction] = field(default_factory=dict)
    virtual: Fraction = Fraction(0)
    era: int = 0
    let_in: int = 0

    def having(self, state: str, who: str | None = None) -> list[Asked]:
        return [one for one in self.asked if one.state == state and who in (None, one.who)]

    def weight(self, who: str) -> int:
        return [one.weight for one in self.asked if one.who == who][-1]

    def held(self, who: str) -> int:
        return sum(one.seats for one in self.having("in", who))

    def enter(self, one: Asked) -> list[Asked]:
        self.asked.append(one)
        if not self.having("waiting") and self.taken() < self.seats:
            self._take(one, extra=False)
            return [one]
        if not self.having("waiting"):
            self.era += 1
            self.tags.clear()
            self.virtual = Fraction(0)
        if not self.having("waiting", one.who):
            others = [self.tag(other.who) for other in self.having("waiting")]
            if others:
                self.virtual = max(self.virtual, min(others))
            # Those who wait, with the newcomer at the place that they had: none is below it.
            self.tags[one.who] = max(self.tag(one.who), self.virtual)
        one.state = "waiting"
        return self.admit()

    def leave(self, one: Asked) -> list[Asked]:
        was_in = one.state == "in"
        one.state = "gone"
        if was_in:
            self._promote()
            if one.era == self.era and self.having("waiting") and one.charged > one.used:
                self.charge(one.who, one.used - one.charged, one.weight)
        return self.admit()

    def hold(self, one: Asked, seats: int) -> list[Asked]:
        fewer = seats < one.seats
        one.seats = seats
        if one.extra and not seats:
            one.extra = False
        if fewer:
            self._promote()
        return self.admit()

    def _promote(self) -> None:
        for other in sorted(self.having("in"), key=lambda other: other.let_in):
            if other.extra and self.taken() < self.seats:
                other.extra = False

    def spend(self, one: Asked, amount: int) -> None:
        one.used += amount
        more = max(0, one.used - one.charged)
        one.charged += more
        if more and self.having("waiting"):
            self.charge(one.who, more, self.weight(one.who))

    def taken(self) -> int:
        return sum(one.seats for one in self.having("in") if not one.extra)

    def tag(self, who: str) -> Fraction:
        return self.tags.get(who, Fraction(0))

    def charge(self, who: str, amount: int, weight: int) -> None:
        self.tags[who] = self.tag(who) + Fraction(amount, weight)

    def admit(self) -> list[Asked]:
        found = []
        while (one := self.next()) is not None:
            full = self.taken() >= self.seats
            self.virtual = max(self.virtual, self.tag(one.who))
            self._take(one, extra=full)
            one.era = self.era
            self.charge(one.who, one.cost, self.weight(one.who))
            found.append(one)
        return found

    def next(self) -> Asked | None:
        firsts = {one.who: one for one in reversed(self.having("waiting"))}.values()
        ordered = sorted(
            firsts, key=lambda one: (self.tag(one.who), self.held(one.who) / self.weight(one.who), one.number)
        )
        if self.taken() < self.seats:
            return ordered[0] if ordered else None
        if sum(one.extra for one in self.having("in")) >= self.reserve:
            return None
        present = {one.who for one in self.asked if one.state in ("in", "waiting")}
        weights = sum(self.weight(who) for who in present)
        for one in ordered:
            share = max(Fraction(self.seats * self.weight(one.who), weights), Fraction(1))
            if self.held(one.who) + one.seats <= share:
                return one
        return None

    def _take(self, one: Asked, *, extra: bool) -> None:
        one.state, one.extra, one.charged = "in", extra, one.cost
        self.let_in += 1
        one.let_in = self.let_in

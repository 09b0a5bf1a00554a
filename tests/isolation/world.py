"""Makes a plan's events happen: to the demo Hub or the machines, and to the oracle in the same moment."""

from tests.isolation import cast
from tests.isolation.lab import Lab
from tests.isolation.plan import Event

OUTAGE_STEPS = 2


class World:
    """What is going on in one lab."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._outage_left = 0
        self._commits = 0

    def happen(self, event: Event) -> None:
        """One event, without waiting for anything."""
        hub, oracle, repo = self._lab.hub.state, self._lab.oracle, event.subject
        match event.kind:
            case "revoke" | "unrevoke":
                good = event.kind == "unrevoke"
                (hub.unrevoke if good else hub.revoke)(cast.secret(event.subject))
                oracle.token(event.subject, good=good)
            case "reissue":
                self._reissue(event.subject)
            case "gate":
                hub.set_gate(repo, event.user, event.value)
                oracle.gate(repo, event.user, event.value)
            case "private" | "public":
                hub.set_private(repo, event.kind == "private")
                oracle.private(repo, private=event.kind == "private")
            case "commit":
                self._commits += 1
                oracle.commit(repo, hub.add_commit(repo, {"README.md": b"%d" % self._commits}))
            case "evict":
                self._lab.machines.evict(repo)
            case "stop":
                self._lab.machines.stop(repo)
            case "outage":
                hub.set_down(event.value, paths=event.subject)
                oracle.outage(event.value)
                self._outage_left = OUTAGE_STEPS
            case kind:
                raise AssertionError(kind)

    def step_over(self) -> None:
        """An outage lasts for a few steps."""
        if self._outage_left:
            self._outage_left -= 1
            if not self._outage_left:
                self._lab.hub.state.set_down(None)
                self._lab.oracle.outage(None)

    def _reissue(self, name: str) -> None:
        """Revoke the token that is good and issue the other one: carol goes on with that."""
        for each in cast.REISSUED:
            if each == name:
                self._lab.hub.state.add_token(cast.secret(each), cast.TOKENS[each])
            else:
                self._lab.hub.state.revoke(cast.secret(each))
            self._lab.oracle.token(each, good=each == name)

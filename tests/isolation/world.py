"""Makes a plan's events happen: to the demo Hub or the machines, and to the model in the same moment."""

from tests.isolation import scenario
from tests.isolation.harness import Harness
from tests.isolation.plan import Event

OUTAGE_STEPS = 2


class World:
    """What is going on in one harness."""

    def __init__(self, harness: Harness) -> None:
        self._lab = harness
        self._outage_left = 0
        self._commits = 0

    def happen(self, event: Event) -> None:
        """One event, without waiting for anything."""
        hub, access_model, repo = self._lab.hub.state, self._lab.access_model, event.subject
        match event.kind:
            case "revoke" | "unrevoke":
                good = event.kind == "unrevoke"
                (hub.unrevoke if good else hub.revoke)(scenario.secret(event.subject))
                access_model.token(event.subject, good=good)
            case "reissue":
                self._reissue(event.subject)
            case "gate":
                hub.set_gate(repo, event.user, event.value)
                access_model.gate(repo, event.user, event.value)
            case "private" | "public":
                hub.set_private(repo, event.kind == "private")
                access_model.private(repo, private=event.kind == "private")
            case "commit":
                self._commits += 1
                access_model.commit(repo, hub.add_commit(repo, {"README.md": b"%d" % self._commits}))
            case "evict":
                self._lab.machines.evict(repo)
            case "stop":
                self._lab.machines.stop(repo)
            case "outage":
                hub.set_down(event.value, paths=event.subject)
                access_model.outage(event.value)
                self._outage_left = OUTAGE_STEPS
            case kind:
                raise AssertionError(kind)

    def step_over(self) -> None:
        """An outage lasts for a few steps."""
        if self._outage_left:
            self._outage_left -= 1
            if not self._outage_left:
                self._lab.hub.state.set_down(None)
                self._lab.access_model.outage(None)

    def _reissue(self, name: str) -> None:
        """Revoke the token that is good and issue the other one: carol goes on with that."""
        for each in scenario.REISSUED:
            if each == name:
                self._lab.hub.state.add_token(scenario.secret(each), scenario.TOKENS[each])
            else:
                self._lab.hub.state.revoke(scenario.secret(each))
            self._lab.access_model.token(each, good=each == name)

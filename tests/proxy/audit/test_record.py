"""What the audit tells of a request."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from hubgate.proxy.audit import record
from hubgate.proxy.auth.authorization import Access
from hubgate.proxy.context import RequestContext
from hubgate.proxy.errors import STATUS, Denied
from hubgate.wire.repo import InvalidRepoError, RepoRef
from tests.cases import each
from tests.fakes.clock import START
from tests.fakes.identity import identity

SHA = "a" * 40
BASE = RepoRef.parse(f"demo/tiny@{SHA}")
LORA = RepoRef.parse(f"alice/lora@{'b' * 40}")


def context() -> RequestContext:
    made = RequestContext("req-1", "127.0.0.1")
    made.endpoint = "/v1/completions"
    return made


def told(one: RequestContext) -> dict[str, Any]:
    """The members of its audit record."""
    found: dict[str, Any] = json.loads(f"{{{record.of(one, START).removeprefix(',')}}}")
    return found


def test_a_good_request_is_granted() -> None:
    """The record of a good request says who used what, at which commits, on which base."""
    one = context()
    one.identity, one.model, one.access = identity(), "alice/lora", Access(BASE, LORA)
    one.answered(200)
    found = told(one)
    assert (found["user"], found["token_name"], found["role"]) == ("alice", "alice-ci", "read")
    assert found["token_age_days"] == 10.0
    assert (found["repo"], found["sha"], found["base"]) == ("alice/lora", "b" * 40, str(BASE))
    assert (found["decision"], found["reason"], found["temperature"]) == ("granted", "ok", "warm")
    assert not one.turned_away


@each("code", STATUS)
def test_who_is_turned_away_is_denied(code: str) -> None:
    """Refusing the caller or the model is a denial; a failure is no decision."""
    one = context()
    one.refused(Denied(code, "why"))  # type: ignore[arg-type]
    found = told(one)
    denied = STATUS[code] in (401, 403, 404)  # type: ignore[index]
    assert one.turned_away is denied
    assert (found.get("decision") == "denied") is denied
    assert (found["status"], found["reason"]) == (STATUS[code], code)  # type: ignore[index]


def test_after_a_grant_a_failure_is_no_denial() -> None:
    """A request that was granted and then failed stays granted, with the real reason."""
    one = context()
    one.access = Access(BASE)
    one.answered(200)
    one.failed("upstream_error")
    found = told(one)
    assert (found["decision"], found["status"], found["reason"]) == ("granted", 200, "upstream_error")
    one.left()
    assert (one.status, one.code) == (499, "client_left")


def test_a_record_holds_no_credential() -> None:
    """A record is plain JSON, of names and numbers."""
    one = context()
    one.identity = identity()
    text = record.of(one, START)
    assert "hf_" not in text
    assert identity().salt not in text


def test_everything_has_its_place() -> None:
    """All that can be told is told, in the order in which auditors know it."""
    one = context()
    one.identity, one.model, one.access = identity(), "alice/lora", Access(BASE, LORA)
    one.answered(200)
    one.upstream, one.stream, one.cold, one.estimated = "gpu-0", True, True, True
    one.bytes_in, one.bytes_out, one.prompt_tokens, one.completion_tokens = 1, 2, 3, 0
    one.auth_seconds, one.limits_seconds, one.load_seconds = 0.00014, 1e-9, 61.23456
    found = told(one)
    assert " ".join(found) == (
        "request_id client endpoint user token_name role token_age_days fingerprint sub model repo sha base"
        " decision reason status upstream stream temperature bytes_in bytes_out prompt_tokens"
        " completion_tokens tokens_estimated seconds"
    )
    assert [found[name] for name in ("status", "stream", "temperature")] == [200, True, "cold"]
    assert [found[name] for name in ("bytes_in", "bytes_out")] == [1, 2]
    assert [found[name] for name in ("prompt_tokens", "completion_tokens")] == [3, 0]
    assert 0 <= found["seconds"].pop("total") < 60
    assert found["seconds"] == {"auth": 0.0001, "limits": 0.0, "load": 61.2346}


def test_what_is_not_known_is_left_out() -> None:
    """A request of nobody, for nothing, has a few members only."""
    assert (
        " ".join(told(context()))
        == "request_id client endpoint reason status stream bytes_in bytes_out seconds"
    )


@given(st.text(), st.text())
def test_names_are_told_as_they_are(user: str, client: str) -> None:
    """Whatever the Hub or a socket names, the record is JSON; what cannot be written costs its own part."""
    one = RequestContext("req-1", client)
    one.identity = identity(user=user)
    found = told(one)
    assert found["client"] == client
    assert found["user"] == user
    one.identity, one.client = identity(user="\ud800"), "c"
    assert (told(one)["client"], "user" in told(one)) == ("c", False)


@given(st.text(alphabet=st.characters(max_codepoint=0x7F)) | st.from_regex(r"[\w.-]+/[\w.-]+(@[\w./-]+)?"))
def test_a_models_name_needs_no_escape(text: str) -> None:
    """The grammar of `RepoRef` has nothing in it that JSON writes in another way."""
    try:
        name = str(RepoRef.parse(text))
    except InvalidRepoError:
        return
    assert json.dumps(name) == f'"{name}"'


def test_what_changed_is_told_as_it_is_now() -> None:
    """A user who was renamed, another role, and a token that grew older show at once."""
    one = context()
    one.identity = identity()
    assert told(one)["user"] == "alice"
    one.identity = identity(user="alicia", role="write")
    later = json.loads(f"{{{record.of(one, START + 86400)[1:]}}}")
    assert (later["user"], later["role"], later["token_age_days"]) == ("alicia", "write", 11.0)

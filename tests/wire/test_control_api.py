"""The control messages: a proxy and a backend of neighbouring releases understand each other."""

from typing import Any, get_args

import msgspec
import pytest

from hubgate.wire import control_api
from hubgate.wire.control_api import (
    Download,
    EngineInfo,
    EngineQueue,
    EnsureRequest,
    Event,
    Evicted,
    Hello,
    LoadAdapter,
    LoadFailed,
    Progress,
    Ready,
    Refreshed,
    RefreshEvent,
    RefreshRequest,
    UnloadAdapter,
)
from hubgate.wire.cost import COST_HEADER

DOWNLOAD = {"repo": "a/b@1", "kind": "adapter", "bytes": 1, "seconds": 0.5}
ENGINE = {"id": "gpu-0/0", "boot": "x", "port": 1, "base": "a/b@1", "state": "ready"}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ({"type": "progress", "stage": "queued", "repo": "a/b"}, Progress(stage="queued", repo="a/b")),
        (
            {"type": "failed", "code": "rejected", "message": "why", "downloads": [DOWNLOAD]},
            LoadFailed(
                code="rejected",
                message="why",
                downloads=(Download(repo="a/b@1", kind="adapter", bytes=1, seconds=0.5, evicted=()),),
                stage="queued",
            ),
        ),
    ],
)
def test_an_older_backend_is_understood(line: dict[str, Any], expected: object) -> None:
    """What it does not say has a default."""
    assert msgspec.json.decode(msgspec.json.encode(line), type=Event) == expected


def test_a_newer_backend_is_understood() -> None:
    """What we do not know is passed over."""
    line = {"type": "ready", "engine": ENGINE, "loaded": True, "of_tomorrow": {"a": [1]}}
    ready = msgspec.json.decode(msgspec.json.encode(line), type=Event)
    assert isinstance(ready, Ready)
    assert ready.loaded


FULL_ENGINE = EngineInfo(
    id="gpu-0/0",
    boot="x",
    port=1,
    base="a/b@1",
    state="ready",
    adapters=("a/c@2",),
    claims=("weight",),
    queue=EngineQueue(seats=4, taken=3, waiting=2, longest_wait=0.5),
    places=8,
    tells_places=True,
)
FULL_DOWNLOAD = Download(repo="a/b@1", kind="base", bytes=1, seconds=0.5, evicted=("a/d@3",))
QUEUE_LINE = {"seats": 4, "taken": 3, "waiting": 2, "longest_wait": 0.5}
ENGINE_LINE = ENGINE | {
    "adapters": ["a/c@2"],
    "claims": ["weight"],
    "queue": QUEUE_LINE,
    "places": 8,
    "tells_places": True,
}
DOWNLOAD_LINE = DOWNLOAD | {"kind": "base", "evicted": ["a/d@3"]}
EVICTED_LINE = {"repo": "a/d@3", "kind": "adapter"}


@pytest.mark.parametrize(
    ("message", "line", "kind"),
    [
        (
            Hello(protocol=1, name="gpu-0", boot="b", nonce="n", engines=(FULL_ENGINE,)),
            {"protocol": 1, "name": "gpu-0", "boot": "b", "nonce": "n", "engines": [ENGINE_LINE]}
            | {"draining": False},
            Hello,
        ),
        (EnsureRequest(token="t"), {"token": "t"}, EnsureRequest),
        (
            Progress(stage="loading", repo="a/b@1", done=1, total=2, rate=0.5),
            {"type": "progress", "stage": "loading", "repo": "a/b@1", "done": 1, "total": 2, "rate": 0.5},
            Event,
        ),
        (
            Progress(stage="queued", repo="a/b@1", place=2),
            {"type": "progress", "stage": "queued", "repo": "a/b@1", "done": 0, "total": 0, "rate": 0.0}
            | {"place": 2},
            Event,
        ),
        (
            Ready(
                engine=FULL_ENGINE,
                downloads=(FULL_DOWNLOAD,),
                loaded=True,
                started=True,
                evicted=(Evicted(repo="a/d@3", kind="adapter"),),
            ),
            {"type": "ready", "engine": ENGINE_LINE, "downloads": [DOWNLOAD_LINE]}
            | {"loaded": True, "started": True, "evicted": [EVICTED_LINE]},
            Event,
        ),
        (
            LoadFailed(code="denied", message="why", repo="a/b", retry_after=3, stage="starting"),
            {"type": "failed", "code": "denied", "message": "why", "repo": "a/b", "retry_after": 3}
            | {"downloads": [], "evicted": [], "stage": "starting"},
            Event,
        ),
        (RefreshRequest(), {"repo": None}, RefreshRequest),
        (
            Refreshed(repo="a/b@2", before="a/b@1", engine_ended=True),
            {"type": "refreshed", "repo": "a/b@2", "before": "a/b@1", "engine_ended": True},
            RefreshEvent,
        ),
        (LoadAdapter(name="a/b@1", path="/p"), {"name": "a/b@1", "path": "/p"}, LoadAdapter),
        (UnloadAdapter(name="a/b@1"), {"name": "a/b@1"}, UnloadAdapter),
    ],
)
def test_what_is_sent(message: msgspec.Struct, line: dict[str, Any], kind: Any) -> None:
    """Version 1 of each message, word for word, and its reader understands it: releases differ in neither."""
    assert msgspec.json.decode(msgspec.json.encode(message)) == line
    assert msgspec.json.decode(msgspec.json.encode(line), type=kind) == message


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            {"type": "progress", "stage": "queued", "repo": ""},
            Progress(stage="queued", repo="", done=0, total=0, rate=0),
        ),
        (
            {"type": "ready", "engine": ENGINE},
            Ready(
                engine=EngineInfo(id="gpu-0/0", boot="x", port=1, base="a/b@1", state="ready", adapters=()),
                downloads=(),
                loaded=False,
                started=False,
                evicted=(),
            ),
        ),
        (
            {"type": "failed", "code": "error", "message": ""},
            LoadFailed(
                code="error", message="", repo="", retry_after=None, downloads=(), evicted=(), stage="queued"
            ),
        ),
        (
            {"type": "refreshed", "repo": "a", "before": "b"},
            Refreshed(repo="a", before="b", engine_ended=False),
        ),
    ],
)
def test_what_is_left_out(line: dict[str, Any], message: object) -> None:
    """Nothing is claimed for a backend that does not claim it itself."""
    kind: Any = RefreshEvent if line["type"] == "refreshed" else Event
    assert msgspec.json.decode(msgspec.json.encode(line), type=kind) == message


def test_the_words_of_version_1() -> None:
    """A word that is added, or spelled anew, breaks the release beside it, and so does a header."""
    assert get_args(control_api.EngineState) == (
        "absent", "downloading", "starting", "ready", "draining", "asleep", "stopping", "failed",
    )  # fmt: skip
    assert get_args(control_api.Stage) == ("queued", "downloading", "starting", "loading")
    assert get_args(control_api.FailureCode) == (
        "denied", "not_found", "rejected", "hub_unavailable", "store_full", "no_capacity", "engine_failed",
        "error",
    )  # fmt: skip
    assert (control_api.PROTOCOL, control_api.GRANT_HEADER, control_api.REQUEST_ID_HEADER) == (
        1, "X-Hubgate-Grant", "X-Request-Id",
    )  # fmt: skip
    assert (control_api.WAITED_HEADER, control_api.SHARE_USED, COST_HEADER) == (
        "X-Hubgate-Waited", "share_used", "X-Hubgate-Cost",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        (EnsureRequest, {"token": "t"}),
        (RefreshRequest, {}),
        (LoadAdapter, {"name": "a/b@1", "path": "/p"}),
        (UnloadAdapter, {"name": "a/b@1"}),
    ],
)
def test_commands_are_not_read_past(kind: type[msgspec.Struct], line: dict[str, Any]) -> None:
    """A command with a field that its reader does not know is refused: it may be the one that matters."""
    with pytest.raises(msgspec.ValidationError, match="unknown field"):
        msgspec.json.decode(msgspec.json.encode(line | {"of_tomorrow": 1}), type=kind)


@pytest.mark.parametrize("kind", [Download, Evicted])
@pytest.mark.parametrize(("word", "good"), [("base", True), ("adapter", True), ("other", False)])
def test_what_can_be_fetched(kind: type[msgspec.Struct], word: str, good: bool) -> None:
    """A base or an adapter, and nothing else."""
    line = msgspec.json.encode(DOWNLOAD | {"kind": word})
    try:
        msgspec.json.decode(line, type=kind)
    except msgspec.ValidationError:
        assert not good
    else:
        assert good


@pytest.mark.parametrize(
    ("field", "most", "least"),
    [
        ("id", "x" * 256, ""),
        ("base", "x" * 256, ""),
        ("port", 65535, 1),
        ("adapters", ["a/b@1"] * 65536, []),
        ("claims", ["weight"] * 64, []),
    ],
)
def test_what_is_told_of_an_engine_is_bounded(field: str, most: Any, least: Any) -> None:
    """Its reader logs it and looks it up; one more of anything is not read."""
    for good in (most, least):
        msgspec.convert(ENGINE | {field: good}, EngineInfo)
    for bad in (65536, 0) if field == "port" else (most + most[:1],):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(ENGINE | {field: bad}, EngineInfo)


@pytest.mark.parametrize("field", ["seats", "taken", "waiting", "longest_wait"])
def test_what_is_told_of_a_queue_is_a_number_or_none(field: str) -> None:
    """Nothing is below none, and what an engine does not say is none."""
    assert getattr(msgspec.convert({field: 0}, EngineQueue), field) == 0
    assert getattr(msgspec.convert({}, EngineQueue), field) == 0
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({field: -1}, EngineQueue)


HELLO: dict[str, Any] = {"protocol": 1, "name": "gpu-0", "boot": "x", "nonce": "n", "engines": []}


@pytest.mark.parametrize(
    ("field", "good", "bad"),
    [
        ("protocol", [0, 9999], [-1, 10000]),
        ("engines", [[ENGINE] * 1024], [[ENGINE] * 1025]),
        ("name", ["x" * 256], ["x" * 257]),
    ],
)
def test_a_hello_is_bounded(field: str, good: list[Any], bad: list[Any]) -> None:
    """A backend cannot make its proxies hold more than this."""
    for value in good:
        msgspec.convert(HELLO | {field: value}, Hello)
    for value in bad:
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(HELLO | {field: value}, Hello)

"""The control messages: a proxy and a backend of neighbouring releases understand each other."""

from typing import Any

import msgspec
import pytest

from wire.control import Download, Event, Failed, Progress, Ready

DOWNLOAD = {"repo": "a/b@1", "kind": "adapter", "bytes": 1, "seconds": 0.5}
ENGINE = {"id": "gpu-0/0", "boot": "x", "port": 1, "base": "a/b@1", "state": "ready"}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ({"type": "progress", "stage": "queued", "repo": "a/b"}, Progress(stage="queued", repo="a/b")),
        (
            {"type": "failed", "code": "rejected", "message": "why", "downloads": [DOWNLOAD]},
            Failed(
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

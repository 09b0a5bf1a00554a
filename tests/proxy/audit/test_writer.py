"""The audit trail: whole, in order, bound together; and what happens when the disk says no."""

import hmac
import json
import os
import resource
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from hubgate.proxy.audit import chain
from hubgate.proxy.audit import writer as module
from hubgate.proxy.audit.chain import AuditFileError
from hubgate.proxy.audit.writer import MAX_QUEUED, RESERVE, AuditWriter
from hubgate.proxy.metrics.registry import Metrics
from tests.fakes.clock import Clock
from tests.fakes.descriptors import no_descriptor_left
from tests.fakes.trail import KEY, disk, full_disk, until, write, writing


def test_records_are_numbered_lines(tmp_path: Path) -> None:
    """Each record is one line with its number, time and event."""
    path = tmp_path / "new" / "audit.jsonl"
    write(path, "alice", "bob")
    found = list(chain.records(path))
    assert [(record["seq"], record["user"]) for record in found] == [(1, "alice"), (2, "bob")]
    assert found[0]["time"].endswith("+00:00")
    verdict = chain.verify(path, KEY)
    assert (verdict.records, verdict.faults) == (2, ())


def test_only_the_owner_can_read_it(tmp_path: Path) -> None:
    """Who used what is nobody else's business."""
    write(tmp_path / "audit.jsonl", "alice")
    assert (tmp_path / "audit.jsonl").stat().st_mode & 0o777 == 0o600


HOSTILE = [
    'a\r\n{"seq":9,"event":"auth.denied"}',
    "a\n",
    "\x1b[2Jcleared",
    "\x9b2Jcleared",
    "a\u2028b\u2029c\x85d",
    "\x00\x7f",
    '","mac":"' + "0" * 64 + '"}',
    "\U0001f600",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_names_cannot_forge_lines(tmp_path: Path, name: str) -> None:
    """Whatever stands in a name, one record is one line of printable text, and comes back as it was."""
    path = tmp_path / "audit.jsonl"
    write(path, name, "bob")
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) == 2
    assert all(line.isprintable() for line in text.splitlines())
    assert [record["user"] for record in chain.records(path)] == [name, "bob"]
    assert chain.verify(path, KEY).faults == ()


@pytest.mark.parametrize("value", ["\ud800", 10**400, {1, 2, "x"}, object(), float("nan")])
def test_a_record_that_is_no_json_is_still_a_line(tmp_path: Path, value: Any) -> None:
    """A value that cannot be written costs its record's details, never the trail."""
    path = tmp_path / "audit.jsonl"
    with writing(path) as written:
        written.record("request.done", {"user": value})
        written.record("request.done", {"user": "bob"})
        until(lambda: path.stat().st_size > 0)
        assert written.admits()
    found = list(chain.records(path))
    assert [record["event"] for record in found] == ["request.done"] * 2
    assert found[1]["user"] == "bob"
    assert chain.verify(path, KEY).faults == ()


def test_a_restart_goes_on(tmp_path: Path) -> None:
    """The chain continues over any number of starts."""
    path = tmp_path / "audit.jsonl"
    for start in range(4):
        write(path, *[f"{start}-{number}" for number in range(start)])
    verdict = chain.verify(path, KEY)
    assert (verdict.records, verdict.faults) == (6, ())
    assert [record["seq"] for record in chain.records(path)] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("torn", [b"{", b'{"seq":3,"user":"x","mac":"00', b"\xff\xfe", b" "])
def test_half_a_line_is_healed(tmp_path: Path, torn: bytes) -> None:
    """What a kill left of a line is cut off at the next start, and nothing else is lost."""
    path = tmp_path / "audit.jsonl"
    write(path, "alice", "bob")
    with path.open("ab") as file:
        file.write(torn)
    assert chain.verify(path, KEY).faults
    write(path, "carol")
    assert [record["user"] for record in chain.records(path)] == ["alice", "bob", "carol"]
    assert chain.verify(path, KEY).faults == ()


def test_a_head_that_is_behind_comes_of_a_kill(tmp_path: Path) -> None:
    """Killed between the lines and the head, the trail is whole and goes on."""
    path, head = tmp_path / "audit.jsonl", tmp_path / "audit.jsonl.head"
    write(path, "alice")
    before = head.read_bytes()
    write(path, "bob")
    head.write_bytes(before)
    assert chain.verify(path, KEY).faults == ()
    write(path, "carol")
    assert chain.verify(path, KEY).records == 3


def test_a_trail_has_one_writer(tmp_path: Path) -> None:
    """Two proxies on one file would break each other's chain: the second does not start."""
    path = tmp_path / "audit.jsonl"
    with writing(path) as written:
        written.record("request.done", {"user": "alice"})
        with pytest.raises(AuditFileError, match="another proxy"):
            AuditWriter(path, KEY, Metrics(), required=True, now=Clock())
    write(path, "bob")
    assert chain.verify(path, KEY).records == 2


def test_another_key_cannot_go_on(tmp_path: Path) -> None:
    """A trail belongs to the key it was written with."""
    path = tmp_path / "audit.jsonl"
    write(path, "alice")
    with pytest.raises(AuditFileError, match="another key"):
        AuditWriter(path, b"x" * 32, Metrics(), required=True, now=Clock())
    assert "another one" in chain.verify(path, b"x" * 32).faults[0]


def test_a_full_disk_refuses_and_recovers(tmp_path: Path) -> None:
    """While the disk is full nothing is admitted; afterwards every record is there, once."""
    path = tmp_path / "audit.jsonl"
    with writing(path) as written:
        written.record("request.done", {"user": "alice"})
        until(lambda: _exported(path) == 1)
        with full_disk(path, room=50):
            for _ in range(3):
                written.record("request.done", {"user": "bob", "pad": "x" * 1000})
            until(lambda: not written.admits())
        until(written.admits)
        written.record("request.done", {"user": "carol"})
    assert [record["user"] for record in chain.records(path)] == ["alice", "bob", "bob", "bob", "carol"]
    assert chain.verify(path, KEY).faults == ()


def test_a_full_disk_leaves_no_half_line(tmp_path: Path) -> None:
    """A proxy that stops on a full disk leaves a trail that is whole."""
    path = tmp_path / "audit.jsonl"
    with writing(path) as written:
        written.record("request.done", {"user": "alice"})
        until(lambda: _exported(path) == 1)
        with full_disk(path, room=50):
            written.record("request.done", {"user": "bob", "pad": "x" * 1000})
            until(lambda: not written.admits())
            written.close()
    assert [record["user"] for record in chain.records(path)] == ["alice"]
    assert chain.verify(path, KEY).faults == ()


def test_a_trail_without_a_writer_admits_nothing(tmp_path: Path) -> None:
    """Before its thread runs and after it ended, no request is taken."""
    written = AuditWriter(tmp_path / "audit.jsonl", KEY, Metrics(), required=True, now=Clock())
    assert not written.admits()
    written.start()
    assert written.admits()
    written.close()
    assert not written.admits()


@pytest.mark.parametrize("required", [True, False])
def test_the_queue_is_bounded(tmp_path: Path, *, required: bool) -> None:
    """A full queue refuses requests, or, where the operator chose to go on, drops records."""
    written = AuditWriter(tmp_path / "audit.jsonl", KEY, Metrics(), required=required, now=Clock())
    for number in range(MAX_QUEUED + 10):
        written.record("request.done", {"number": number})
    assert written.admits() is (not required)
    assert len(written._queue) == MAX_QUEUED + (10 if required else 0)
    _close(written)


def test_every_record_is_counted(tmp_path: Path) -> None:
    """The metric counts records by event."""
    metrics = Metrics()
    written = AuditWriter(tmp_path / "audit.jsonl", KEY, metrics, required=True, now=Clock())
    written.record("auth.denied", {})
    _close(written)
    assert b'hubgate_audit_records_total{event="auth.denied"} 1.0' in metrics.expose()


@given(st.binary(min_size=1, max_size=200), st.binary(max_size=300))
def test_lines_are_bound_by_an_hmac(key: bytes, payload: bytes) -> None:
    """What is made of two hashes is HMAC-SHA256, for keys of every length."""
    assert chain._Hmac(key).digest(payload) == hmac.digest(key, payload, "sha256")


def test_lines_are_plain_json(tmp_path: Path) -> None:
    """Any JSON tool can read the trail."""
    path = tmp_path / "audit.jsonl"
    write(path, "alice")
    (line,) = path.read_text().splitlines()
    assert list(json.loads(line)) == ["seq", "time", "event", "user", "mac"]


def test_a_new_trail_has_a_head_at_once(tmp_path: Path) -> None:
    """A trail that is cut to nothing before its first line shows as well."""
    path = tmp_path / "audit.jsonl"
    with writing(path):
        assert _exported(path) == 0
        assert chain.verify(path, KEY).faults == ()


def test_writing_takes_no_descriptor(tmp_path: Path) -> None:
    """Where connections have taken all of them, the trail and its head go on."""
    path = tmp_path / "audit.jsonl"
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with writing(path) as written:
        with no_descriptor_left(), pytest.raises(OSError, match="Too many open files"):
            path.read_bytes()
        with no_descriptor_left():
            written.record("request.done", {"user": "alice"})
            until(lambda: not written._queue)
        assert written.admits()
        assert _exported(path) == 1
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (soft, hard)


def test_a_head_that_is_read_while_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that saw half of the old one and half of the new one looks once more before it accuses."""
    path = tmp_path / "audit.jsonl"
    write(path, "alice")
    old = Path(f"{path}.head").read_bytes()
    write(path, "bob")
    whole = Path(f"{path}.head").read_bytes()
    assert len(old) == len(whole)
    answers = [whole[:100] + old[100:], whole]
    monkeypatch.setattr(Path, "read_bytes", lambda _: answers.pop(0))
    assert chain.verify(path, KEY).faults == ()
    assert answers == []


@pytest.mark.parametrize(
    ("free", "size", "scarce"),
    [
        (RESERVE, 100 * RESERVE, False),
        (RESERVE - 4096, 100 * RESERVE, True),
        (0, 100 * RESERVE, True),
        (4096, 36864, False),  # a tenth of a small disk is enough
        (0, 36864, True),
    ],
)
def test_a_disk_with_little_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, size: int, *, scarce: bool
) -> None:
    """Below the reserve there is room for those who are known only; the log and the metric tell."""
    metrics = Metrics()
    monkeypatch.setattr(os, "statvfs", lambda _: disk(free, size))
    with structlog.testing.capture_logs() as logged:
        written = AuditWriter(tmp_path / "audit.jsonl", KEY, metrics, required=True, now=Clock())
    _close(written)
    assert written.scarce is scarce
    assert [entry["log_level"] for entry in logged] == ["warning"] * scarce
    assert metrics.registry.get_sample_value("hubgate_audit_free_bytes") == free


@pytest.mark.inside
def test_a_disk_that_has_room_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is looked at while it is short of room, also where nobody writes."""
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.01)
    room = [0]
    monkeypatch.setattr(os, "statvfs", lambda _: disk(room[0], 100 * RESERVE))
    with writing(tmp_path / "audit.jsonl") as written:
        assert written.scarce
        assert written.admits()
        room[0] = RESERVE
        until(lambda: not written.scarce)


def _exported(path: Path) -> int:
    """The number of the record that the head names."""
    return int(json.loads(Path(f"{path}.head").read_bytes())["seq"])


def _close(written: AuditWriter) -> None:
    """End one that was never started."""
    written._file.close()
    written._head_file.close()

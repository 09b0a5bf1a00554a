"""Files that may change: what is wrong with one is told while its last good version counts."""

import asyncio
from pathlib import Path

import pytest
import structlog
from structlog.testing import capture_logs

from hubgate.runtime import watch
from hubgate.wire.keyfile import RECHECK, KeyFile
from hubgate.wire.keys import KeyFileError


def number(path: Path) -> int:
    """What stands in a file."""
    try:
        return int(path.read_text())
    except ValueError:
        raise KeyFileError(f"{path}: is no number") from None


async def test_a_fault_is_told_until_it_is_mended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the name of the file in the settings, at every look; nothing is told of files that are fine."""
    monkeypatch.setattr(watch, "EVERY", 0)
    good, bad = tmp_path / "good", tmp_path / "bad"
    good.write_text("1")
    bad.write_text("1")
    now = [0.0]
    files = {path.name: KeyFile(path, number, lambda: now[0]) for path in (good, bad)}

    def told() -> list[str]:
        return [f"{entry['event']} {entry['file']} {entry['fault']}" for entry in log]

    with capture_logs() as log:
        monkeypatch.setattr(watch, "log", structlog.get_logger())  # one that no test before has bound
        watching = asyncio.create_task(watch.watch(files))
        await asyncio.sleep(0)
        assert told() == []
        bad.write_text("one")
        now[0] += RECHECK
        for _ in range(3):
            await asyncio.sleep(0)
        assert told() == [f"file.unreadable bad {bad}: is no number"] * 3
        assert files["bad"].current() == 1
        bad.write_text("12")
        now[0] += RECHECK
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert len(log) == 3
        assert files["bad"].current() == 12
        watching.cancel()

"""The log: one JSON object a line on standard error, in which no secret can stand."""

import json
import logging
from collections.abc import Callable, Iterator
from typing import Any, Literal

import pytest
import structlog

from hubgate.runtime import log
from hubgate.wire.secret import Secret

CANARY = "hf_canary_4711"


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    """Undo what `configure` does to the whole process."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """What was logged, parsed."""
    out, err = capsys.readouterr()
    assert not out
    return [json.loads(line) for line in err.splitlines()]


def test_each_event_is_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    """An event has its level, its time in UTC and its fields, whatever characters are in them."""
    log.configure("info", "json")
    structlog.get_logger().info("hello", name="a\r\nb\u2028\x1b[31m")
    (found,) = lines(capsys)
    assert (found["event"], found["level"]) == ("hello", "info")
    assert found["name"] == "a\r\nb\u2028\x1b[31m"
    assert found["timestamp"].endswith("Z")


def test_lower_levels_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    """Below the configured level nothing is written."""
    log.configure("warning", "json")
    logger = structlog.get_logger()
    logger.info("quiet")
    logger.warning("loud")
    assert [found["event"] for found in lines(capsys)] == ["loud"]


def test_libraries_log_through_it(capsys: pytest.CaptureFixture[str]) -> None:
    """A library's warning is an object like ours; its debug lines, which may hold headers, stay away."""
    log.configure("debug", "json")
    logging.getLogger("aiohttp").debug("Authorization: %s", CANARY)
    logging.getLogger("aiohttp").warning("odd %s", "thing")
    (found,) = lines(capsys)
    assert (found["event"], found["level"]) == ("odd thing", "warning")


def test_a_secret_is_stars(capsys: pytest.CaptureFixture[str]) -> None:
    """A secret in a field or in a list is not written."""
    log.configure("info", "json")
    logger = structlog.get_logger()
    secret = Secret(CANARY)
    logger.info("one", token=secret, tokens=[secret], by={"name": secret})
    text = capsys.readouterr().err
    assert CANARY not in text
    assert text.count("***") >= 3


@pytest.mark.parametrize("form", ["json", "console"])
@pytest.mark.parametrize("get_logger", [structlog.get_logger, logging.getLogger])
def test_of_an_exception_the_log_has_type_and_lines(
    capsys: pytest.CaptureFixture[str], form: Literal["json", "console"], get_logger: Callable[[str], Any]
) -> None:
    """Neither its text, which may quote what a caller sent, nor the values that were at hand."""
    log.configure("info", form)
    revealed = Secret(CANARY).reveal()
    try:
        int(revealed)
    except ValueError:
        get_logger("aiohttp").exception("two")
    text = capsys.readouterr().err
    assert "ValueError" in text
    assert "test_log.py:" in text
    assert CANARY not in text


def test_a_task_that_failed_is_told_with_its_exception(capsys: pytest.CaptureFixture[str]) -> None:
    """An exception that is handed over, instead of being handled here, is told the same way."""
    log.configure("info", "json")
    structlog.get_logger().error("died", exc_info=ValueError(CANARY))
    (found,) = lines(capsys)
    assert (found["exception"], found["at"]) == ("ValueError", [])


def test_console_lines_are_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    """The console form is one plain line an event."""
    log.configure("info", "console")
    structlog.get_logger().info("hello", name="world")
    text = capsys.readouterr().err
    assert "hello" in text
    assert "name=world" in text
    assert "\x1b" not in text

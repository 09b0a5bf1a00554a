"""Texts that no model could take, and templates that do not end."""

import contextlib
import signal
import threading
import time
from typing import Any

import pytest

from hubgate.backend.plugin.prompts import (
    LEAST_IDS,
    TemplateTimeoutError,
    check_product,
    end_if_alive,
    fit,
    fit_ids,
    interrupt,
)
from hubgate.backend.plugin.vllm_methods import VllmDiffersError, wrap
from tests.cases import each


def test_a_text_fits_or_is_refused_with_the_number() -> None:
    """Before it is tokenized."""
    assert fit("x" * 10, 10, cut=False, side=None) == "x" * 10
    with pytest.raises(ValueError, match=r"11 characters .* may be 10 at most"):
        fit("x" * 11, 10, cut=False, side=None)


@each(("side", "kept"), [("left", "bc"), ("right", "ab"), (None, "ab")])
def test_a_text_that_is_to_be_cut_is_cut(side: str | None, kept: str) -> None:
    """At the side at which its tokens would be."""
    assert fit("abc", 2, cut=True, side=side) == kept


def test_as_many_tokens_become_text_as_the_model_could_have_made() -> None:
    """Or some, where that is very few."""
    fit_ids(LEAST_IDS, 512)
    fit_ids(100_000, 100_000)
    for count, context in ((LEAST_IDS + 1, 512), (100_001, 100_000)):
        with pytest.raises(ValueError, match="too many"):
            fit_ids(count, context)


def test_a_template_that_does_not_end_is_ended() -> None:
    """Its thread leaves its loop, whatever errors the template's own code passes over."""
    caught: list[type[BaseException]] = []
    spinning = threading.Event()

    def loop() -> None:
        try:
            while True:
                with contextlib.suppress(Exception):  # as vLLM does around a template
                    spinning.set()
        except BaseException as error:  # noqa: BLE001
            caught.append(type(error))

    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    assert spinning.wait(20)
    interrupt([thread])
    thread.join(20)
    assert caught == [TemplateTimeoutError]
    interrupt([thread])  # one that has ended meanwhile


def test_an_engine_whose_template_cannot_be_ended_ends() -> None:
    """One that has ended in time does not."""
    ends: list[tuple[int, int]] = []
    never, thread = threading.Event(), threading.Thread(target=time.sleep, args=(0,))
    stuck = threading.Thread(target=never.wait, daemon=True)
    thread.start()
    thread.join()
    stuck.start()
    end_if_alive([thread], lambda *how: ends.append(how))
    assert ends == []
    end_if_alive([thread, stuck], lambda *how: ends.append(how))
    assert [how for _, how in ends] == [signal.SIGKILL]
    never.set()


@each(
    ("operator", "left", "right", "vast"),
    [
        ("*", "a", 10**9, True),
        ("*", 10**9, "a", True),
        ("*", ["a"] * 1000, 10_000, True),
        ("*", "-", 80, False),
        ("*", 7, 6, False),
        ("*", 2.5, 10**9, False),
        ("**", 9, 9**9, True),
        ("**", 2, 10, False),
        ("**", 10, -3, False),
        ("*", 10**900, 10**900, True),
    ],
)
def test_a_template_makes_nothing_vast_in_one_step(
    operator: str, left: Any, right: Any, *, vast: bool
) -> None:
    """It could not be interrupted there."""
    if vast:
        with pytest.raises(OverflowError):
            check_product(operator, left, right)
    else:
        check_product(operator, left, right)


class Theirs:
    """Something to be wrapped."""

    def method(self, number: int) -> int:
        return number


def _adding(original: Any) -> Any:
    def method(self: Theirs, number: int) -> int:
        return int(original(self, number)) + 1

    return method


def test_a_method_is_wrapped_once_and_only_as_it_was_read() -> None:
    """Another version of vLLM does not go on with what nobody has looked at."""
    for name, parameters in (("method", "self"), ("method", "self number more"), ("other", "self")):
        with pytest.raises(VllmDiffersError, match=name):
            wrap(Theirs, name, parameters, _adding)
    for _ in range(2):
        wrap(Theirs, "method", "self number", _adding)
    assert Theirs().method(1) == 2

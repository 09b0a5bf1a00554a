"""Many cases of one test, where pytest would take longer over each than the test itself.

    @each("text", ["", "/", "a/b/c"])
    def test_what_is_no_name_is_refused(text: str) -> None: ...

It is called as with `pytest.mark.parametrize`, and can stand more than once likewise. All cases share the
fixtures of one test, all of them are tried, and each one that fails is named with its values.
"""

import functools
import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest

Test = Callable[..., Any]

# A case that skips is no case; the last one is that of `each` within `each`.
_FAILURES = (Exception, pytest.fail.Exception, pytest.skip.Exception, BaseExceptionGroup)


def each(names: str | Sequence[str], cases: Iterable[Any]) -> Callable[[Test], Test]:
    """Run the test with each case: one value for a single name, else as many values as there are names."""
    single = isinstance(names, str)
    keys = (names,) if isinstance(names, str) else tuple(names)
    given = [dict(zip(keys, (case,) if single else case, strict=True)) for case in cases]

    def decorate(test: Test) -> Test:
        @functools.wraps(test)
        def run(**fixtures: Any) -> None:
            tried = _Tried(len(given))
            for case in given:
                try:
                    test(**fixtures, **case)
                except _FAILURES as error:
                    tried.add(case, error)
                    if _is_timeout(error):
                        break
            tried.judge()

        @functools.wraps(test)
        async def run_async(**fixtures: Any) -> None:
            tried = _Tried(len(given))
            for case in given:
                try:
                    await test(**fixtures, **case)
                except _FAILURES as error:
                    tried.add(case, error)
                    if _is_timeout(error):
                        break
            tried.judge()

        whole: Test = run_async if inspect.iscoroutinefunction(test) else run
        signature = inspect.signature(test)
        assert signature.parameters.keys() >= set(keys), f"{test.__name__} takes no {keys}"
        fixtures = [one for name, one in signature.parameters.items() if name not in keys]
        vars(whole)["__signature__"] = signature.replace(parameters=fixtures)  # what pytest goes by
        return whole

    return decorate


def _is_timeout(error: BaseException) -> bool:
    """Whether the time of the whole test is over (pytest-timeout fails it): there is none for other cases."""
    return isinstance(error, pytest.fail.Exception) and str(error).startswith("Timeout")


class _Tried:
    """Which cases failed, and how."""

    def __init__(self, number: int) -> None:
        assert number, "there is no case"
        self._number = number
        self._failed: list[tuple[str, BaseException]] = []

    def add(self, case: dict[str, Any], error: BaseException) -> None:
        shown = ", ".join(f"{name}={value!r:.200}" for name, value in case.items())
        error.add_note(f"case: {shown}")
        self._failed.append((shown, error))

    def judge(self) -> None:
        if not self._failed:
            return
        # The names first: a traceback shows no more than fifteen members of a group.
        names = "".join(f"\n  {shown}" for shown, _ in self._failed)
        told = f"{len(self._failed)} of {self._number} cases failed:{names}\n"
        raise BaseExceptionGroup(told, [error for _, error in self._failed])

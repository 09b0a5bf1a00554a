"""Replaces methods of vLLM's, where they are what was read: another version must not go on unbounded."""

import inspect
from collections.abc import Callable
from typing import Any

Method = Callable[..., Any]


class VllmDiffersError(Exception):
    """vLLM has no such method, or one with other parameters: the engine must not start."""


def wrap(owner: Any, name: str, parameters: str, wrapper: Callable[[Method], Method]) -> None:
    """Put `wrapper(original)` in the place of `owner.name`, once. Raises `VllmDiffersError`.

    `parameters` are the names of the original's, separated by spaces.
    """
    original = inspect.getattr_static(owner, name, None)
    if getattr(original, "hubgate_wraps", None) is not None:
        return
    if not callable(original) or " ".join(inspect.signature(original).parameters) != parameters:
        raise VllmDiffersError(f"{owner.__name__}.{name}({parameters}) is not in this vLLM")
    replacement: Any = wrapper(original)
    replacement.hubgate_wraps = original
    setattr(owner, name, replacement)

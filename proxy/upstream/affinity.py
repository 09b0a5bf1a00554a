"""Which of several backends takes a request: the one that is warmest, else always the same one."""

import hashlib
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TypeVar

Candidate = TypeVar("Candidate")


def choose(
    candidates: Sequence[Candidate],
    model: str,
    *,
    name: Callable[[Candidate], str],
    warmth: Callable[[Candidate], int],
) -> Candidate | None:
    """The warmest candidate; among equals by rendezvous hashing of model and name.

    Rendezvous hashing sends a model to the same backend from every proxy without their talking, and
    moves only the models of a backend that goes away.
    """
    if len(candidates) == 1:
        return candidates[0]
    return max(candidates, key=lambda one: (warmth(one), _weight(model, name(one))), default=None)


@lru_cache(maxsize=10_000)
def _weight(model: str, name: str) -> bytes:
    return hashlib.sha256(f"{model}\n{name}".encode()).digest()

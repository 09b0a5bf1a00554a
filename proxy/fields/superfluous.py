"""Finds what clients always send and no engine reads, so that it is left out of what is sent on.

SDKs, agents and other gateways add keys of their own and send them back with the next turn. The tables name
each with its reason: at the top as a row (`dropped`), further in beside the shape that it comes with
(`DROPPED`). `null` is absence for every key, known or not, in every object whose keys are known; what is
free JSON (schemas, arguments) is the caller's own and stays as it is.

Nothing is ever added here, and what is left is checked as if the rest had never been there.
"""

from typing import Any, Final

import msgspec

Found = list[tuple[Any, Any]]  # containers with a key or an index, those of one list in its order

UNTYPED: Final = "message"  # what an object without a `type` is, where that is one of several


class Position:
    """What objects may stand somewhere: one kind, or several that their `type` tells apart."""

    def __init__(self) -> None:
        self.only: Place | None = None
        self.kinds: dict[str, Place] = {}
        self.left_out: frozenset[str] = frozenset()  # kinds that are dropped from a list as a whole

    @property
    def empty(self) -> bool:
        return self.only is None and not self.kinds and not self.left_out


class Place:
    """The keys of one kind of object, with what may stand behind each."""

    def __init__(self) -> None:
        self.keys: dict[str, Position] = {}


# Of keys behind which no object is.
LEAF: Final = Position()
DROPPED: Final = Position()
TAG: Final = Position()  # the `type` of one of several, without which an object is `UNTYPED`


def find(objects: Any, at: Position) -> Found:
    """What is to be left out of a value that stands there; nothing is changed yet."""
    found: Found = []
    waiting: list[tuple[Any, Position]] = [(objects, at)]
    while waiting:
        value, there = waiting.pop()
        if isinstance(value, list):
            for index, item in enumerate(value):
                if there.left_out and isinstance(item, dict) and _kind(item) in there.left_out:
                    found.append((value, index))
                else:
                    waiting.append((item, there))
        elif isinstance(value, dict) and (place := _place(value, there)) is not None:
            keys = place.keys
            for name, inner in value.items():
                key = keys.get(name)
                if key is LEAF:
                    continue
                if key is DROPPED or (inner is None and (key is None or key is TAG)):
                    found.append((value, name))
                elif key is not None and inner is not None:
                    waiting.append((inner, key))
    return found


def encoded(found: Found) -> list[bytes]:
    """The JSON of each of them."""
    return [msgspec.json.encode(container[key]) for container, key in found]


def remove(found: Found) -> None:
    """Leave it out. The last of a list goes first."""
    for container, key in reversed(found):
        del container[key]


def _place(value: dict[str, Any], there: Position) -> Place | None:
    return there.only if there.only is not None else there.kinds.get(_kind(value) or UNTYPED)


def _kind(value: dict[str, Any]) -> str:
    kind = value.get("type")
    return kind if isinstance(kind, str) else ""

"""Reads from the type of a field where objects are in it, and which keys they have."""

from collections.abc import Iterable, Mapping
from typing import Any

from msgspec import inspect

from hubgate.proxy.fields.superfluous import DROPPED, LEAF, TAG, Place, Position


def position(kind: Any, left_out: Iterable[str] = ()) -> Position:
    """Where objects are, and which, in a value of this type; those of the kinds `left_out` are dropped."""
    made = Position()
    _collect(inspect.type_info(kind), made)
    made.left_out = frozenset(left_out)
    return made


def dropped(kind: type) -> Mapping[str, str]:
    """The keys that are dropped beside those of this shape, each with its reason."""
    found: Mapping[str, str] = getattr(kind, "DROPPED", {})
    return found


def _collect(info: inspect.Type, into: Position) -> None:
    """Add the objects of a type; of those without a tag there is one at most, as msgspec has it."""
    if isinstance(info, inspect.Metadata):
        _collect(info.type, into)
    elif isinstance(info, inspect.UnionType):
        for member in info.types:
            _collect(member, into)
    elif isinstance(info, inspect.ListType):
        _collect(info.item_type, into)
    elif isinstance(info, inspect.StructType):
        place = Place()
        for one in info.fields:
            inside = Position()
            _collect(one.type, inside)
            place.keys[one.encode_name] = LEAF if inside.empty else inside
        place.keys |= dict.fromkeys(dropped(info.cls), DROPPED)
        if info.tag is None:
            into.only = place
        else:
            place.keys[str(info.tag_field)] = TAG
            into.kinds[str(info.tag)] = place

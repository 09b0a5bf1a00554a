"""A mapping that never grows beyond its capacity, for whatever callers can make us remember."""

from collections import OrderedDict
from collections.abc import Hashable
from typing import TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class BoundedMap(OrderedDict[Key, Value]):
    """`put` adds an entry as the newest; over `capacity` entries, the oldest goes.

    Whoever reads an entry and wants to keep it for that calls `move_to_end`: then the oldest is the one that
    was used longest ago. An `OrderedDict` finds its oldest entry at once; a `dict` of which the first entry
    was often removed looks past all the gaps.
    """

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self.capacity = capacity

    def put(self, key: Key, value: Value) -> None:
        """Add or replace an entry."""
        self[key] = value
        self.move_to_end(key)
        if len(self) > self.capacity:
            self.popitem(last=False)

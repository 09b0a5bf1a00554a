"""The mapping that never grows beyond its capacity."""

from hubgate.wire.bounded_map import BoundedMap


def filled(*keys: str, capacity: int = 3) -> BoundedMap[str, int]:
    found: BoundedMap[str, int] = BoundedMap(capacity)
    for number, key in enumerate(keys):
        found.put(key, number)
    return found


def test_the_oldest_goes_first() -> None:
    """A new entry over the capacity takes the place of the oldest."""
    assert dict(filled("a", "b", "c", "d")) == {"b": 1, "c": 2, "d": 3}


def test_what_is_put_again_is_the_newest() -> None:
    """It holds its new value, and others go before it."""
    assert list(filled("a", "b", "c", "a", "d").items()) == [("c", 2), ("a", 3), ("d", 4)]


def test_what_is_used_can_be_kept() -> None:
    """Who moves an entry to the end has the one go that was used longest ago."""
    found = filled("a", "b", "c")
    found.move_to_end("a")
    found.put("d", 9)
    assert list(found) == ["c", "a", "d"]

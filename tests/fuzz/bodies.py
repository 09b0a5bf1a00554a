"""Bodies: JSON that was changed in a few values, and now and then in its text."""

import copy
import json
import operator
from random import Random
from typing import Any, Final

from tests.fuzz import words
from tests.fuzz.damage import damaged

LARGE: Final = 80_000  # bytes, roughly: larger bodies than 64 KiB are read and parsed in another way


def spelling(rng: Random) -> dict[str, Any]:
    """As the SDKs write, or another way."""
    kind = rng.random()
    if kind < 0.6:
        return {"separators": (",", ":"), "ensure_ascii": False}
    return {"indent": 2} if kind < 0.7 else {}


def changed(rng: Random, fields: dict[str, Any]) -> bytes:
    """JSON that was changed in a few values, and now and then in its text."""
    raws: list[str] = []
    for _ in range(rng.choice((1, 1, 2, 3))):
        _change(rng, fields, raws)
    text = json.dumps(fields, **spelling(rng))
    for number, raw in enumerate(raws):
        text = text.replace(f'"raw:{number}"', raw, 1)
    kind = rng.random()
    if kind < 0.06:
        text = text.replace("{", "{" + rng.choice(words.MEMBERS), 1)
    data = text.encode("utf-8", "surrogatepass")
    if kind > 0.97:
        data = data[: rng.randrange(len(data))]
    elif kind > 0.87:
        data = damaged(rng, data)
    elif kind > 0.86:
        utf_16 = text.encode("utf-16", "surrogatepass")
        data = rng.choice((b"\xef\xbb\xbf" + data, utf_16, b"[" + data + b"]", b"1", data * 2))
    return data


def _change(rng: Random, fields: dict[str, Any], raws: list[str]) -> None:
    """Change one value at any depth, or put one there."""
    place: Any = fields
    while (inner := [child for child in _children(place) if child]) and rng.random() < 0.6:
        place = rng.choice(inner)
    if rng.random() < 0.4:
        _vary(rng, place)
        return
    value = _value(rng, raws)
    if isinstance(place, list):
        at = rng.randrange(len(place))
        edits = (place.pop, lambda at: place.insert(at, value), lambda at: operator.setitem(place, at, value))
        rng.choice(edits)(at)
        return
    key = rng.choice(tuple(place) or words.FIELDS)
    kind = rng.random()
    if kind < 0.15:
        place.pop(key, None)
    elif kind < 0.6:
        place[key] = value
    elif kind < 0.75:
        place[rng.choice(words.FIELDS)] = place.get(key)
    else:
        place[rng.choice(words.FIELDS)] = value


def _vary(rng: Random, place: Any) -> None:
    """Put another value of the same kind there, which may well be as good."""
    at = rng.choice(range(len(place)) if isinstance(place, list) else tuple(place) or ("a",))
    value = place[at] if isinstance(place, list) else place.get(at)
    if at == "model" and rng.random() < 0.8:
        return
    match value:
        case bool():
            place[at] = not value
        case int():
            place[at] = rng.choice((*words.WHOLES, value + 1, value - 1, float(value)))
        case float():
            place[at] = rng.choice((*words.FRACTIONS, -value))
        case str() | list() if value and rng.random() < 0.04:
            place[at] = value * (LARGE // len(json.dumps(value)) + 1)
        case str():
            place[at] = "".join(rng.choices((*words.TEXTS, value), k=rng.randint(1, 3)))
        case list() if value:
            place[at] = value * rng.randint(2, 9)
        case _:
            pass


def _children(place: Any) -> list[Any]:
    """The lists and objects in this one."""
    values = place.values() if isinstance(place, dict) else place
    return [value for value in values if isinstance(value, dict | list)]


def _value(rng: Random, raws: list[str]) -> Any:
    kind = rng.random()
    if kind < 0.7:
        return copy.deepcopy(rng.choice(words.LEAVES))  # what is in it may be changed next
    if kind < 0.97:
        raws.append(rng.choice(words.RAW))
        return f"raw:{len(raws) - 1}"
    long = rng.choice((2_000, 20_000, 40_000))
    return rng.choice(
        (
            lambda: "x" * 2 * long,
            lambda: 'é"\\' * long,
            lambda: [rng.randrange(128_000) for _ in range(long)],
            lambda: ["a"] * long,
            lambda: {f"k{number}": number for number in range(long // 4)},
            lambda: [{"role": "user", "content": "x" * 50}] * (long // 40),
            lambda: [[]] * long,
        )
    )()

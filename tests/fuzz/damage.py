"""Bytes that were changed in a few places."""

from random import Random

from tests.fuzz import words


def damaged(rng: Random, data: bytes) -> bytes:
    """With a few places cut out, doubled, swapped, overwritten or added to."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        start = _place(rng, data)
        end = min(len(data), start + rng.choice((1, 1, 2, 4, 16, 60)))
        front, part, rest = data[:start], data[start:end], data[end:]
        match rng.randrange(7):
            case 0:
                data = front + rest
            case 1:
                data = front + part + part + rest
            case 2:
                other = rest[: len(part)]
                data = front + other + part + rest[len(part) :]
            case 3 | 4:
                data = front + rng.choice(words.BYTES) + part + rest
            case 5:
                data = front + rng.choice(words.BYTES) + rest
            case _:
                data = front + bytes(byte ^ (1 << rng.randrange(8)) for byte in part[:1]) + part[1:] + rest
    return data


def _place(rng: Random, data: bytes) -> int:
    """Anywhere, but in every other case at the end of a line, where framing is decided."""
    if rng.random() < 0.5 and (ends := data.count(b"\r\n")):
        at = -1
        for _ in range(rng.randint(1, min(ends, 12))):
            at = data.find(b"\r\n", at + 1)
        return at + rng.choice((0, 1, 2))
    return rng.randint(0, len(data))

"""What one caller sends to stop a proxy for others: the catalogue that `attacker.py` works through.

Each attack is known from some proxy that it ended or held up: bodies that cost their reader more than they
cost their sender, and connections that do. All are within what an ordinary client may send, and bodies
are just below 32 MiB, Hubgate's default bound: one that is refused by its length alone would hold nobody up.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from bench.messages import LOCAL, MODEL, PATH, chat, post

SECONDS: Final = 5.0  # that an attack takes at most
TIMES: Final = 3  # that it is made, one after the other
BODY: Final = 33_000_000  # bytes
COMPLETIONS: Final = "/v1/completions"


@dataclass(frozen=True, slots=True)
class Attack:
    """One way; `made` gives the bytes that each connection writes, for a caller with this token."""

    name: str
    does: str
    """What the caller does, for the table: `sends …`."""
    made: Callable[[str | None], bytes]
    answers: int = 1
    """How many a connection waits for, unless it is closed before."""
    connections: int = 1
    hold: float = 0.0
    """Seconds that the connections stay open after that."""


def _body(made: Callable[[], bytes], path: str = PATH) -> Callable[[str | None], bytes]:
    return lambda token: post(made(), token, path=path)


def _with(field: bytes, item: bytes, count: int) -> bytes:
    """A body with a list of so many items in one field."""
    return b'{"model":"%s","%s":[%s]}' % (MODEL.encode(), field, b",".join([item] * count))


def _long_numbers() -> bytes:
    """As long as Python converts them: 4,300 digits is where it refuses."""
    return _with(b"stop_token_ids", b"9" * 4299, BODY // 4300)


def _keys() -> bytes:
    keys = b",".join(b'"key-%d":0' % index for index in range(49_000))
    return b'{"model":"%s",%s}' % (MODEL.encode(), keys)


def _nested() -> bytes:
    """Beside a number of more than 18 digits, which has each number looked at by itself."""
    levels = b"[" * 980 + b"1" + b"]" * 980
    return b'{"model":"%s","seed":%d,"x":%s}' % (MODEL.encode(), 10**18, levels)


def _escapes() -> bytes:
    text = b'\\"' * (BODY // 2)
    return b'{"model":"%s","messages":[{"role":"user","content":"%s"}]}' % (MODEL.encode(), text)


def _chunked(token: str | None) -> bytes:
    """A body as chunks of one byte each (RFC 9112, section 7.1)."""
    body = chat(size=500_000)
    head = post(b"", token).replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    return head + b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"


def _listing(headers: str = "", token: str | None = None) -> bytes:
    secret = f"Authorization: Bearer {token}\r\n" if token else ""
    return f"GET /v1/models HTTP/1.1\r\nHost: {LOCAL}\r\n{secret}{headers}\r\n".encode()


ATTACKS: Final = (
    Attack("long numbers", "sends 33 MB of numbers of 4,299 digits", _body(_long_numbers)),
    Attack(
        "empty messages",
        "sends 500,000 empty messages in 1.5 MB",
        _body(lambda: _with(b"messages", b"{}", 500_000)),
    ),
    Attack(
        "messages",
        "sends 12,000 short messages",
        _body(lambda: _with(b"messages", b'{"role":"user","content":"Hi"}', 12_000)),
    ),
    Attack(
        "token ids",
        "sends a prompt of a million token ids",
        _body(lambda: _with(b"prompt", b"1234", 1_000_000), COMPLETIONS),
    ),
    Attack("keys", "sends 49,000 different keys", _body(_keys)),
    Attack("nesting", "sends 980 levels of lists beside a number of 19 digits", _body(_nested)),
    Attack("brackets", "sends 200,000 opening brackets", _body(lambda: b"[" * 200_000)),
    Attack("text", "sends 16 MB of text", _body(lambda: chat(size=16_000_000))),
    Attack("escapes", "sends 33 MB of escaped quotes", _body(_escapes)),
    Attack("chunks", "sends 0.5 MB in chunks of one byte", _chunked),
    Attack(
        "pipeline",
        "sends 10,000 requests without a token in one write",
        lambda _: _listing() * 10_000,
        answers=10_000,
    ),
    Attack(
        "upgrades",
        "sends 900 requests for another protocol in one write",
        lambda token: _listing("Connection: Upgrade\r\nUpgrade: websocket\r\n", token) * 900,
        answers=900,
    ),
    Attack(
        "connections", "opens 300 connections and says nothing", lambda _: b"", 0, connections=300, hold=1.0
    ),
)

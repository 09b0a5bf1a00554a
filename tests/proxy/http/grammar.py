"""RFC 9112 once more, as little of it as we accept, written for reading and not for speed: the oracle.

It shares nothing with the server. What it does not take for a request must not reach an engine.
"""

import re
from dataclasses import dataclass

TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # RFC 9110, section 5.6.2
LINE = re.compile(rb"(%s) +(/[\x21-\x7e]*) (HTTP/1\.[01])\r\n" % TOKEN)
FIELD = re.compile(rb"(%s):[ \t]*((?:[\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*))?)\r\n" % TOKEN)
HOST = re.compile(rb"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
CHUNK = re.compile(rb"([0-9A-Fa-f]{1,16})(?:[ \t]*;[\t\x20-\x7e\x80-\xff]*)?\r\n")
END = b"\r\n"


@dataclass(frozen=True, slots=True)
class Request:
    """One request that is well formed."""

    method: bytes
    target: bytes
    body: bytes

    @property
    def path(self) -> bytes:
        return self.target.partition(b"?")[0]


def requests(data: bytes) -> list[Request]:
    """The requests at the front of these bytes, up to the first that is none, or not whole."""
    found: list[Request] = []
    while True:
        data = data.lstrip(END)
        parsed = _request(data)
        if parsed is None:
            return found
        request, data = parsed
        found.append(request)


def _request(data: bytes) -> tuple[Request, bytes] | None:
    line = LINE.match(data)
    if line is None:
        return None
    method, target, version = line.groups()
    fields, rest = _fields(data[line.end() :])
    hosts = fields.get(b"host", [])
    named = all(HOST.fullmatch(host) for host in hosts) and len(hosts) == 1
    if rest is None or not (named or (version == b"HTTP/1.0" and not hosts)):
        return None
    codings, lengths = fields.get(b"transfer-encoding", []), fields.get(b"content-length", [])
    if codings:
        if lengths or version == b"HTTP/1.0" or [coding.lower() for coding in codings] != [b"chunked"]:
            return None
        read = _chunks(rest)
    elif lengths:
        read = _length(lengths, rest)
    else:
        read = b"", rest
    return (Request(method, target, read[0]), read[1]) if read is not None else None


def _fields(data: bytes) -> tuple[dict[bytes, list[bytes]], bytes | None]:
    """Values by name in lower case, and what follows; `None` where a line is no header."""
    fields: dict[bytes, list[bytes]] = {}
    while not data.startswith(END):
        found = FIELD.match(data)
        if found is None:
            return fields, None
        fields.setdefault(found[1].lower(), []).append(found[2].rstrip(b" \t"))
        data = data[found.end() :]
    return fields, data[len(END) :]


def _length(lengths: list[bytes], rest: bytes) -> tuple[bytes, bytes] | None:
    if len(lengths) > 1 or not re.fullmatch(rb"[0-9]{1,19}", lengths[0]):
        return None
    size = int(lengths[0])
    return (rest[:size], rest[size:]) if len(rest) >= size else None


def _chunks(data: bytes) -> tuple[bytes, bytes] | None:
    body = b""
    while found := CHUNK.match(data):
        size = int(found[1], 16)
        data = data[found.end() :]
        if size == 0:
            _, rest = _fields(data)
            return None if rest is None else (body, rest)
        if data[size : size + 2] != END:
            return None
        body += data[:size]
        data = data[size + 2 :]
    return None

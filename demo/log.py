"""What the demo Hub was asked. An entry has no place for a token, and callers' text is stripped of them."""

import json
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Final, TextIO

# Eight characters or more: `hf_hub` in the client's User-Agent is no token.
_TOKEN_LIKE: Final = re.compile(r"(hf_|api_org_)[A-Za-z0-9_%-]{8,}|(?<=signature=)[^&]+")


def stripped(text: str) -> str:
    """Take out what looks like a token or the signature of an address: a caller may write it anywhere."""
    return _TOKEN_LIKE.sub("***", text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One request."""

    time: float
    """Seconds since the epoch at which it was answered."""
    origin: str
    """hub or files."""
    method: str
    path: str
    """As it was sent, percent-encoded."""
    query: str
    user: str | None
    """The user whose token it carried, a revoked or expired one too."""
    token_name: str | None
    status: int
    """499 where the caller left first."""
    bytes: int
    """Of the answer's body."""
    user_agent: str
    has_authorization: bool


class RequestLog:
    """The last `limit` requests, oldest first; and all of them as JSON lines in `file`, if there is one."""

    def __init__(self, limit: int = 10_000, file: TextIO | None = None) -> None:
        self._entries: deque[Entry] = deque(maxlen=limit)
        self._file = file

    def add(self, entry: Entry) -> None:
        """Write down one request."""
        self._entries.append(entry)
        if self._file is not None:
            self._file.write(json.dumps(asdict(entry)) + "\n")
            self._file.flush()

    def clear(self) -> None:
        """Forget what is in memory."""
        self._entries.clear()

    def __iter__(self) -> Iterator[Entry]:
        """Iterate over the entries in memory, oldest first."""
        return iter(tuple(self._entries))

    def __len__(self) -> int:
        """How many entries are in memory."""
        return len(self._entries)

    def __getitem__(self, index: int) -> Entry:
        """Give one entry; -1 is the latest."""
        return self._entries[index]

    def paths(self, origin: str = "hub") -> list[str]:
        """Give "METHOD path" of each request to an origin."""
        return [f"{entry.method} {entry.path}" for entry in self if entry.origin == origin]

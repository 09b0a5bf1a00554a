"""What became of each request that a trail names."""

from collections.abc import Iterable, Iterator
from typing import Any

UNFINISHED = "unfinished"  # the reason told of a request that was granted and has no end


def outcomes(records: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """One record for each request: its last line, or `request.granted` where no other line followed.

    `auth.refused` and `limits.refused` stand for as many requests as their `count` says.

    Such a request is still in flight, or its proxy was killed. A caller may choose ids, and use one again:
    they are told apart by caller, and each end counts for one beginning.
    """
    granted: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for record in records:
        key = str(record.get("request_id")), str(record.get("sub"))
        match record.get("event"):
            case "request.granted":
                granted.setdefault(key, []).append(record)
            case "auth.denied" | "request.done":
                if key in granted:
                    granted[key].pop(0)
                    if not granted[key]:
                        del granted[key]
                yield record
            case "auth.refused" | "limits.refused" as event:
                yield {**record, "reason": event}
            case _:
                pass
    for begun in granted.values():
        for record in begun:
            yield {**record, "reason": UNFINISHED}

"""What must hold of every answer, judged from what was sent, what came back, and what the engine had."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

from hubgate.proxy.endpoints import ENDPOINTS
from hubgate.proxy.errors import STATUS, Code
from hubgate.proxy.fields import superfluous
from tests.fuzz.engine import StrictEngine, strict
from tests.fuzz.reading import NoAnswerError, Reading, Said, answers, readings

# What `Gateway.refuse` tells of bytes that are no request.
NO_REQUEST: Final = {
    "This is not HTTP/1.1 as RFC 9112 defines it.",
    "The request line or a header is too long, or there are too many.",
    "Speak HTTP/1.1 or HTTP/1.0 here.",
    "The head of the request did not come in time.",
}
_ITS_CODES: Final[tuple[Code, ...]] = (
    "invalid_request",
    "headers_too_large",
    "http_version",
    "request_timeout",
)
_ITS_STATUSES: Final = {STATUS[code] for code in _ITS_CODES}
_SET: Final = {"model", "cache_salt", "store", "stream_options"}  # what the proxy sets, or may set
_NUMBER: Final = re.compile(rb'"id":"([0-9]+)"')


class Checker:
    """Counts the answers, and what the audit and the engine have to have for them."""

    def __init__(self, engine: StrictEngine) -> None:
        self._engine = engine
        self.answered: Counter[str] = Counter()  # by status and code
        self.routes: Counter[str] = Counter()  # of those that the engine had
        self.due: Counter[tuple[str, int]] = Counter()  # lines of the audit, by id and status
        self.perhaps: Counter[tuple[str, int]] = Counter()  # and lines that there may be

    def faults(self, sent: bytes, seen: bytes) -> Iterator[str]:
        """What is wrong with these answers to the bytes of one connection."""
        read, _ = readings(sent)
        waiting, before = iter(read), None
        came = answers(seen, [reading.method for reading in read])
        try:
            for answer in came:
                code, fault = _documented(answer)
                self.answered[f"{answer.status} {code}".strip()] += 1
                if fault:
                    yield fault
                if self._ends(answer, code):
                    if list(came):
                        yield "more comes after bytes that are no request"
                    return
                asked = next(waiting, None)
                if asked is None:
                    yield f"h11 has no request for {answer.status} {answer.id}"
                    return
                if before is not None and (before.last or not before.complete):
                    yield f"{answer.status} {answer.id} follows a last request"
                before = asked
                yield from self._unfit(answer, asked, sent)
        except NoAnswerError as error:
            yield f"no answer: {error}"

    @staticmethod
    def idle(sent: bytes, seen: bytes) -> bool:
        """Whether all that was sent was answered, and no answer was the last: the connection stays open.

        So it does where a length that was changed takes in what should have closed it.
        """
        read, rest = readings(sent)
        try:
            came = list(answers(seen, [reading.method for reading in read]))
        except NoAnswerError:
            return False
        return not rest and len(came) == len(read) and all(reading.complete for reading in read)

    def _ends(self, answer: Said, code: str) -> bool:
        """Whether it is to bytes that are no request, and so the last one."""
        if answer.body:
            return bool(code) and answer.error()["message"] in NO_REQUEST
        # To HEAD: whether it was to a request, the body would tell.
        ends = answer.status in _ITS_STATUSES and answer.headers.get("connection") == "close"
        self.perhaps[answer.id, answer.status] += ends
        return ends

    def _unfit(self, answer: Said, asked: Reading, sent: bytes) -> Iterator[str]:
        """What is wrong with this answer to this request."""
        if asked.id not in (None, answer.id) and not _trailed(asked, answer, sent):
            yield f"{asked.id} is answered as {answer.id}"
        if asked.decided:
            self.due[answer.id, answer.status] += 1
        elif answer.status == 200 and asked.path not in ("/", "/health"):
            yield f"200 for {asked.method!r} {asked.target!r}"
        endpoint = ENDPOINTS.get(asked.path)
        if answer.status == 200 and endpoint is not None and endpoint.fields is not None:
            yield from self._altered(answer, asked)

    def _altered(self, answer: Said, asked: Reading) -> Iterator[str]:
        """What the engine had otherwise than h11 has it."""
        number = _NUMBER.search(answer.body)
        had = self._engine.had.pop(int(number[1]), None) if number else None
        if had is None:
            yield f"the engine did not have what {answer.id} got"
            return
        self.routes[had.path] += 1
        if not asked.complete:
            yield f"h11 has no whole body for {answer.id}"
        elif (had.path, had.id) != (asked.path, answer.id):
            yield f"{asked.path} {answer.id} came as {had.path} {had.id}"
        elif had.json is not None:
            yield from _changed(had.json, asked)
        elif had.recording is None or had.recording not in asked.body:
            yield f"{answer.id} came with another recording"


def _trailed(asked: Reading, answer: Said, sent: bytes) -> bool:
    """Whether whitespace follows the id, which the proxy takes for a part of it and so makes its own."""
    return answer.id.startswith("req-") and bool(
        re.search(rb"%b[ \t]+\r\n" % (asked.id or "").encode(), sent)
    )


def _documented(answer: Said) -> tuple[str, str]:
    """The code of an answer, and what is wrong with it by the table of errors."""
    if answer.status == 200:
        return "", ""
    if not answer.body:  # to HEAD
        known = answer.status in STATUS.values() and (answer.status < 500 or answer.status == 505)
        return "", "" if known else f"undocumented {answer.status}"
    try:
        code: Any = answer.error()["code"]
    except (ValueError, KeyError, TypeError):
        return "?", f"{answer.status} without an error: {answer.body!r}"
    if STATUS.get(code) != answer.status:
        return str(code), f"undocumented {answer.status} {code}"
    # Engine and Hub are in good health: none is due but that of another version of HTTP.
    ours = answer.status >= 500 and code != "http_version"
    return code, f"{answer.status} {answer.body!r}" if ours else ""


def _changed(had: dict[str, Any], asked: Reading) -> Iterator[str]:
    """What of a body came otherwise, or could be read in two ways; what is to be dropped need not come."""
    try:
        sent = strict(asked.body)
    except ValueError as error:
        yield f"accepted, and is no JSON: {error!r}"
        return
    if had["model"].partition("@")[0] != sent["model"].partition("@")[0]:
        yield f"asked for {sent['model']} and came as {had['model']}"
    table = ENDPOINTS[asked.path].fields
    if table is not None and _plain(had) != _plain(sent):
        superfluous.remove(table.superfluous(sent))
        table.translate(sent)
        had = {name: value for name, value in had.items() if value is not None}
    if _plain(had) != _plain(sent):
        yield f"another body came: {_plain(had)[:500]}"


def _plain(fields: dict[str, Any]) -> str:
    return json.dumps({name: value for name, value in fields.items() if name not in _SET}, sort_keys=True)

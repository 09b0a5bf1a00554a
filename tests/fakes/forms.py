"""Forms with a recording, as a caller sends them and as an engine reads them."""

from collections.abc import Sequence
from email import message_from_bytes
from email.message import Message
from typing import Any

import msgspec

from tests.fakes.answers import raw, whole
from tests.fakes.engine import Answer, Received
from tests.fakes.raw import RawAnswer, request
from tests.fakes.running_proxy import ALICE, BASE, Edge

SPEECH, TRANSLATION = "/v1/audio/transcriptions", "/v1/audio/translations"
MARK = "x-mark"
FORM = ("Content-Type", f"multipart/form-data; boundary={MARK}")
AUTH = ("Authorization", f"Bearer {ALICE}")
SOUND = b"RIFF\r\n--x-mar\r\n\x00\xff" * 9

Part = tuple[str, bytes]


def part(name: str, value: str) -> Part:
    """A field."""
    return (f'form-data; name="{name}"', value.encode())


def recording(content: bytes = SOUND, filename: str = "a.wav", more: str = "") -> Part:
    """The file; `more` stands in its headers."""
    return (f'form-data; name="file"; filename="{filename}"{more}', content)


def form(*parts: Part, end: bytes = b"--\r\n") -> bytes:
    """These parts, and the closing boundary."""
    opened = b"".join(
        b"--%b\r\nContent-Disposition: %b\r\n\r\n%b\r\n" % (MARK.encode(), told.encode(), content)
        for told, content in parts
    )
    return opened + f"--{MARK}".encode() + end


def begun(content: bytes = SOUND, model: str = BASE) -> bytes:
    """A form in the middle of its file."""
    return form(part("model", model), recording(content), end=b"").removesuffix(f"\r\n--{MARK}".encode())


MODEL = part("model", BASE)
GOOD = form(MODEL, recording())


def transcribed(text: str = "hello") -> Answer:
    """What vLLM says of a recording."""
    return raw(whole(200, msgspec.json.encode({"text": text, "usage": {"type": "duration", "seconds": 1}})))


def read(received: Received) -> "list[Message[str, str]]":
    """The parts that the engine got, by a reader that is not ours."""
    kind = f"Content-Type: {received.header('content-type')}\r\n\r\n".encode()
    found = message_from_bytes(kind + received.body)
    assert found.is_multipart()
    return [one for one in found.get_payload() if isinstance(one, Message)]


def fields(received: Received) -> list[tuple[str, bytes]]:
    """Names and contents of those parts, in order."""
    found = []
    for one in read(received):
        content = one.get_payload(decode=True)
        assert isinstance(content, bytes)
        found.append((str(one.get_param("name", header="content-disposition")), content))
    return found


async def send(edge: Edge, body: bytes, path: str = SPEECH, headers: Sequence[Any] = (FORM,)) -> RawAnswer:
    """One form of alice's."""
    return await edge.ask("POST", path, headers=headers, body=body)


def head_of(*headers: tuple[str, str]) -> bytes:
    """The head of a form whose body is still to come."""
    return request("POST", SPEECH, [AUTH, FORM, *headers])

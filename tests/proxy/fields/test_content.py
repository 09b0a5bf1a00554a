"""Parts of a chat message: known types and keys only, and media inside the request."""

import json
from typing import Any

from hubgate.proxy.body import json_request
from hubgate.proxy.endpoints import ENDPOINTS
from hubgate.proxy.errors import Denied
from hubgate.proxy.settings import Request
from tests.cases import each

DATA = "data:image/png;base64,AAAA"


def refused(message: Any) -> bool:
    """Whether a message is refused, as a bad request that names `messages`."""
    raw = json.dumps({"model": "a/b", "messages": [{"role": "user", "content": "hi"}, message]}).encode()
    found = json_request.parse(ENDPOINTS["/v1/chat/completions"], raw, Request())
    if not isinstance(found, Denied):
        return False
    assert (found.code, found.param) == ("invalid_request", "messages")
    return True


@each(
    "part",
    [
        {"type": "text", "text": "hi"},
        {"type": "refusal", "refusal": "no"},
        {"type": "image_url", "image_url": {"url": DATA}},
        {"type": "image_url", "image_url": {"url": DATA, "detail": "low"}},
        {"type": "video_url", "video_url": {"url": "data:video/mp4;base64,AAAA"}},
        {"type": "audio_url", "audio_url": {"url": "data:audio/wav;base64,AAAA"}},
        {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
    ],
)
def test_documented_parts_pass(part: dict[str, Any]) -> None:
    """Text, refusals, images, audio and video of OpenAI's reference pass, media as data: URLs."""
    assert not refused({"role": "user", "content": [part]})


@each(
    "url",
    [
        "http://169.254.169.254/latest/meta-data",
        "https://example.com/x.png",
        "file:///etc/passwd",
        "//example.com/x",
        "DATA:image/png;base64,AAAA",
        " data:image/png;base64,AAAA",
        "ftp://x",
        "",
        None,
        5,
        {"url": DATA},
        [DATA],
    ],
)
@each("kind", ["image_url", "video_url", "audio_url"])
def test_media_from_elsewhere_are_refused(kind: str, url: Any) -> None:
    """The engine is never told to fetch anything."""
    assert refused({"role": "user", "content": [{"type": kind, kind: {"url": url}}]})


@each(
    "part",
    [
        "hi",
        None,
        [],
        {},
        {"text": "hi"},
        {"type": "text", "text": "hi", "uuid": "1"},
        {"type": "image_url", "image_url": {"url": DATA}, "uuid": "someone-elses"},
        {"type": "image_url", "image_url": {"url": DATA, "uuid": "1"}},
        {"type": "image_url", "image_url": DATA},
        {"type": "image_url", "image_url": "http://x"},
        {"type": "image_url", "image_url": [DATA]},
        {"type": "image_url", "image_url": None},
        {"type": "text", "text": "hi", "image_url": {"url": "http://x"}},
        {"type": "image_embeds", "image_embeds": "AAAA"},
        {"type": "image_pil", "image_pil": "AAAA"},
        {"type": "input_image", "image_url": "http://x"},
        {"type": "file", "file": {"file_id": "1"}},
        {"type": "thinking", "thinking": "x"},
        {"type": ["text"], "text": "hi"},
        {"type": {"a": 1}},
        {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav", "url": "http://x"}},
    ],
)
def test_other_parts_are_refused(part: Any) -> None:
    """An unknown type, an unknown key or a wrong shape is refused, wherever in the list it stands."""
    assert refused({"role": "user", "content": [{"type": "text", "text": "hi"}, part]})


@each("key", ["uuid", "prompt_embeds", "cache_salt", "tool_call", "documents"])
def test_other_keys_of_a_message_are_refused(key: str) -> None:
    """A message carries the keys of the reference and no others."""
    assert refused({"role": "user", "content": "hi", key: 1})


@each("content", [{"type": "image_url", "image_url": {"url": "http://x"}}, 5, True, {}])
def test_content_is_text_or_a_list(content: Any) -> None:
    """Content of any other type is refused: what was not walked is not passed on."""
    assert refused({"role": "user", "content": content})

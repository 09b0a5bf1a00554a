"""Attacks by what stands in a body: its nesting, its size, its numbers, its fields, its parts."""

from collections.abc import Iterator
from random import Random
from typing import Any, Final

from tests.hostile.attack import REFUSED, Attack
from tests.hostile.manners import SILENCE, dripped, left, waiting
from tests.hostile.requests import (
    BASE,
    LEAST,
    Make,
    Sender,
    asking,
    beside,
    chat,
    completion,
    deep,
    form,
    head,
    nested,
    part,
    post,
)

MEGABYTE: Final = 1_000_000
LARGE: Final = 33 * MEGABYTE
LARGEST: Final = 1 << 25  # `request.max_body_bytes`, a sixteenth of `request.max_buffered_bytes`
SEEN: Final = "seen on this project"
BAD: Final = frozenset({400, 413, 429})
GONE: Final = REFUSED | {408, SILENCE}

CHAT, COMPLETIONS, TOKENIZE = "/v1/chat/completions", "/v1/completions", "/tokenize"


def _around(levels: int, steps: int = 2) -> Make:
    """Depths from there on, one request each."""
    return beside(CHAT, lambda number: deep(levels + number * steps))


def _deep() -> Iterator[Attack]:
    """Python 3.11 counts what recurses in C to 1,000 levels, 3.12 to some 10,500; our own bound is 100."""
    row = "body-deep-ints"
    for path in LEAST:
        yield Attack(
            id=f"{row}:{path.strip('/').replace('/', '-')}",
            source=SEEN,
            make=beside(path, lambda number: deep(968 + 2 * number)),
            count=12,
            statuses=BAD,
            quick=path in (CHAT, "/v1/messages", "/detokenize"),
        )
    variants: dict[str, Make] = {
        "objects": beside(
            CHAT, lambda n: b'"n":10000000000000000000,"x":' + nested(480 + n, b"1", b'[{"a":', b"}]")
        ),
        "negative": beside(CHAT, lambda n: deep(968 + 2 * n, long=b"-9223372036854775809")),
        "endless": beside(CHAT, lambda n: deep(968 + 2 * n, long=b"9" * 4299)),
        "twice": beside(CHAT, lambda n: deep(968 + 2 * n, b'{"a":1,"a":1000000000000000000}')),
        "fractions": beside(CHAT, lambda n: deep(968 + 2 * n, b"1.5e300", long=b"1e999")),
        "nan": beside(CHAT, lambda n: deep(968 + 2 * n, b"NaN")),
        "large": beside(
            CHAT, lambda n: b'"user":"%b",%b' % (b"x" * 200_000, deep(968 + 2 * n))
        ),
        "tools": beside(
            CHAT, lambda n: b'"tools":[{"type":"function","function":{"name":"f","parameters":{%b}}}]'
            % deep(964 + 2 * n)
        ),
        "schema": beside(
            COMPLETIONS, lambda n: b'"structured_outputs":{"json":{%b}}' % deep(964 + 2 * n)
        ),
        "from-900": _around(900, 8),
        "from-1,000": _around(1_000, 8),
        "ten-thousand": _around(10_400, 20),
        "million": beside(CHAT, lambda n: deep(1_000_000 + n)),
        "bound": _around(95, 1),
    }  # fmt: skip
    for name, make in variants.items():
        yield Attack(
            id=f"{row}:{name}",
            source=SEEN,
            make=make,
            count=26 if name.startswith("from") else 12,
            statuses=BAD,
            quick=name in ("objects", "negative", "large"),
        )


def _prose(size: int) -> str:
    """Words as a text has them, which a tokenizer of bytes and one of words both work on."""
    words = [
        "the",
        "quick",
        "brown",
        "fox",
        "jumps",
        "over",
        "a",
        "lazy",
        "dog",
        "and",
        "writes",
        "of",
        "it",
        "at",
        "some",
        "length",
    ]
    drawn = Random(14).choices(words, k=size // 5)  # noqa: S311 - must be repeatable
    return " ".join(drawn)[:size]


def _tokens() -> Iterator[Attack]:
    row = "body-many-tokens"
    ids = asking(COMPLETIONS, prompt=[5] * MEGABYTE, max_tokens=1)
    prose = _prose(16 * MEGABYTE)
    many = {
        "million-ids": (ids, True),
        "prose": (asking(COMPLETIONS, prompt=prose, max_tokens=1), False),
        "prose-chat": (asking(CHAT, messages=[{"role": "user", "content": prose}]), False),
        "prose-embedded": (asking("/v1/embeddings", input=[prose[:60_000]] * 256), False),
        "prose-responses": (asking("/v1/responses", input=prose), False),
    }
    for name, (make, quick) in many.items():
        yield Attack(id=f"{row}:{name}", source=SEEN, make=make, count=4, quick=quick, seconds=15)


def _lists(prefix: bytes, one: bytes, times: int, end: bytes) -> bytes:
    return prefix + b",".join([one] * times) + end


def _shapes() -> Iterator[Attack]:
    """What costs a parser more than its length tells."""
    row = "body-shapes"
    number = b"9" * 4_299
    made: dict[str, Make] = {
        "long-numbers": beside(CHAT, lambda _: _lists(b'"x":[', number, LARGE // 4_400, b"]")),
        "empty-messages": beside(CHAT, lambda _: _lists(b'"messages":[', b"{}", 500_000, b"]"), "messages"),
        "unique-keys": beside(
            CHAT, lambda _: b'"x":{%b}' % b",".join(b'"%x":0' % at for at in range(400_000))
        ),
        "logit-bias": beside(
            CHAT, lambda _: b'"logit_bias":{%b}' % b",".join(b'"%d":1' % at for at in range(200_000))
        ),
        "escaped-quotes": beside(CHAT, lambda _: b'"user":"%b"' % (b'\\"' * (LARGE // 2))),
        "escaped-halves": beside(CHAT, lambda _: b'"user":"%b"' % (b"\\ud83d" * (LARGE // 7))),
        "at-the-bound": beside(CHAT, lambda _: _lists(b'"stop_token_ids":[', b"1", 49_900, b"]")),
        "long-fractions": beside(
            CHAT, lambda n: _lists(b'"x":[', b"0.%039d" % (n + 7), 40_000, b"]")
        ),
        "exponents": beside(CHAT, lambda _: _lists(b'"x":[', b"1e-99999", 40_000, b"]")),
        "spaces": beside(CHAT, lambda _: b'"x":' + b" " * (LARGE - MEGABYTE) + b"1"),
        "long-key": beside(CHAT, lambda _: b'"%b":1' % (b"k" * MEGABYTE)),
        "same-key": beside(CHAT, lambda _: _lists(b"", b'"temperature":1', 200_000, b"")),
        "not-text": beside(CHAT, lambda _: b'"user":"%b"' % (b"\xff" * MEGABYTE)),
        "no-value": lambda sender: post(CHAT, sender.token, b"[" * 8 * MEGABYTE),
        "commas": lambda sender: post(CHAT, sender.token, b"{" + b"," * 8 * MEGABYTE),
    }  # fmt: skip
    quick = {"empty-messages", "at-the-bound", "long-key", "unique-keys"}
    for name, make in made.items():
        yield Attack(id=f"{row}:{name}", source=SEEN, make=make, count=3, seconds=15, quick=name in quick)
    deep = b'{"a":' * 90 + b"1" + b"}" * 90
    yield Attack(
        id=f"{row}:at-once",
        source=SEEN,
        make=beside(CHAT, lambda _: _lists(b'"x":[', deep, 500, b"]")),
        count=60,
        at_once=60,
        seconds=15,
        quick=True,
    )
    yield Attack(
        id=f"{row}:zip-bomb",
        source="CVE-2025-69223",
        make=lambda sender: post(CHAT, sender.token, b"\x1f\x8b" + bytes(9_000), "Content-Encoding: gzip"),
        count=10,
        statuses=frozenset({415}),
        quick=True,
    )
    yield Attack(
        id=f"{row}:one-byte-chunks",
        source="CVE-2025-69229",
        make=_chunked(b"1\r\nx\r\n" * 400_000 + b"0\r\n\r\n"),
        count=3,
        seconds=15,
        statuses=REFUSED | {SILENCE},
        quick=True,
    )
    yield Attack(
        id=f"{row}:chunk-extensions",
        source="CVE-2024-22019",
        make=_chunked(b"1;%b\r\n{\r\n0\r\n\r\n" % (b"e" * 8 * MEGABYTE)),
        count=3,
        statuses=REFUSED | {431, SILENCE},
        quick=True,
    )
    yield Attack(
        id=f"{row}:trailers",
        source="CVE-2026-22815",
        make=_chunked(b"2\r\n{}\r\n0\r\n" + b"x-trailer: 1\r\n" * 200_000 + b"\r\n"),
        count=3,
        statuses=REFUSED | {431, SILENCE},
        quick=True,
    )


def _chunked(body: bytes) -> Make:
    about = ("Content-Type: application/json", "Transfer-Encoding: chunked", "Connection: close")
    return lambda sender: head("POST", CHAT, sender.token, *about) + body


def _begun(size: int, sent: int, *lines: str) -> Make:
    """A request of which so many bytes of the body come, and no more."""
    about = ("Content-Type: application/json", f"Content-Length: {size}", *lines)
    start = b'{"model":"' + BASE.encode() + b'","user":"'
    return lambda sender: head("POST", CHAT, sender.token, *about) + (start + b"x" * sent)[:sent]


def _memory() -> Iterator[Attack]:
    row = "body-memory"
    common: dict[str, Any] = {"source": SEEN, "statuses": GONE}
    yield Attack(
        id=f"{row}:unfinished", make=_begun(LARGEST, LARGEST - 1), manner=waiting, count=17, at_once=17,
        seconds=20, **common,
    )  # fmt: skip
    yield Attack(
        id=f"{row}:announced", make=_begun(33_000_000, 1), manner=waiting, count=64, at_once=64,
        seconds=20, **common,
    )  # fmt: skip
    yield Attack(
        id=f"{row}:dripped", make=_begun(1_000, 900), manner=dripped, count=32, at_once=32,
        seconds=3, quick=True, **common,
    )  # fmt: skip
    yield Attack(
        id=f"{row}:expecting", make=_begun(33_000_000, 0, "Expect: 100-continue"), manner=waiting,
        count=32, at_once=32, seconds=2, quick=True, source=SEEN, statuses=GONE | {100, 417},
    )  # fmt: skip
    yield Attack(
        id=f"{row}:left", make=_begun(33_000_000, 8_000_000), manner=left, count=40, at_once=4, seconds=6,
        **common,
    )  # fmt: skip


def _fields() -> Iterator[Attack]:
    """Fields that made an engine run a template, unpickle a tensor, fetch or decode."""
    row = "forbidden-fields"
    loop = "{% for i in range(100000000) %}{{ i }}{% endfor %}"
    user = {"role": "user"}
    bomb = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAB//8AAf//CAYAAAA="
    made: dict[str, tuple[str, Make]] = {
        "prompt-embeds": ("CVE-2025-62164", completion(prompt_embeds="AAAA")),
        "prompt-embeds-alone": (
            "CVE-2026-56340",
            beside(COMPLETIONS, lambda _: b'"prompt_embeds":["gASVAA=="]', "prompt"),
        ),
        "chat-template": ("CVE-2025-61620", chat(chat_template=loop)),
        "template-in-arguments": (
            "CVE-2026-115918",
            asking("/v1/responses", chat_template_kwargs={"chat_template": loop}),
        ),
        "template-of-chat": ("CVE-2026-115911", chat(chat_template_kwargs={"chat_template": loop})),
        "frames": (
            "CVE-2026-105758",
            asking(TOKENIZE, media_io_kwargs={"video": {"max_frames": 10**9, "fps": 10**9}}),
        ),
        "audio-bomb": (
            "CVE-2026-116175",
            chat(messages=[{**user, "content": [{"type": "input_audio", "input_audio": {
                "data": "T2dnUwACAAAAAAAAAAA=", "format": "ogg"}}]}]),
        ),
        "image-bomb": (
            "CVE-2026-22773",
            chat(messages=[{**user, "content": [{"type": "image_url", "image_url": {"url": bomb}}]}]),
        ),
        "media-of-others": (
            "CVE-2025-6242",
            chat(messages=[{**user, "content": [
                {"type": "image_url", "image_url": {"url": "http://169.254.169.254/x"}}]}]),
        ),
        "chosen-tokens": ("PYSEC-2026-4350", completion(logprob_token_ids=list(range(200)))),
        "prompts-logprobs": ("vllm-project/vllm: prompt_logprobs with LoRA", completion(prompt_logprobs=20)),
        "sparse-transfer": ("CVE-2026-105757", completion(kv_transfer_params={"do_remote_decode": True})),
    }  # fmt: skip
    quick = {"chat-template", "prompt-embeds", "image-bomb", "audio-bomb"}
    for name, (source, make) in made.items():
        yield Attack(
            id=f"{row}:{name}", source=source, make=make, count=10, at_once=5, statuses=BAD,
            quick=name in quick,
        )  # fmt: skip


def _forms() -> Iterator[Attack]:
    row = "forms"
    model, cut = part("model", BASE.encode()), part("file", b"x", "\r\nContent-Length: 99999")
    opus = part("file", b"OggS" + bytes(MEGABYTE), '; filename="a.ogg"')
    unended = "POST", "/v1/audio/transcriptions"

    def dashes(sender: Sender) -> bytes:
        body = b"--b" + b"-" * 8 * MEGABYTE
        about = ("Content-Type: multipart/form-data; boundary=b", f"Content-Length: {len(body)}")
        return head(*unended, sender.token, *about, "Connection: close") + body

    made: dict[str, tuple[str, Make]] = {
        "dashes": ("CVE-2024-8984", dashes),
        "long-boundary": ("CVE-2024-8984", form(model, boundary="b" + "-" * 6_000)),
        "lying-length": ("CVE-2024-30251", form(model, cut)),
        "no-boundary": ("CVE-2024-30251", form(model, opus, announced="")),
        "many-parts": ("CVE-2025-69228", form(model, *[part(f"f{at}", b"x") for at in range(100_000)])),
        "long-heads": ("CVE-2026-34516", form(model, part("file", b"x", "\r\nX-Long: " + "x" * MEGABYTE))),
        "opus-bomb": ("CVE-2026-54233", form(model, opus)),
        "parameters": (SEEN, form(model, *[part(f"f{at}", b"x", ";" * 4_000) for at in range(60)])),
    }
    for name, (source, make) in made.items():
        yield Attack(
            id=f"{row}:{name}", source=source, make=make, count=5, at_once=2,
            statuses=REFUSED | {404, 415, 431, SILENCE}, quick=name in ("dashes", "many-parts", "parameters"),
        )  # fmt: skip


ATTACKS: Final = (*_deep(), *_tokens(), *_shapes(), *_memory(), *_fields(), *_forms())

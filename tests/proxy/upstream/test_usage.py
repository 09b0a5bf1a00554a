"""What the relay reads of an answer while it passes: token usage, however the bytes are cut."""

import itertools

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from hubgate.proxy.upstream.usage import MAX_PLAIN, TAIL, UsageEventFilter, UsageMeter
from tests.cases import each
from tests.fakes.answers import DONE, completed, event

PLAIN = msgspec.json.encode(completed("a/b@c", usage=(7, 5)))
LAST = {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}}
STREAM = b"".join([event({"choices": [{"delta": {"content": "x" * 50}}], "usage": None})] * 30)


def usage(*chunks: bytes, streaming: bool) -> tuple[int, int] | None:
    """The usage that was found in these chunks."""
    kept = UsageMeter(streaming=streaming)
    for chunk in chunks:
        kept.add(chunk)
    return kept.usage()


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    """The same bytes in pieces."""
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(places)]


@given(st.lists(st.integers(0, 10**6), max_size=8))
def test_usage_is_found_however_the_bytes_are_cut(cuts: list[int]) -> None:
    """The counts of a plain answer and of a stream do not depend on how the network cut them."""
    assert usage(*split(PLAIN, cuts), streaming=False) == (7, 5)
    assert usage(*split(STREAM + event(LAST) + DONE, cuts), streaming=True) == (7, 5)


@each("end", [DONE, b"", b"data: [DONE]", b"\r\n"])
def test_usage_stands_before_the_end(end: bytes) -> None:
    """The last event that has a usage is found with or without `[DONE]`."""
    assert usage(STREAM, event(LAST), end, streaming=True) == (7, 5)


@each("body", [b"", b"{", b"[]", b"null", b'{"usage":null}', b'{"usage":{"prompt_tokens":"x"}}', b"\xff"])
def test_answers_without_usage(body: bytes) -> None:
    """What has no counts, or none that can be read, is not counted."""
    assert usage(body, streaming=False) is None
    assert usage(STREAM, b"data: " + body + b"\n\n", DONE, streaming=True) is None


def test_vast_answers_are_not_kept() -> None:
    """Of an answer beyond the limit only the end is kept, which tells its usage as a rule."""
    meter, text = UsageMeter(streaming=False), b"x" * 1024 * 1024
    meter.add(b'{"text":"')
    for _ in range(40):
        meter.add(text)
        assert meter.held <= MAX_PLAIN
    meter.add(b'","usage":{"prompt_tokens":7,"completion_tokens":5}}')
    assert meter.usage() == (7, 5)
    assert usage(b'{"usage":{"prompt_tokens":7},"text":"', *[text] * 5, b'"}', streaming=False) is None
    assert usage(*[STREAM] * 300, event(LAST), DONE, streaming=True) == (7, 5)


@each(
    ("body", "told"),
    [
        (b'{"usage":{"prompt_tokens":3}}', (3, 0)),
        (b'{"text":"\\\\","usage":{"prompt_tokens":3},"z":1}', (3, 0)),
        (b'{"usage":{"prompt_tokens":1},"a":{"usage":{"prompt_tokens":3}}}', (1, 0)),
        (b'{"usage":{"prompt_tokens":1},"a":[{"usage":{"prompt_tokens":3}}]}', (1, 0)),
        (b'{"usage":{"prompt_tokens":1},"text":"\\"usage\\":{\\"prompt_tokens\\":3}"}', (1, 0)),
        (b'{"usage":{"prompt_tokens":1},"x\\"usage":{"prompt_tokens":3}}', (1, 0)),
        (b'{"response":{"usage":{"prompt_tokens":3}}}', (3, 0)),
        (b'{"x\\"usage":{"prompt_tokens":3}}', None),
        (b'{"a":{"usage":{"prompt_tokens":3}}}', None),
        (b'[{"usage":{"prompt_tokens":3}}]', None),
        (b'{"usage":{"prompt_tokens":3}}}', None),
        (b'{"usage":{"prompt_tokens":-3}}', None),
        (b'{"usage":null}', None),
    ],
)
def test_which_usage_is_meant(body: bytes, told: tuple[int, int] | None) -> None:
    """That of the answer itself, and no other thing of this name in it."""
    assert usage(body, streaming=False) == told


def test_little_is_kept_of_a_stream() -> None:
    """A stream costs a few kilobytes, however long it is."""
    kept = UsageMeter(streaming=True)
    for _ in range(300):
        kept.add(STREAM)
    assert kept.held <= 2 * TAIL + len(STREAM)


def test_nothing_is_kept_of_what_is_not_about_usage() -> None:
    """Whole events without usage are counted and let go; those with it, and half ones, are kept."""
    kept = UsageMeter(streaming=True)
    assert not kept.add(STREAM.replace(b"usage", b"other"))
    assert (kept.events, kept.held) == (30, 0)
    assert kept.add(b"data: ")
    assert kept.add(b"x\n\n")
    assert kept.held == len(b"data: x\n\n")
    assert not kept.add(b"data: x\n\n")
    assert kept.add(event(LAST))
    assert not kept.add(DONE)
    assert kept.events == 34


def test_an_event_that_ends_with_its_choices_is_not_looked_into() -> None:
    """It tells no usage, unless another event came with it."""
    kept = UsageMeter(streaming=True)
    choices = {"choices": [{"delta": {"content": "x"}}]}
    assert not kept.add(event({"usage": None} | choices))
    assert kept.add(event(choices | {"usage": None}))
    assert kept.add(event(LAST) + event(choices))
    assert kept.events == 4


@given(st.lists(st.integers(0, 10**6), max_size=8), st.booleans())
def test_only_the_event_of_usage_is_withheld(cuts: list[int], done: bool) -> None:
    """However the bytes are cut, all pass but the event that has usage and no choices."""
    end = DONE if done else b""
    withheld = UsageEventFilter()
    passed = [withheld.pass_on(piece) for piece in split(STREAM + event(LAST) + end, cuts)]
    assert b"".join(passed) + withheld.rest() == STREAM + end


@each(
    "data",
    [
        event({"choices": [], "usage": None}),
        event({"choices": [], "prompt_filter": 1}),
        event({"choices": [{"delta": {"content": '"choices":[]'}}], "usage": {"prompt_tokens": 1}}),
        b": comment\n\n",
        b'data: "choices":[] is no JSON\n\n',
        b"x" * 100_000,
        b"data: half an event",
    ],
)
def test_what_is_not_usage_alone_passes(data: bytes) -> None:
    """Events that only look like it, comments and nonsense stay as they are."""
    withheld = UsageEventFilter()
    assert withheld.pass_on(data) + withheld.rest() == data


def test_little_waits_for_the_end_of_an_event() -> None:
    """An event without end is passed on as it grows."""
    withheld = UsageEventFilter()
    passed = sum(len(withheld.pass_on(b"x" * 1000)) for _ in range(100))
    assert passed >= 100_000 - 2 * TAIL


@each(
    ("told", "counts"),
    [
        ({"usage": {"input_tokens": 7, "output_tokens": 5}}, (7, 5)),
        (
            {"type": "response.completed", "response": {"usage": {"input_tokens": 7, "output_tokens": 5}}},
            (7, 5),
        ),
        ({"type": "message_delta", "usage": {"input_tokens": 7, "output_tokens": 5}}, (7, 5)),
        ({"usage": {"prompt_tokens": 7, "total_tokens": 7}}, (7, 0)),
    ],
)
def test_every_dialect_is_counted(told: dict[str, object], counts: tuple[int, int]) -> None:
    """OpenAI's, the Responses API's and Anthropic's names of the same numbers."""
    assert usage(msgspec.json.encode(told), streaming=False) == counts
    assert usage(STREAM, event(told), streaming=True) == counts


@each(
    "told",
    [
        {"count": 7, "max_model_len": 99, "tokens": [1] * 7, "token_strs": ["x"] * 7},
        {"input_tokens": 7, "context_management": {"original_input_tokens": 7}},
    ],
)
def test_what_was_only_counted_is_counted(told: dict[str, object]) -> None:
    """Tokens of a text that went to no model, in vLLM's words and in Anthropic's."""
    assert usage(msgspec.json.encode(told), streaming=False) == (7, 0)


def test_a_large_last_event_is_found() -> None:
    """`response.completed` repeats the whole answer; its usage is found all the same."""
    told = {"response": {"output": "x" * 300_000, "usage": {"input_tokens": 7, "output_tokens": 5}}}
    data = event(told)
    pieces = [data[at : at + 5000] for at in range(0, len(data), 5000)]
    assert usage(STREAM, *pieces, streaming=True) == (7, 5)

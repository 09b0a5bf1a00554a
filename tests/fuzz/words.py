"""What a mutation puts somewhere: words that have a meaning in a request, and some that are near to it."""

from typing import Any, Final

from tests.fakes.running_proxy import ALICE, BOB

_REQUEST: Final = b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n"

BYTES: Final = (
    *(
        b"\r\n",
        b"\n",
        b"\r",
        b" ",
        b"\t",
        b"\x00",
        b"\x0b",
        b"\x7f",
        b"\x80",
        b"\xff",
        b"\xc2\xa0",
        b"\r\n\r\n",
    ),
    *(
        b":",
        b",",
        b";",
        b"#",
        b"?",
        b"/",
        b"=",
        b'"',
        b"\\",
        b"{",
        b"}",
        b"[",
        b"]",
        b"0",
        b"-",
        b"-1",
        b"+1",
    ),
    *(b"\r\n ", b"\r\n\t", b"HTTP/1.0", b"HTTP/1.1", b"HTTP/2.0", b"HTTP/0.9", b"GET ", b"POST ", b"HEAD "),
    *(b"/../", b"%2f", b"%00", b"http://x/", b"*", b"Content-Length: 0\r\n", b"Content-Length: 5\r\n"),
    *(b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: x\r\n", b"Transfer-Encoding:\x0bchunked\r\n"),
    *(b"Host: x\r\n", b"Connection: close\r\n", b"Connection: upgrade\r\nUpgrade: websocket\r\n", b"chunked"),
    *(
        b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: \r\n",
        b"Expect: 100-continue\r\n",
    ),
    *(b"0\r\n\r\n", b"00000000000000000\r\n", b"ffffffffffffffff\r\n", b"5;a=b\r\n", b"5 \r\n", b"0x5\r\n"),
    *(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", _REQUEST),
)

# Headers.
NAMES: Final = (
    *(b"Host", b"host ", b"Content-Length", b"Transfer-Encoding", b"Transfer_Encoding", b"Connection", b"TE"),
    *(
        b"Content-Type",
        b"Content-Encoding",
        b"Authorization",
        b"authorization",
        b"X-Api-Key",
        b"Expect",
        b"X",
    ),
    *(b"Upgrade", b"X-Request-Id", b"X-Forwarded-For", b"X-Hubgate-Grant", b"traceparent", b"tracestate"),
    *(
        b"Accept",
        b"Accept-Encoding",
        b"Trailer",
        b"Keep-Alive",
        b"Proxy-Connection",
        b"Cookie",
        b"Range",
        b"",
    ),
    *(b"X" * 200, b"\xff", b"a b", b"X\x00", b" X", b"X:Y", b"X-HTTP-Method-Override", b"Forwarded"),
)
VALUES: Final = (
    *(b"", b" ", b"0", b"1", b"-1", b"+1", b"1, 1", b"0x10", b"9" * 20, b"18446744073709551616", b"\xff"),
    *(b"chunked", b"Chunked", b"chunked, chunked", b"identity", b"gzip", b"gzip, chunked", b"chunked;q=1"),
    *(b"close", b"keep-alive", b"keep-alive, close", b"upgrade", b"websocket", b"100-continue", b"hubgate"),
    *(b"hubgate:8080", b"[::1]:80", b"a b", b"a@b", b"a/b", b"a,b", b"127.0.0.1, 10.0.0.1", b"unknown", b'"'),
    *(b"caf\xc3\xa9", b"a\x00b", b"a\tb", b"application/json", b"application/json; charset=utf-16", b"*/*"),
    *(b"text/plain", b"multipart/form-data", b"multipart/form-data; boundary=", b"short", b"good-request-id"),
    *(b"Bearer", b"Bearer ", b"Basic YTpi", f"Bearer {BOB}".encode(), f"bearer  Bearer {ALICE}".encode()),
    *(b"Bearer \xff", b"Bearer hf_" + b"x" * 600, b"00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01"),
)
# How long and how many, about the bounds: 8 KiB of a line, 64 KiB of a head, 256 headers.
LONG_HEADERS: Final = (
    *((8_180, 1), (8_192, 1), (9_000, 1), (800, 70), (900, 90), (3, 240), (3, 260), (70_000, 1)),
)

# The first line.
METHODS: Final = (
    *(b"GET", b"HEAD", b"POST", b"PUT", b"OPTIONS", b"CONNECT", b"TRACE", b"get", b"PRI", b"POSTS", b""),
)
TARGETS: Final = (
    *(b"/", b"*", b"", b"//", b"/v1", b"/v1/chat/completions/", b"/v1/chat/completions?a=b", b"/metrics"),
    *(
        b"/v1/chat/completions#x",
        b"/v1//chat/completions",
        b"/v1/%63hat/completions",
        b"/V1/chat/completions",
    ),
    *(b"/v1/models/", b"/v1/models/%00", b"/v1/models/demo%252Ftiny-llama", b"/v1/models/../x", b"/a b"),
    *(b"/v1/models/%ff", b"http://hubgate/v1/chat/completions", b"hubgate:80", b"/\xff", b"/health?\xc3\xa9"),
    *(b"/load", b"/healthz", b"/v1/load_lora_adapter", b"/v1/messages/x", b"/docs", b"/" + b"a" * 9_000),
)
VERSIONS: Final = (
    *(b"HTTP/1.0", b"HTTP/1.0", b"HTTP/1.2", b"HTTP/2.0", b"HTTP/0.9", b"http/1.1", b"HTTP/1", b""),
)

# Around chunks.
EXTENSIONS: Final = (b";a=b", b' ;a="b"', b";", b" ", b";\xff", b'; a="\r"')
TRAILERS: Final = (b"X: y\r\n", b"Content-Length: 3\r\n", b"X\r\n")

# JSON that no `dumps` writes.
RAW: Final = (
    *(
        "1e999",
        "-1e999",
        "NaN",
        "Infinity",
        "-Infinity",
        "1" * 400,
        "9" * 5_000,
        "1e400",
        "0.1e1",
        "-0",
        "-0.0",
    ),
    *("01", "+1", "1.", ".5", "0x1", "18446744073709551616", "9223372036854775808", "-9223372036854775809"),
    *("4611686018427387904", "1E5", "1e-999", "True", "nil", "", "'a'", '"\\ud800"', '"\\udc00\\ud800"'),
    *('"\\u0000"', '"\\x"', '"a\nb"', '"\x00"', "/**/1", "[1,]", '{"a":1,}', '{"a":1,"a":2}'),
    *('{"a":1,"\\u0061":2}', "[" * 70 + "]" * 70, "[" * 400 + "]" * 400, "[" * 3_000),
    *('{"a":' * 980 + "1" + "}" * 980, "[[" * 500 + "]]" * 500),
)
# Before the first member of an object.
MEMBERS: Final = ('"model":"demo/tiny-llama",', '"a":1,', '"n":1,"n":1,', '"":0,')
FIELDS: Final = (
    *("model", "stream", "stream_options", "n", "max_tokens", "temperature", "stop", "logit_bias", "user"),
    *("cache_salt", "store", "echo", "best_of", "messages", "prompt", "input", "tools", "seed", "logprobs"),
    *("priority", "extra_body", "kv_transfer_params", "lora", "", "a", "é", "__proto__", "x" * 70),
    *("guided_json", "truncate_prompt_tokens"),
)
LEAVES: Final[tuple[Any, ...]] = (
    *(None, True, False, 0, 1, -1, 2, 8, 9, 2**31, 2**53, 2**62, 2**63 - 1, 0.5, -0.5, 1e308, 1.7, 1e-320),
    *("", "a", "true", "1", "null", "\x00", "é", "日本", "🙂", "\u2028", "\x7f", "\ufeff", "x" * 65, "auto"),
    *("data:image/png;base64,AA", "http://169.254.169.254/x", "file:///etc/passwd", "demo/tiny-llama"),
    *(
        [],
        {},
        [[]],
        [{}],
        [None],
        [1],
        ["a"],
        [1, "a"],
        [0.5],
        {"a": 1},
        {"type": "text"},
        {"": ""},
        [[1], [2]],
    ),
)
# What a text may hold that is written in more than one way, or means something to a reader of events.
TEXTS: Final = (
    *("a", '"', "\\", "/", "\n", "\t", "\x00", "\x1f", "\x7f", "\x80", "é", "e\u0301", "日", "🙂", "\u2028"),
    *("\ufeff", "\ufffd", '","model":"x', '{"a":1}', "</s>", "<|im_start|>", "\\u0000", "\\ud83d\\ude42"),
    *("data: [DONE]\n\n", "\r\n\r\n", " " * 40),
)
WHOLES: Final = (0, 1, 2, 3, 7, 8, 9, 20, 21, 2**31)
FRACTIONS: Final = (0.0, -0.0, 1e-7, 0.1, 1.0, 2.0, 1e22, 1.7976931348623157e308)

"""Attacks by heads and connections, with and without a token, and by what lies at the Hub."""

from collections.abc import Iterator
from typing import Any, Final

from tests.hostile.attack import ANSWERED, Attack
from tests.hostile.manners import SILENCE, counted, dripped, idle, unread, waiting
from tests.hostile.on_bodies import SEEN
from tests.hostile.requests import BASE, Make, Sender, asking, completion, getting, head

MODELS = "/v1/models"
STRANGER = frozenset({401, 429, 503, SILENCE})


def _guess(form: str, path: str = MODELS) -> Make:
    """A request whose token nobody has, each another one."""
    return lambda sender: head("GET", path, form.format(sender.number), "Connection: close")


def _heads() -> Iterator[Attack]:
    row, refused = (
        "heads",
        frozenset({400, 401, 404, 405, 408, 411, 413, 417, 426, 429, 431, 501, 505, SILENCE}),
    )
    piece = 8_000_000
    made: dict[str, tuple[str, Make]] = {
        "huge": ("CVE-2025-48956", getting(MODELS, "X-Long: " + "x" * piece)),
        "many": ("CVE-2025-48956", getting(MODELS, *[f"X-{at}: 1" for at in range(200_000)])),
        "target": (SEEN, getting("/" + "x" * piece)),
        "cookies": ("CVE-2025-69230", getting(MODELS, "Cookie: " + "; ".join(["\x7f\x01=;"] * 1_000))),
        "upgrades": (SEEN, getting(MODELS, "Connection: Upgrade", "Upgrade: websocket", times=900)),
        "method": (SEEN, lambda _: b"X" * piece + b" / HTTP/1.1\r\n\r\n"),
        "lines": (SEEN, lambda _: b"\r\n" * (piece // 2)),
        "length": ("CVE-2026-54273", getting(MODELS, "Content-Length: " + "9" * 4_000, method="POST")),
        "both-lengths": (
            "CVE-2023-37276",
            getting(MODELS, "Content-Length: 5", "Transfer-Encoding: chunked", method="POST"),
        ),
        "tls": (SEEN, lambda _: b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500)),
        "h2": ("CVE-2023-44487", lambda _: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9_000)),
    }  # fmt: skip
    for name, (source, make) in made.items():
        yield Attack(
            id=f"{row}:{name}", source=source, make=make, manner=counted, count=4, at_once=4, seconds=6,
            statuses=refused | {200}, quick=name in ("huge", "many", "upgrades", "both-lengths"),
        )  # fmt: skip
    yield Attack(
        id=f"{row}:dripped", source=SEEN, make=getting(MODELS, "X-Long: " + "x" * 2_000), manner=dripped,
        count=64, at_once=64, seconds=3, statuses=refused, quick=True,
    )  # fmt: skip
    yield Attack(
        id=f"{row}:unended", source=SEEN, make=lambda _: b"GET / HTTP/1.1\r\nHost: x\r\n", manner=waiting,
        count=200, at_once=200, seconds=12, statuses=refused,
    )  # fmt: skip


def _floods() -> Iterator[Attack]:
    row = "nobody-flood"
    flood: dict[str, Any] = {"manner": counted, "statuses": STRANGER | {404, 405}}
    body = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"

    def bodies(_: Sender) -> bytes:
        about = ("Content-Type: application/json", "Content-Length: 2")
        return (head("POST", "/v1/completions", None, *about) + b"{}") * 3_000

    yield Attack(
        id=f"{row}:pipelined", source="CVE-2026-54273",
        make=getting(MODELS, times=10_000, token=False), seconds=3, quick=True, **flood,
    )  # fmt: skip
    yield Attack(id=f"{row}:bodies", source=SEEN, make=bodies, **flood)
    yield Attack(id=f"{row}:nowhere", source=SEEN, make=lambda _: body * 10_000, seconds=5, **flood)
    yield Attack(
        id=f"{row}:heads", source=SEEN, make=getting(MODELS, method="HEAD", times=5_000, token=False), **flood
    )
    yield Attack(
        id=f"{row}:connections", source=SEEN, make=getting(MODELS, "Connection: close", token=False),
        count=3_000, at_once=50, statuses=STRANGER, seconds=6,
    )  # fmt: skip
    yield Attack(
        id=f"{row}:guesses", source=SEEN, make=_guess("sk-guess-{}"), count=2_000, at_once=20, seconds=3,
        statuses=STRANGER, quick=True,
    )  # fmt: skip
    row = "connections"
    yield Attack(
        id=f"{row}:nothing-sent", source=SEEN, make=lambda _: b"", manner=idle, count=300, at_once=300,
        seconds=3, statuses=frozenset({SILENCE, 408, 503}), quick=True,
    )  # fmt: skip
    yield Attack(
        id=f"{row}:kept", source=SEEN, make=getting(MODELS), manner=idle, count=300, at_once=300, seconds=8,
        statuses=ANSWERED | {SILENCE},
    )  # fmt: skip
    yield Attack(
        id=f"{row}:kept-by-nobody", source=SEEN, make=getting(MODELS, token=False), manner=idle, count=1_000,
        at_once=1_000, statuses=STRANGER,
    )  # fmt: skip


def _old_commit(sender: Sender) -> bytes:
    return completion(model=f"demo/hostile-commits@{sender.shas[sender.number]}")(sender)


def _hub() -> Iterator[Attack]:
    yield Attack(
        id="hub-junk-tokens:each-another", source=SEEN, make=_guess("hf_junk{:08}"), count=500, at_once=20,
        statuses=STRANGER, quick=True, seconds=3,
    )  # fmt: skip
    yield Attack(
        id="hub-junk-tokens:unknown-repos", source=SEEN, count=300, at_once=20,
        make=completion(model=lambda n: f"demo/nothing-{n}"), statuses=ANSWERED | {403, 404},
    )  # fmt: skip
    repo = "demo/hostile-commits"
    commits = tuple(("commit", {"repo": repo, "readme": f"{at}"}) for at in range(100))
    yield Attack(
        id="hub-old-commits:names", source=SEEN, count=100, at_once=4, seconds=15,
        make=_old_commit, statuses=ANSWERED | {403, 404},
        switches=(("repo", _adapter(repo)), *commits),
    )  # fmt: skip
    yield Attack(
        id="retry-without-pause:rejected", source=SEEN, count=2_000, at_once=16,
        make=completion(model="demo/pickle-lora"),
    )  # fmt: skip
    yield Attack(
        id="retry-without-pause:limited", source=SEEN, count=4_000, at_once=16,
        make=asking("/tokenize", model=BASE),
    )  # fmt: skip
    slow = {"mode": "slow", "origin": "files", "seconds": 15}
    held = tuple(("repo", _adapter(f"demo/hostile-held-{at}")) for at in range(4))
    yield Attack(
        id="heartbeats-held:unread", source=SEEN, manner=unread, count=16, at_once=16, receives=2048,
        make=completion(model=lambda n: f"demo/hostile-held-{n % 4}", stream=True),
        seconds=18, switches=(*held, ("down", slow)),
    )  # fmt: skip
    config, weights = "adapter_config.json", "adapter_model.safetensors"
    pattern = (
        f'{{"peft_type":"LORA","r":8,"lora_alpha":16,"base_model_name_or_path":"{BASE}",'
        '"target_modules":"(((a+)+)+)+$"}'
    )
    files: dict[str, tuple[str, list[tuple[str, int]]]] = {
        "deep": (config, [("[", 990), ("1", 1), ("]", 990)]),
        "deep-and-long": (
            config, [('{"r":1000000000000000000,"x":', 1), ("[", 980), ("1", 1), ("]", 980), ("}", 1)],
        ),
        "deeper": (config, [('{"a":', 100_000), ("1", 1), ("}", 100_000)]),
        "large": (config, [('{"x":"', 1), ("x", 50_000_000), ('"}', 1)]),
        "long-number": (config, [('{"r":', 1), ("9", 5_000), ("}", 1)]),
        "not-a-number": (config, [('{"r":NaN,"lora_alpha":Infinity,"target_modules":["q_proj"]}', 1)]),
        "pattern": (config, [(pattern, 1)]),
        "no-text": (config, [("\x00", 1_000)]),
        "base-of-itself": (config, [('{"base_model_name_or_path":"demo/hostile-base-of-itself"}', 1)]),
        "lying-header": (weights, [("\x7f", 8), ("{}", 1)]),
        "deep-header": (weights, [("`\x1a", 1), ("\x00", 6), ("[", 3_000), ("]", 3_000), (" ", 752)]),
        "no-weights": (weights, [("", 1)]),
    }  # fmt: skip
    quick = {"deep", "deep-and-long", "long-number", "pattern"}
    for name, (path, pieces) in files.items():
        repo = f"demo/hostile-{name}"
        yield Attack(
            id=f"hub-repos:{name}", source=SEEN, count=6, at_once=3, make=completion(model=repo), seconds=10,
            statuses=ANSWERED | {403, 404}, quick=name in quick,
            switches=(("repo", {**_adapter(repo), "pieces": {path: pieces}}),),
        )  # fmt: skip


def _adapter(repo: str) -> dict[str, Any]:
    return {"repo": repo, "make": "adapter", "name": repo, "phrase": "yes "}


ATTACKS: Final = (*_heads(), *_floods(), *_hub())

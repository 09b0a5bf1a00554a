"""Every play there is: what one caller can do to the others, alone and mixed, on one engine for all."""

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

from tests.hostile.manners import aborted, idle, leaving, left, sipped, unread, whole
from tests.hostile.on_engines import ENDLESS, LONG
from tests.hostile.requests import Make, Sender, asking, chat, completion, getting, post
from tests.tenants.play import Part, Play, Switch

CROWD: Final[dict[str, Any]] = {"count": 2_000, "at_once": 64}


def adapter(repo: str) -> Switch:
    """A small adapter at the Hub."""
    return "repo", {"repo": repo, "make": "adapter", "name": repo, "phrase": "yes ", "seed": repo}


def adapters(name: str, count: int) -> tuple[Switch, ...]:
    return tuple(adapter(f"demo/{name}-{number}") for number in range(count))


def of(name: str, count: int) -> Callable[[int], str]:
    """The adapters of that name, in turns."""
    return lambda number: f"demo/{name}-{number % count}"


def hanging(paths: str, mode: str = "hang", **more: Any) -> Switch:
    """Files of these repos do not come."""
    return "down", {"mode": mode, "paths": paths, **more}


def broken(repo: str) -> Switch:
    """An adapter that is refused once its files are there."""
    kind, fields = adapter(repo)
    return kind, {**fields, "pieces": {"adapter_model.safetensors": [("x", 4096)]}}


def mixed(*makes: Make) -> Make:
    """These in turns."""
    return lambda sender: makes[sender.number % len(makes)](sender)


def endless(model: str | Callable[[int], str] | None = None, **more: Any) -> Make:
    """A stream of 480 tokens."""
    fields = {**ENDLESS, "stream": True, **more}
    return completion(**fields) if model is None else completion(model=model, **fields)


def padded(sender: Sender) -> bytes:
    """A small request with a large body."""
    body = {"model": "demo/tiny-llama", "prompt": "x", "max_tokens": 1, "stop": ["y" * 20_000] * 4}
    return post("/v1/completions", sender.token, json.dumps(body).encode())


QUICK = getting("/v1/models", "Connection: close")

# What was measured before there were shares: the rows of docs/isolation.md that need an engine of many.
ROWS: Final = (
    Play(
        id="window-edge",
        what="550 requests at 58.7 s of a minute, and 600 at 60.1 s",
        parts=(
            Part(make=QUICK),
            Part(make=QUICK, count=550, at_once=50, begins=58.7),
            Part(make=QUICK, count=600, at_once=50, begins=60.1),
        ),
        most_answered=601,
    ),
    Play(
        id="lora-slots",
        what="8 staggered streams on two adapters, one after the other, while others ask for a third",
        parts=tuple(
            Part(make=endless(of("slots", 2)), count=50, begins=at * 0.3, seconds=20 - at * 0.3) if at else
            Part(make=endless(of("slots", 2)), count=50, seconds=20)
            for at in range(8)
        ),
        victim="adapter",
        switches=adapters("slots", 2),
    ),
    Play(
        id="lora-places",
        what="16 streams on 8 adapters at a time",
        parts=(Part(make=endless(of("places", 8)), count=1_000, at_once=16, seconds=20),),
        victim="two adapters",
        switches=adapters("places", 8),
    ),
    Play(
        id="downloads-hang",
        what="8 adapters whose files hang at the Hub, left after 4 s",
        parts=(
            Part(
                make=completion(model=of("hanging", 8), stream=True), manner=leaving(4.0), count=64,
                at_once=8, seconds=20,
            ),
        ),
        victim="cold",
        switches=(*adapters("hanging", 8), hanging("*/hanging-*")),
    ),
    Play(
        id="loads-left",
        what="cold loads that are begun and left at once, as many as there may be",
        parts=(
            Part(make=completion(model=of("left", 30), stream=True), manner=leaving(0.1), count=600,
                 at_once=32, seconds=15),
        ),
        victim="cold",
        switches=(*adapters("left", 30), hanging("*/left-*", "slow", seconds=5)),
    ),
    Play(
        id="store-evict",
        what="30 cold loads, which are more than the store holds",
        parts=(Part(make=completion(model=of("evicting", 30)), count=90, at_once=4, seconds=20),),
        victim="stored",
        switches=adapters("evicting", 30),
    ),
)  # fmt: skip

# Invented as by an attacker who has not seen the code.
INVENTED: Final = (
    Play(
        id="streams-and-their-exits",
        what="64 streams that are left after half a second, again and again",
        parts=(Part(make=endless(), manner=leaving(0.5), **CROWD),),
    ),
    Play(
        id="waits-that-are-left",
        what="64 streams hold the seats, and others of the same caller's come to wait and leave",
        parts=(
            Part(make=endless(), count=500, at_once=40),
            Part(make=endless(), manner=leaving(0.05), count=2_000, at_once=20),
        ),
    ),
    Play(
        id="leaves-at-each-stage",
        what="hangs up after 0, 1, 5, 20, 80, 320 ms",
        parts=tuple(
            Part(make=endless(of("stages", 2)), manner=leaving(seconds), count=1_000, at_once=8)
            for seconds in (0.0, 0.001, 0.005, 0.02, 0.08, 0.32)
        ),
        victim="adapter",
        switches=adapters("stages", 2),
    ),
    Play(
        id="adapters-by-turns",
        what="one request on each of 12 adapters, in turns, as fast as they are answered",
        parts=(Part(make=completion(model=of("turns", 12)), count=2_000, at_once=12),),
        victim="two adapters",
        switches=adapters("turns", 12),
    ),
    Play(
        id="an-adapter-each",
        what="8 callers with an adapter each, and two streams",
        parts=tuple(
            Part(make=endless(f"demo/own-{at}"), who=f"c{at}", count=100, at_once=2, seconds=10)
            for at in range(8)
        ),
        victim="adapter",
        switches=adapters("own", 8),
    ),
    Play(
        id="identities-in-a-crowd",
        what="20 callers with eight streams each",
        parts=tuple(Part(make=endless(), who=f"c{at}", count=200, at_once=8) for at in range(20)),
    ),
    Play(
        id="new-identities",
        what="one who is somebody else for each request",
        parts=tuple(Part(make=endless(), who=f"n{at}", count=1, begins=at * 0.2) for at in range(30)),
    ),
    Play(
        id="two-devices",
        what="two tokens of one user, each with 64 streams",
        parts=(Part(make=endless(), **CROWD), Part(make=endless(), who="a/phone", **CROWD)),
    ),
    Play(
        id="an-organization",
        what="ten members of one organization, sixteen streams each",
        parts=tuple(Part(make=endless(), who=f"m{at}", count=500, at_once=16) for at in range(10)),
        orgs=("crowd",),
    ),
    Play(
        id="one-of-weight",
        what="a caller of ten times the weight, with 64 streams",
        parts=(Part(make=endless(), who="heavy", **CROWD),),
    ),
    Play(
        id="weights-at-odds",
        what="one of ten times the weight and one of a tenth, 64 streams each",
        parts=(Part(make=endless(), who="heavy", **CROWD), Part(make=endless(), who="feather", **CROWD)),
    ),
    Play(
        id="answers-with-log-probabilities",
        what="n of 8 with 20 log-probabilities each, streamed",
        parts=(Part(make=endless(n=8, logprobs=20, temperature=1), **CROWD),),
    ),
    Play(
        id="many-and-one",
        what="n of 8 and n of 1 in turns, and every other one is left",
        parts=(
            Part(make=endless(n=8, temperature=1), manner=leaving(0.3), count=1_000, at_once=16),
            Part(make=endless(), count=1_000, at_once=32),
        ),
    ),
    Play(
        id="batches-and-streams",
        what="batches of eight long prompts beside streams",
        parts=(
            Part(make=completion(prompt=[LONG] * 8, max_tokens=1), count=1_000, at_once=8),
            Part(make=endless(), count=500, at_once=40),
        ),
    ),
    Play(
        id="slow-readers-on-two-adapters",
        what="streams on both slots whose answers are not read",
        parts=(
            Part(make=endless(of("slow", 2), n=4, temperature=1), manner=unread, count=16, at_once=16,
                 receives=2048, seconds=8),
        ),
        victim="adapter",
        switches=adapters("slow", 2),
    ),
    Play(
        id="sips-and-gulps",
        what="half of the streams are read a byte at a time",
        parts=(
            Part(make=endless(), manner=sipped, count=24, at_once=24, receives=2048),
            Part(make=endless(), who="b", count=500, at_once=40),
        ),
    ),
    Play(
        id="failing-repos",
        what="cold loads of repos that are refused, without pause",
        parts=(Part(make=completion(model=of("broken", 6)), count=3_000, at_once=16),),
        victim="cold",
        switches=tuple(broken(f"demo/broken-{number}") for number in range(6)),
    ),
    Play(
        id="repos-that-are-cut",
        what="cold loads whose files break off each time",
        parts=(Part(make=completion(model=of("cut", 6), stream=True), count=500, at_once=8, seconds=8),),
        victim="cold",
        switches=(*adapters("cut", 6), hanging("*/cut-*", "disconnect")),
    ),
    Play(
        id="small-things-evict",
        what="thirty small adapters of one caller against two of another's",
        parts=(
            Part(make=completion(model=of("small", 30), max_tokens=1), count=1_000, at_once=2, seconds=10),
        ),
        victim="two adapters",
        switches=adapters("small", 30),
    ),
    Play(
        id="evictions-by-several",
        what="three callers who load ten adapters each, one after the other",
        parts=tuple(
            Part(make=completion(model=of(f"several{who}", 10)), who=f"c{who}", count=500, at_once=2,
                 seconds=8)
            for who in range(3)
        ),
        victim="two adapters",
        switches=tuple(one for who in range(3) for one in adapters(f"several{who}", 10)),
    ),
    Play(
        id="loads-and-streams",
        what="streams on all seats, and cold loads beside them",
        parts=(
            Part(make=endless(), count=1_000, at_once=48),
            Part(make=completion(model=of("beside", 20), stream=True), manner=leaving(0.5), count=500,
                 at_once=16),
        ),
        victim="cold",
        switches=adapters("beside", 20),
    ),
    Play(
        id="others-adapters",
        what="streams from the very adapters that another one uses",
        parts=(Part(make=endless("demo/victims-0"), **CROWD),),
        victim="two adapters",
    ),
    Play(
        id="large-bodies-wait",
        what="64 bodies of 80 kB that wait for their share",
        parts=(Part(make=endless(), count=1_000, at_once=32), Part(make=padded, count=1_000, at_once=32)),
    ),
    Play(
        id="what-counts-beside-what-computes",
        what="/tokenize and /detokenize as fast as they go, beside streams",
        parts=(
            Part(make=asking("/tokenize", prompt="a " * 4_000), count=2_000, at_once=8),
            Part(make=asking("/detokenize", tokens=[70] * 40_000), count=2_000, at_once=8, who="b"),
            Part(make=endless(), count=500, at_once=40),
        ),
    ),
    Play(
        id="grammars-beside-streams",
        what="a new pattern in each request, beside streams",
        parts=(
            Part(
                make=completion(
                    structured_outputs=lambda n: {"regex": f"([a-z]{{{n % 50 + 1},90}}|x{n}){{1,9}}"},
                    max_tokens=16,
                ),
                count=1_000, at_once=8,
            ),
            Part(make=endless(), count=500, at_once=40),
        ),
    ),
    Play(
        id="refusals-without-pause",
        what="a caller past the limits who does not pause, on 64 connections",
        parts=(Part(make=completion(max_tokens=1), count=20_000, at_once=64),),
    ),
    Play(
        id="connections-and-streams",
        what="300 kept connections, and 64 streams",
        parts=(
            Part(make=QUICK, manner=idle, count=300, at_once=300),
            Part(make=endless(), **CROWD),
        ),
    ),
    Play(
        id="a-herd",
        what="64 streams that end together and begin together",
        parts=tuple(
            Part(make=endless(max_tokens=40), count=64, at_once=64, begins=at, seconds=1.5)
            for at in (0.0, 2.0, 4.0)
        ),
    ),
    Play(
        id="the-hub-is-away",
        what="64 streams and new repos, while the Hub is away",
        parts=(
            Part(make=endless(), count=500, at_once=48),
            Part(make=completion(model=of("absent", 10)), count=500, at_once=16),
        ),
        event="the Hub is away",
        switches=adapters("absent", 10),
    ),
    Play(
        id="hello-is-late",
        what="64 streams and cold loads, while the backend says nothing",
        parts=(
            Part(make=endless(), count=500, at_once=48),
            Part(make=completion(model=of("late", 10)), count=500, at_once=8),
        ),
        event="the backend is stopped for three seconds",
        switches=adapters("late", 10),
    ),
    Play(
        id="commits-and-adapters",
        what="streams, aborted ones, wrong models and whole answers, of one caller, all at once",
        parts=(
            Part(make=mixed(endless(), chat(n=4, temperature=1), completion(model="demo/nothing")), **CROWD),
            Part(make=endless(), manner=aborted, count=1_000, at_once=8),
            Part(make=endless(), manner=left, count=1_000, at_once=8),
            Part(make=endless(), manner=whole, who="b", count=500, at_once=32),
        ),
    ),
    Play(
        id="an-engine-dies",
        what="64 streams on the base and two adapters, and the engine is killed under them",
        parts=(
            Part(make=endless(), count=2_000, at_once=40, seconds=10),
            Part(make=endless(of("dying", 2)), who="b", count=2_000, at_once=16, seconds=10),
        ),
        event="the engine is killed",
        switches=adapters("dying", 2),
    ),
)  # fmt: skip

PLAYS: Final = (*ROWS, *INVENTED)
BY_ID: Final[Mapping[str, Play]] = {play.id: play for play in PLAYS}

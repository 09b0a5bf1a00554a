"""threats.md, row 17: an adapter that one tenant loaded does not exist for another one (LoRAX issue 479)."""

import asyncio
import re
from pathlib import Path
from random import Random

import pytest

from tests.isolation import scenario
from tests.isolation.campaign import turns
from tests.isolation.client import Answer
from tests.isolation.harness import Harness

SEED = 17
SAME_ID = "the-same-id"  # a request's id is the caller's to choose, so it tells nothing


async def ask(
    harness: Harness, token: str, repo: str, request_id: str, after: int, *, stream: bool
) -> Answer:
    await turns(after)
    body = {"model": repo, "messages": [{"role": "user", "content": "hello"}], "stream": stream}
    return await harness.client.ask("POST", "/v1/chat/completions", scenario.secret(token), request_id, body)


def plain(answer: Answer, repo: str) -> bytes:
    """Every byte of an answer, but for the name that was asked for and the second of the day."""
    return re.sub(rb"\r\nDate: [^\r]+", b"", answer.raw.replace(repo.encode(), b"{name}"))


async def interleave(harness: Harness, rng: Random, number: int) -> None:
    """Alice loads or uses hers while bob asks for it and for one that does not exist."""
    if rng.random() < 0.5:
        harness.machines.evict(scenario.PRIVATE)
    await harness.pass_time(rng.choice((0.0, 0.5, 3.0, 15.0, 70.0)))
    stream, alices = rng.random() < 0.5, rng.randint(1, 3)
    asks = [("alice", scenario.PRIVATE, f"alice-{number}-{n}") for n in range(alices)]
    asks += [("bob", scenario.PRIVATE, SAME_ID), ("bob", scenario.MISSING, SAME_ID)] * rng.randint(1, 2)
    rng.shuffle(asks)
    answers = await asyncio.gather(*[ask(harness, *each, rng.randint(0, 40), stream=stream) for each in asks])
    seen = set()
    for (token, repo, request_id), answer in zip(asks, answers, strict=True):
        if token == "alice":
            assert answer.status == 200, (number, answer)
            assert len([one for one in harness.machines.seen[request_id] if one.answered]) == 1
        else:
            assert (answer.status, answer.code) == (404, "model_not_found"), (number, answer)
            seen.add(plain(answer, repo))
    assert len(seen) == 1, (number, seen)
    assert SAME_ID not in harness.machines.seen
    assert not harness.machines.loads(SAME_ID)
    harness.machines.settle()


@pytest.mark.parametrize("interleavings", [250, pytest.param(1_000, marks=pytest.mark.long("isolation"))])
async def test_what_alice_loaded_does_not_exist_for_bob(tmp_path: Path, interleavings: int) -> None:
    """However they interleave, bob gets the very bytes of a missing repo, and nothing goes upstream."""
    rng = Random(SEED)  # noqa: S311 - must be repeatable
    async with Harness.start(tmp_path) as harness:
        for number in range(interleavings):
            await interleave(harness, rng, number)

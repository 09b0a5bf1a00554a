"""What an engine answers is bounded and believed only in its form: somebody may have taken it over."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from hubgate.backend.engines import client as module
from hubgate.backend.engines.client import EngineClient, EngineError, new_session
from hubgate.wire.keygen import generate_supervisor
from tests.cases import each
from tests.fakes import hostile_json
from tests.fakes.answers import head, raw, whole
from tests.fakes.engine import LOCAL, Answer, RawEngine

STATUS = b'"draining":false,"in_flight":0,"models":{}'


@asynccontextmanager
async def answering(answer: Answer) -> AsyncIterator[EngineClient]:
    """The supervisor's end of an engine that answers everything so."""
    async with RawEngine.start() as engine, new_session() as session:
        engine.always(answer)
        url = f"http://{LOCAL}:{engine.port}"
        yield EngineClient(session, generate_supervisor(), url, engine="gpu-0/0", boot="b")


async def fails(answer: Answer) -> None:
    """Every question whose answer is read ends in the one kind of error that its askers expect."""
    async with answering(answer) as client:
        for question in (client.status, client.drain):
            with pytest.raises(EngineError):
                await question()
        with pytest.raises(EngineError):
            await client.load("a/b@c", Path("/x"))


@each("name", hostile_json.DOCUMENTS)
async def test_an_answer_that_is_no_status(name: str) -> None:
    """However deep, vast or odd it is."""
    await fails(raw(whole(200, hostile_json.DOCUMENTS[name])))


@each("name", hostile_json.beside(STATUS))
async def test_a_member_that_nobody_asks_for(name: str) -> None:
    """Is passed over, or is the same kind of error where it is too deep for that."""
    async with answering(raw(whole(200, hostile_json.beside(STATUS)[name]))) as client:
        with suppress(EngineError):
            assert (await client.status()).in_flight == 0


async def test_an_answer_without_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """The backend holds a bounded part of it."""
    monkeypatch.setattr(module, "MAX_ANSWER", 1 << 20)
    endless = raw(head(200), *[b"x" * 65536] * 32)  # no length, and the connection stays open
    async with answering(endless) as client:
        with pytest.raises(EngineError, match="more than"):
            await client.metrics()
    await fails(endless)


async def test_an_honest_answer_is_read() -> None:
    """In as many parts as it comes."""
    async with answering(raw(whole(200, b"{%b}" % STATUS)[:-5], b'":{}}', close=True)) as client:
        assert (await client.status()).in_flight == 0

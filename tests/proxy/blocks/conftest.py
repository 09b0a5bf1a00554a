"""Lock-outs without a proxy around them, and the admin port of one that has them."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from hubgate.proxy.auth.block import Block
from hubgate.proxy.blocks.shared import AwayError, Snapshot, Version
from tests.fakes.running_proxy import Edge

KEY = "canary-of-the-admin-port-0123456789abcdef"


def key_file(folder: Path) -> Path:
    """A key that only its owner may read."""
    path = folder / "admin.key"
    if not path.exists():
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
            file.write(KEY + "\n")
    return path


def guarded(folder: Path, **sections: Any) -> dict[str, Any]:
    """Settings of a proxy that takes commands."""
    return {"admin": {"port": 0, "key_file": str(key_file(folder))}, **sections}


async def command(
    edge: Edge, method: str, path: str, body: Any = None, authorization: str | None = f"Bearer {KEY}"
) -> tuple[int, Any]:
    """One command on the admin port; gives status and answer."""
    headers = {} if authorization is None else {"Authorization": authorization}
    data = body if isinstance(body, bytes) or body is None else msgspec.json.encode(body)
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, edge.admin_url + path, data=data, headers=headers) as answer,
    ):
        text = await answer.read()
        return answer.status, msgspec.json.decode(text) if answer.content_type == "application/json" else text


async def block(edge: Edge, who: str, **more: Any) -> dict[str, Any]:
    """Lock somebody out, which must work."""
    status, answer = await command(edge, "POST", "/blocks", {"who": who, **more})
    assert status == 200, answer
    assert isinstance(answer, dict)
    return answer


class Trail:
    """Keeps records instead of writing them."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []  # events, and whom they tell of
        self.full: list[Mapping[str, Any]] = []
        self.works = True

    def admits(self) -> bool:
        return self.works

    def record(self, event: str, fields: Mapping[str, Any]) -> None:
        self.told.append((event, fields["who"]))
        self.full.append(fields)


class FakeShared:
    """A shared list in this process, which can be away, lose what it has, or go back to an older state."""

    def __init__(self) -> None:
        self.away = False
        self.calls: list[str] = []
        self._state = Snapshot(None, {})
        self._generations = 0

    @property
    def names(self) -> set[str]:
        return set(self._state.blocks)

    @property
    def state(self) -> Snapshot:
        return self._state

    def restore(self, state: Snapshot | None = None) -> None:
        """Come back with this, or with nothing."""
        self._state = state or Snapshot(None, {})

    async def version(self) -> Version | None:
        self._call("version")
        return self._state.version

    async def read(self) -> Snapshot:
        self._call("read")
        return self._state

    async def put(self, blocks: Iterable[Block], after: int) -> Snapshot:
        self._call("put")
        return self._change({**self._state.blocks, **{one.who: one for one in blocks}}, after)

    async def drop(self, who: str) -> Snapshot:
        self._call("drop")
        return self._change({name: one for name, one in self._state.blocks.items() if name != who}, 0)

    async def forget(self, blocks: Iterable[Block]) -> None:
        self._call("forget")
        gone = list(blocks)
        left = {name: one for name, one in self._state.blocks.items() if one not in gone}
        self._state = Snapshot(self._state.version, left)

    def _call(self, name: str) -> None:
        if self.away:
            raise AwayError("Gone")
        self.calls.append(name)

    def _change(self, blocks: Mapping[str, Block], after: int) -> Snapshot:
        version = self._state.version
        if version is None:
            self._generations += 1
            version = Version(f"generation {self._generations}", 0)
        self._state = Snapshot(Version(version.generation, max(version.number, after) + 1), blocks)
        return self._state

"""The files origin: large files under signed addresses, as the Hub's CDN serves them, and the switches."""

import hashlib
import hmac
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from types import MappingProxyType
from typing import Any, Final

from aiohttp import web
from yarl import URL

from hubgate.demo import weights
from hubgate.demo.accounts import Refused
from hubgate.demo.answers import SWITCHES, content, refuse
from hubgate.demo.catalog import Token, User
from hubgate.demo.git import Blob
from hubgate.demo.log import RequestLog
from hubgate.demo.state import HubState

_BAD_REQUEST: Final = 400


class SignedLinks:
    """Addresses of large files that only this server can make, and that open a file to whoever has one.

    `key` signs; `lifetime` is in seconds. Like the Hub's, an address outlives a revocation until it expires.
    """

    def __init__(self, state: HubState, key: bytes) -> None:
        self._state = state
        self._key = key

    def address(self, origin: URL, blob: Blob, filename: str) -> URL:
        """Give the address of a large file under the files origin."""
        expires = str(int(self._state.clock() + self._state.catalog.signed_url_lifetime))
        query = {"filename": filename, "expires": expires}
        query["signature"] = self._sign(str(blob.sha256), filename, expires)
        return origin.with_path(f"/{blob.sha256}").with_query(query)

    def opens(self, request: web.Request) -> bool:
        """Whether the request's address is one of ours and has not expired."""
        query = request.query
        filename, expires = query.get("filename", ""), query.get("expires", "")
        wanted = self._sign(request.match_info["sha256"], filename, expires)
        genuine = hmac.compare_digest(wanted.encode(), query.get("signature", "").encode("utf-8", "replace"))
        return genuine and int(expires) > self._state.clock()

    def _sign(self, *parts: str) -> str:
        return hmac.new(self._key, "\0".join(parts).encode("utf-8", "replace"), hashlib.sha256).hexdigest()


class FilesOrigin:
    """Handlers of the files origin."""

    def __init__(self, state: HubState, log: RequestLog, links: SignedLinks) -> None:
        self._state = state
        self._log = log
        self._links = links

    def routes(self) -> list[web.RouteDef]:
        """Give its routes."""
        return [
            web.get("/{sha256:[0-9a-f]{64}}", self._file),
            web.get(f"{SWITCHES}log", self._show_log),
            web.post(f"{SWITCHES}down", _switch(self._down)),
            web.post(f"{SWITCHES}revoke", _switch(self._revoke)),
            web.post(f"{SWITCHES}unrevoke", _switch(self._unrevoke)),
            web.post(f"{SWITCHES}gate", _switch(self._gate)),
            web.post(f"{SWITCHES}user", _switch(self._user)),
            web.post(f"{SWITCHES}commit", _switch(self._commit)),
            web.post(f"{SWITCHES}repo", _switch(self._repo)),
            web.post(f"{SWITCHES}restore", _switch(self._restore)),
        ]

    async def _file(self, request: web.Request) -> web.StreamResponse:
        blob = self._state.stored(request.match_info["sha256"])
        if blob is None or not self._links.opens(request):
            return refuse(self._state, request, Refused("bad_link", {}))
        name = request.query["filename"].rpartition("/")[2]
        return content(
            request, blob.content, blob.etag, {"Content-Disposition": f'inline; filename="{name}"'}
        )

    async def _show_log(self, _request: web.Request) -> web.StreamResponse:
        return web.json_response([asdict(entry) for entry in self._log])

    def _down(self, mode: str | None, **how: Any) -> object:
        self._state.set_down(mode, **how)
        return {"mode": mode}

    def _revoke(self, token_name: str | None = None, user: str | None = None) -> object:
        return {"revoked": self._state.revoke(name=token_name, user=user)}

    def _unrevoke(self, token_name: str | None = None, user: str | None = None) -> object:
        return {"unrevoked": self._state.unrevoke(name=token_name, user=user)}

    def _gate(self, repo: str, user: str, access: str | None) -> object:
        self._state.set_gate(repo, user, access)
        return {"access": access}

    def _commit(self, repo: str, readme: str) -> object:
        return {"sha": self._state.add_commit(repo, {"README.md": readme.encode()})}

    def _user(
        self, user: str, device: str = "laptop", orgs: Mapping[str, str] = MappingProxyType({})
    ) -> object:
        """Make a user and a token; for another `device` of a user who is there already, one more token."""
        token = f"hf_demo_{user}" + ("" if device == "laptop" else f"_{device}")
        if device == "laptop":
            self._state.add_user(user, User(fullname=user, orgs=dict(orgs)))
        self._state.add_token(token, Token(user=user, name=f"{user}-{device}"))
        return {"token": token}

    def _repo(
        self,
        repo: str,
        make: str,
        private: bool = False,
        pieces: Mapping[str, list[tuple[str, int]]] = MappingProxyType({}),
        **arguments: Any,
    ) -> object:
        """Make a repo by a recipe. `pieces` puts files over it: texts, and how often each comes."""
        files = weights.make(make, arguments)
        for path, parts in pieces.items():
            files[path] = b"".join(text.encode() * times for text, times in parts)
        return {"sha": self._state.add_repo(repo, files, private=private)}

    def _restore(self) -> object:
        self._state.restore()
        return {}


def _switch(act: Callable[..., object]) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """Make a handler that calls `act` with the JSON body's fields; 400 and the reason if they do not fit."""

    async def handler(request: web.Request) -> web.StreamResponse:
        try:
            fields = json.loads(await request.text() or "{}")
            return web.json_response(act(**fields))
        except (ValueError, TypeError, KeyError) as error:
            return web.json_response({"error": str(error)}, status=_BAD_REQUEST)

    return handler

"""The Hub's own origin: who am I, may I, what is in this repo, and the small files."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, TypeVar

from aiohttp import web
from yarl import URL

from hubgate.demo.accounts import Caller, Refused, hub_id
from hubgate.demo.answers import bearer, content, endpoint, refuse
from hubgate.demo.files import SignedLinks
from hubgate.demo.git import Commit
from hubgate.demo.listing import entries, last_commit, sizes
from hubgate.demo.repos import Repo
from hubgate.demo.state import HubState

_NAME: Final = r"[\w.-]+"
_REPO: Final = f"/{{org:{_NAME}}}/{{name:{_NAME}}}"
_PUBLIC_FILES: Final = frozenset({"README.md", "LICENSE"})
"""What the Hub shows of a gated repo to anyone."""

Found = TypeVar("Found")
Action = Callable[[web.Request, Caller, Repo], web.StreamResponse | Awaitable[web.StreamResponse]]


class _RefusedError(Exception):
    """Carries a Refused from a handler to its edge."""

    def __init__(self, refused: Refused, headers: dict[str, str] | None = None) -> None:
        super().__init__(refused.row)
        self.refused = refused
        self.headers = headers


class HubOrigin:
    """Handlers of the Hub's origin. `files_origin` gives the files origin as the caller can reach it."""

    def __init__(
        self, state: HubState, links: SignedLinks, files_origin: Callable[[web.Request], URL]
    ) -> None:
        self._state = state
        self._links = links
        self._files_origin = files_origin

    def routes(self) -> list[web.RouteDef]:
        """Give its routes. `{rev}` is one percent-encoded segment."""
        api = f"/api/models{_REPO}"
        return [
            web.get("/api/whoami-v2", self._whoami),
            web.get(f"{api}/auth-check", self._on_repo(self._auth_check)),
            web.get(f"{api}/auth-check/write", self._on_repo(self._write_check)),
            web.get(api, self._on_repo(self._info)),
            web.get(f"{api}/revision/{{rev}}", self._on_repo(self._info)),
            web.get(f"{api}/tree/{{rev}}", self._on_repo(self._tree)),
            web.get(f"{api}/tree/{{rev}}/{{folder:.+}}", self._on_repo(self._tree)),
            web.get(f"{api}/commits/{{rev}}", self._on_repo(self._commits)),
            web.get(f"{api}/refs", self._on_repo(self._refs)),
            web.post(f"{api}/paths-info/{{rev}}", self._on_repo(self._paths_info)),
            web.get(f"{_REPO}/resolve/{{rev}}/{{path:.+}}", self._on_repo(self._resolve)),
        ]

    def _on_repo(self, act: Action) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        """Make a handler of `act` for callers who may know of the repo."""

        async def handler(request: web.Request) -> web.StreamResponse:
            try:
                caller = _or_raise(self._state.accounts.identify(bearer(request)))
                asked = f"{request.match_info['org']}/{request.match_info['name']}"
                repo = _or_raise(self._state.visible(caller, asked))
                if repo.id != asked:
                    return _redirect(request, asked, repo.id)
                answer = act(request, caller, repo)
                return answer if isinstance(answer, web.StreamResponse) else await answer
            except _RefusedError as error:
                return refuse(self._state, request, error.refused, error.headers)

        return handler

    async def _whoami(self, request: web.Request) -> web.StreamResponse:
        caller = self._state.accounts.identify(bearer(request))
        facts = caller if isinstance(caller, Refused) else self._state.accounts.whoami(caller)
        return refuse(self._state, request, facts) if isinstance(facts, Refused) else web.json_response(facts)

    def _auth_check(self, _request: web.Request, caller: Caller, repo: Repo) -> web.StreamResponse:
        refused = self._state.gate(caller, repo)
        if refused is not None:
            raise _RefusedError(refused)
        return web.json_response({})

    def _write_check(self, _request: web.Request, caller: Caller, repo: Repo) -> web.StreamResponse:
        refused = self._state.gate(caller, repo) or self._state.write_gate(caller, repo)
        if refused is not None:
            raise _RefusedError(refused)
        return web.json_response({})

    def _info(self, request: web.Request, _caller: Caller, repo: Repo) -> web.StreamResponse:
        commit = _commit(request, repo)
        blobs = _flag(request, "blobs")
        oldest = list(repo.history(commit))[-1]
        facts: dict[str, object] = {
            "_id": hub_id("model", repo.id),
            "id": repo.id,
            "modelId": repo.id,
            "author": repo.owner,
            "sha": commit.sha,
            "lastModified": commit.date,
            "createdAt": oldest.date,
            "private": repo.private,
            "gated": repo.gated,
            "disabled": repo.disabled,
            "downloads": 0,
            "likes": 0,
            "tags": [],
            "siblings": [
                {"rfilename": path} | (sizes(blob) if blobs else {}) for path, blob in commit.files.items()
            ],
        }
        wanted = request.query.getall("expand", [])
        if wanted:
            facts = {key: value for key, value in facts.items() if key in {"_id", "id", *wanted}}
        return web.json_response(facts)

    def _tree(self, request: web.Request, _caller: Caller, repo: Repo) -> web.StreamResponse:
        commit = _commit(request, repo)
        folder = request.match_info.get("folder", "").strip("/")
        found = entries(commit, folder, recursive=_flag(request, "recursive"))
        if folder and not found:
            raise _RefusedError(Refused("entry_not_found", {}), {"X-Repo-Commit": commit.sha})
        if _flag(request, "expand"):
            found = [entry | last_commit(repo, commit, entry) for entry in found]
        return self._page(request, found, "tree", "cursor")

    def _commits(self, request: web.Request, _caller: Caller, repo: Repo) -> web.StreamResponse:
        history = [
            {
                "id": at.sha,
                "title": at.title,
                "message": "",
                "authors": [{"user": at.author}],
                "date": at.date,
            }
            for at in repo.history(_commit(request, repo))
        ]
        return self._page(request, history, "commits", "p")

    def _page(
        self, request: web.Request, found: Sequence[Mapping[str, object]], kind: str, parameter: str
    ) -> web.StreamResponse:
        """Answer with one page; the address of the next is absolute, as the Hub's is."""
        size = self._state.catalog.page_size[kind]
        page = request.query.get(parameter, "0")
        if not page.isdecimal():
            raise _RefusedError(Refused("bad_request", {"parameter": parameter}))
        first = int(page) * size
        headers = {}
        if first + size < len(found):
            following = (
                URL(endpoint(request)).join(request.rel_url).update_query({parameter: str(int(page) + 1)})
            )
            headers["Link"] = f'<{following}>; rel="next"'
        return web.json_response(found[first : first + size], headers=headers)

    def _refs(self, request: web.Request, _caller: Caller, repo: Repo) -> web.StreamResponse:
        kinds = {"branches": "refs/heads/", "converts": "refs/convert/", "tags": "refs/tags/"}
        if _flag(request, "include_prs"):
            kinds["pullRequests"] = "refs/pr/"
        return web.json_response(
            {
                kind: [
                    {"name": ref.removeprefix(prefix), "ref": ref, "targetCommit": sha}
                    for ref, sha in sorted(repo.refs.items())
                    if ref.startswith(prefix)
                ]
                for kind, prefix in kinds.items()
            }
        )

    async def _paths_info(self, request: web.Request, _caller: Caller, repo: Repo) -> web.StreamResponse:
        commit = _commit(request, repo)
        form = await request.post()
        wanted = set(form.getall("paths", []))
        found = [entry for entry in entries(commit, "", recursive=True) if entry["path"] in wanted]
        if form.get("expand") == "true":
            found = [entry | last_commit(repo, commit, entry) for entry in found]
        return web.json_response(found)

    def _resolve(self, request: web.Request, caller: Caller, repo: Repo) -> web.StreamResponse:
        path = request.match_info["path"]
        if path not in _PUBLIC_FILES:
            self._auth_check(request, caller, repo)
        commit = _commit(request, repo)
        headers = {"X-Repo-Commit": commit.sha}
        blob = commit.files.get(path)
        if blob is None:
            raise _RefusedError(Refused("entry_not_found", {}), headers)
        if blob.sha256 is None:
            return content(request, blob.content, blob.etag, headers)
        address = self._links.address(self._files_origin(request), blob, path)
        headers |= {
            "Location": str(address),
            "X-Linked-Etag": f'"{blob.etag}"',
            "X-Linked-Size": str(len(blob.content)),
            "Accept-Ranges": "bytes",
        }
        return web.Response(status=302, text="Found. Redirecting to the file.", headers=headers)


def _or_raise(found: Found | Refused) -> Found:
    if isinstance(found, Refused):
        raise _RefusedError(found)
    return found


def _commit(request: web.Request, repo: Repo) -> Commit:
    revision = request.match_info.get("rev", "main")
    commit = repo.find(revision)
    if commit is None:
        raise _RefusedError(Refused("revision_not_found", {"revision": revision}))
    return commit


def _redirect(request: web.Request, old: str, new: str) -> web.Response:
    location = request.rel_url.raw_path_qs.replace(f"/{old}", f"/{new}", 1)
    return web.Response(
        status=307, text=f"Temporary Redirect. Redirecting to {location}", headers={"Location": location}
    )


def _flag(request: web.Request, name: str) -> bool:
    return request.query.get(name, "").lower() in {"true", "1"}

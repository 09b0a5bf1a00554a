"""Every row of the table of refusals, as the client and as plain HTTP see it."""

from collections.abc import Callable
from typing import Any

import aiohttp
import huggingface_hub.errors
import pytest
from huggingface_hub.utils._http import get_session, hf_raise_for_status

from hubgate.demo.catalog import load
from hubgate.demo.hub import DemoHub
from tests.cases import each
from tests.demo.conftest import Client, blocking

ROWS = load().errors
RAW_PATHS = {
    "whoami": "/api/whoami-v2",
    "auth_check": "/api/models/{repo}/auth-check",
    "auth_check_write": "/api/models/{repo}/auth-check/write",
    "model_info": "/api/models/{repo}/revision/{revision}",
    "download": "/{repo}/resolve/main/{filename}",
    "get": "{path}",
    "get_file": "{path}",
}


def get(url: str) -> None:
    """Ask for a page in the client's own way."""
    hf_raise_for_status(get_session().get(url))


async def by_client(hub: DemoHub, client: Client, example: dict[str, Any]) -> None:
    """Do what a row's example says, with the client."""
    match example["call"]:
        case "whoami":
            await client.whoami()
        case "auth_check":
            await client.auth_check(example["repo"])
        case "auth_check_write":
            await client.auth_check(example["repo"], write=True)
        case "model_info":
            await client.model_info(example["repo"], revision=example.get("revision"))
        case "download":
            await client.download(example["repo"], example["filename"])
        case "get":
            await blocking(get, hub.endpoint + example["path"])
        case "get_file":
            await blocking(get, hub.files_endpoint + example["path"])
        case other:
            pytest.fail(f"no such call: {other}")


@each("name", ROWS)
async def test_client_raises_what_it_documents(
    name: str, hub: DemoHub, client: Callable[[str | None], Client]
) -> None:
    """The unmodified client makes of each row exactly the exception that the row names."""
    example = dict(ROWS[name].example)
    hub.state.set_down(example.get("down"))
    expected = getattr(huggingface_hub.errors, ROWS[name].raises)
    with pytest.raises(expected) as caught:
        await by_client(hub, client(example["token"]), example)
    assert type(caught.value) is expected
    assert caught.value.response.status_code == ROWS[name].status


@each("name", ROWS)
async def test_status_headers_and_body(name: str, hub: DemoHub, http: aiohttp.ClientSession) -> None:
    """Each row is sent with its status, its headers and its text, and nothing is left unfilled in it."""
    row = ROWS[name]
    example = {"revision": "main", **row.example}
    hub.state.set_down(example.get("down"))
    origin = hub.files_endpoint if example["call"] == "get_file" else hub.endpoint
    headers = {"Authorization": f"Bearer {example['token']}"} if example["token"] else {}
    url = origin + RAW_PATHS[example["call"]].format_map(example)
    async with http.get(url, headers=headers) as answer:
        text = await answer.text()
        message = (await answer.json())["error"] if "/api/" in url else text
        assert answer.status == row.status
        assert answer.headers.get("X-Error-Code") == row.code
        assert answer.headers["X-Error-Message"] == message
        for header, value in row.headers.items():
            assert answer.headers[header] == value
    assert "{" not in message
    assert message.startswith(row.message.partition("{")[0])


async def test_private_looks_like_missing(hub: DemoHub, http: aiohttp.ClientSession) -> None:
    """A private repo and one that does not exist get the same answer, to a token and to nobody."""
    for headers in ({"Authorization": f"Bearer {hub.token('bob')}"}, {}):
        answers = []
        for repo in ("alice/pirate-lora", "alice/nothing-here"):
            for path in (f"/api/models/{repo}", f"/api/models/{repo}/auth-check", f"/{repo}/resolve/main/x"):
                async with http.get(hub.endpoint + path, headers=headers) as answer:
                    kept = {key: value for key, value in answer.headers.items() if key != "Date"}
                    answers.append((answer.status, kept, await answer.text()))
        assert answers[:3] == answers[3:]


@each("path", ["/api/models/demo/public-lora", "/demo/public-lora/resolve/main/README.md"])
@each(
    "header",
    [
        "Bearer hf_demo_unknown",
        "Bearer ",
        "Basic aGY6",
        "Bearer a b",
        "hf_demo_bob",
        "Bearer hf_demo_expired",
    ],
)
async def test_bad_token_opens_not_even_public_repos(
    path: str, header: str, hub: DemoHub, http: aiohttp.ClientSession
) -> None:
    """A credential that is wrong, malformed or expired is 401 everywhere, public repos included."""
    async with http.get(hub.endpoint + path, headers={"Authorization": header}) as answer:
        assert answer.status == 401


async def test_renamed_repo_redirects(hub: DemoHub, client: Callable[[str | None], Client]) -> None:
    """A renamed repo answers 307 to its new name, and the client follows with its token."""
    await client("bob").auth_check("demo/old-llama")
    assert [entry.status for entry in hub.log] == [307, 200]
    assert {entry.user for entry in hub.log} == {"bob"}
    with pytest.raises(huggingface_hub.errors.GatedRepoError):
        await client("eve").auth_check("demo/old-llama")

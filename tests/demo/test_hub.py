"""The demo Hub as huggingface_hub sees it: identity, metadata, downloads, history."""

import hashlib
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import aiohttp
import pytest
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from hubgate.demo.catalog import Token
from hubgate.demo.hub import DemoHub
from tests.demo.conftest import Client, Clock

Clients = Callable[[str | None], Client]
BASE = "demo/tiny-llama"
PIRATE = "alice/pirate-lora"


async def test_whoami_of_a_fine_grained_token(clock: Clock, client: Clients) -> None:
    """Alice's token tells its role, age, scopes and organizations in the Hub's words."""
    facts = await client("alice").whoami()
    token = facts["auth"]["accessToken"]
    assert (facts["type"], facts["name"], len(facts["id"])) == ("user", "alice", 24)
    assert [(org["name"], org["roleInOrg"]) for org in facts["orgs"]] == [("acme", "read")]
    assert token["role"] == "fineGrained"
    assert datetime.fromisoformat(token["createdAt"]) == datetime.fromtimestamp(clock(), UTC) - timedelta(
        days=10
    )
    assert token["fineGrained"]["canReadGatedRepos"] is True
    assert [entry["entity"]["type"] for entry in token["fineGrained"]["scoped"]] == ["user", "org"]
    assert {right for entry in token["fineGrained"]["scoped"] for right in entry["permissions"]} == {
        "repo.content.read"
    }


async def test_whoami_of_an_oauth_token(clock: Clock, client: Clients) -> None:
    """An OAuth token tells when it expires and has no role; once the time has come it is refused."""
    facts = await client("hf_oauth_demo_bob").whoami()
    assert facts["auth"].keys() == {"type", "expiresAt"}
    assert facts["auth"]["type"] == "app_token_as_user"
    clock.now += 86_400
    with pytest.raises(HfHubHTTPError) as caught:
        await client("hf_oauth_demo_bob").whoami()
    assert caught.value.response.status_code == 401


@pytest.mark.parametrize("user", ["alice", "bob", "writer", "old", "service"])
async def test_who_may_read_the_gated_base(user: str, client: Clients) -> None:
    """Those whose request was accepted pass the gate and can download the weights."""
    await client(user).auth_check(BASE)
    assert (await client(user).download(BASE, "model.safetensors")).is_file()


@pytest.mark.parametrize("user", ["pending", "rejected", "eve", None])
async def test_gated_metadata_and_readme_are_public(user: str | None, client: Clients) -> None:
    """A gated repo shows its metadata, file list, history and README to anyone, and no other file."""
    caller = client(user)
    assert (await caller.model_info(BASE)).gated == "manual"
    assert "model.safetensors" in await caller.list_repo_files(BASE)
    assert await caller.list_repo_commits(BASE)
    assert (await caller.download(BASE, "README.md")).is_file()
    for name in ("config.json", "model.safetensors"):
        with pytest.raises(GatedRepoError):
            await caller.download(BASE, name)


@pytest.mark.parametrize("user", ["bob", "service", "eve"])
async def test_private_repo_is_its_owners_alone(user: str, client: Clients) -> None:
    """Only Alice finds her private adapter; to others it does not exist."""
    assert (await client("alice").model_info(PIRATE)).private is True
    for call in ("model_info", "list_repo_refs", "list_repo_commits", "auth_check"):
        with pytest.raises(RepositoryNotFoundError):
            await getattr(client(user), call)(PIRATE)
    with pytest.raises(RepositoryNotFoundError):
        await client(user).download(PIRATE, "README.md")


async def test_fine_grained_token_needs_the_scope_for_private_repos(hub: DemoHub, client: Clients) -> None:
    """A fineGrained token of the owner finds a private repo only with a permission to read it."""
    for secret, scoped, found in (
        ("hf_none", {}, False),
        ("hf_other", {"alice": ("discussion.write",)}, False),
        ("hf_repo", {PIRATE: ("repo.content.read",)}, True),
    ):
        hub.state.add_token(secret, Token(user="alice", name=secret[3:], role="fineGrained", scoped=scoped))
        assert await client(secret).repo_exists(PIRATE) is found


@pytest.mark.parametrize(
    ("role", "scoped", "repo", "writes"),
    [
        ("write", {}, PIRATE, True),
        ("god", {}, PIRATE, True),
        ("read", {}, PIRATE, False),
        ("fineGrained", {"alice": ("repo.content.read",)}, PIRATE, False),
        ("fineGrained", {"alice": ("repo.content.read", "repo.write")}, PIRATE, True),
        ("fineGrained", {PIRATE: ("repo.write",)}, PIRATE, True),
        ("none", {}, PIRATE, False),
        ("none", {"alice": ("repo.write",)}, PIRATE, True),
        ("write", {}, "demo/public-lora", False),
        ("write", {}, "acme/shared", False),  # alice is a reader there
    ],
)
async def test_who_may_write(
    hub: DemoHub, client: Clients, role: str, scoped: dict[str, tuple[str, ...]], repo: str, *, writes: bool
) -> None:
    """auth_check(write=True) passes for who may write: the owner, with a token that lets them."""
    hub.state.add_repo("acme/shared", {"README.md": b""})
    hub.state.add_token("hf_tried", Token(user="alice", name="tried", role=role, scoped=scoped))
    check = client("hf_tried").auth_check(repo, write=True)
    if writes:
        await check
    else:
        with pytest.raises(HfHubHTTPError) as caught:
            await check
        assert caught.value.response.status_code == 403


async def test_model_info_with_file_metadata(hub: DemoHub, client: Clients) -> None:
    """With files_metadata each file has its size and git id, and large ones their sha256."""
    info = await client("bob").model_info(BASE, files_metadata=True)
    assert info.sha == hub.state.sha(BASE)
    files = hub.state.repos[BASE].commits[info.sha].files
    for sibling in info.siblings:
        stored = files[sibling.rfilename]
        assert (sibling.size, sibling.blob_id) == (len(stored.content), stored.oid)
        assert (sibling.lfs.sha256 if sibling.lfs else None) == stored.sha256
    readme = files["README.md"].content
    assert files["README.md"].oid == hashlib.sha1(b"blob %d\0" % len(readme) + readme).hexdigest()  # noqa: S324
    assert (await client("bob").model_info(BASE, expand=["gated"])).sha is None


async def test_tree_is_paged_by_absolute_links(
    hub: DemoHub, client: Clients, http: aiohttp.ClientSession
) -> None:
    """The client reads a file list through several pages, each linked by its full address."""
    found = await client("bob").listed("list_repo_tree", BASE, recursive=True)
    assert [entry.path for entry in found] == sorted(hub.state.repos[BASE].find("main").files)  # type: ignore[union-attr]
    assert len(hub.log) == 4
    async with http.get(f"{hub.endpoint}/api/models/{BASE}/tree/main?recursive=true") as answer:
        link = answer.headers["Link"]
        assert link.startswith(f"<{hub.endpoint}/api/models/{BASE}/tree/main?recursive=true&cursor=")
        assert link.endswith('>; rel="next"')


async def test_tree_with_folders(hub: DemoHub, client: Clients) -> None:
    """Folders are entries, opened one by one or all at once; expand tells each file's last commit."""
    first = hub.state.add_repo("bob/nested", {"a/b/deep.txt": b"1", "a/near.txt": b"2", "top.txt": b"3"})
    second = hub.state.add_commit("bob/nested", {"top.txt": b"4"}, title="Change the top")
    bob = client("bob")

    async def paths(folder: str | None = None, *, recursive: bool = False) -> list[str]:
        return [e.path for e in await bob.listed("list_repo_tree", "bob/nested", folder, recursive=recursive)]

    assert await paths() == ["a", "top.txt"]
    assert await paths("a") == ["a/b", "a/near.txt"]
    assert await paths(recursive=True) == ["a", "a/b", "a/b/deep.txt", "a/near.txt", "top.txt"]
    with pytest.raises(RemoteEntryNotFoundError):
        await paths("nowhere")
    expanded = await bob.listed("list_repo_tree", "bob/nested", recursive=True, expand=True)
    assert {e.path: e.last_commit.oid for e in expanded if e.path.endswith("txt")} == {
        "a/b/deep.txt": first,
        "a/near.txt": first,
        "top.txt": second,
    }
    assert [e.path for e in await bob.get_paths_info("bob/nested", ["a/near.txt", "no"], expand=True)] == [
        "a/near.txt"
    ]


async def test_refs_and_history(hub: DemoHub, client: Clients) -> None:
    """Alice's adapter has two commits on main, a tag on the first, and a pull request beside them."""
    refs = await client("alice").list_repo_refs(PIRATE, include_pull_requests=True)
    main, tag, request = refs.branches[0], refs.tags[0], refs.pull_requests[0]
    assert (main.ref, tag.ref, request.ref) == ("refs/heads/main", "refs/tags/v1", "refs/pr/7")
    history = [commit.commit_id for commit in await client("alice").list_repo_commits(PIRATE)]
    assert history == [main.target_commit, tag.target_commit]
    assert request.target_commit not in history
    assert (await client("alice").list_repo_refs(PIRATE)).pull_requests is None
    assert main.target_commit == hub.state.sha(PIRATE)


async def test_commits_are_paged(hub: DemoHub, client: Clients) -> None:
    """A history longer than a page is read to its root, newest first."""
    shas = [hub.state.sha(PIRATE)] + [hub.state.add_commit(PIRATE, {"note": b"%d" % n}) for n in range(4)]
    history = await client("alice").list_repo_commits(PIRATE)
    assert [commit.commit_id for commit in history][:5] == shas[::-1]
    assert len(history) == 6
    assert len([entry for entry in hub.log if "/commits/" in entry.path]) == 3


@pytest.mark.parametrize("revision", ["main", "refs/heads/main", "v1", "refs/tags/v1", "refs/pr/7"])
async def test_revisions_are_one_encoded_segment(revision: str, hub: DemoHub, client: Clients) -> None:
    """A branch, tag, full ref or sha resolves to its commit, for metadata and for files alike."""
    sha = hub.state.sha(PIRATE, revision)
    alice = client("alice")
    assert (await alice.model_info(PIRATE, revision=revision)).sha == sha
    assert (await alice.model_info(PIRATE, revision=sha)).sha == sha
    assert (await alice.download(PIRATE, "adapter_config.json", revision)).parent.name == sha


@pytest.mark.parametrize("revision", ["nowhere", "0" * 40, "main/..", "refs/pr/8"])
async def test_unknown_revision(revision: str, client: Clients) -> None:
    """A revision that does not exist is told apart from a repo that does not."""
    with pytest.raises(RevisionNotFoundError):
        await client("alice").model_info(PIRATE, revision=revision)


async def test_snapshot_at_a_sha(hub: DemoHub, client: Clients) -> None:
    """A snapshot at each of the two shas has all files, and its weights are those of that commit."""
    weights = []
    for revision in ("v1", "main"):
        sha = hub.state.sha(PIRATE, revision)
        folder = await client("alice").snapshot(PIRATE, sha)
        files = hub.state.repos[PIRATE].commits[sha].files
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
            path: blob.content for path, blob in files.items()
        }
        weights.append((folder / "adapter_model.safetensors").read_bytes())
    assert weights[0] != weights[1]


async def test_missing_file_tells_the_commit(hub: DemoHub, client: Clients) -> None:
    """EntryNotFound carries the commit, by which the client remembers that the file is not there."""
    with pytest.raises(RemoteEntryNotFoundError) as caught:
        await client("bob").download("demo/public-lora", "nothing.json")
    assert caught.value.response.headers["X-Repo-Commit"] == hub.state.sha("demo/public-lora")


async def test_main_can_move(hub: DemoHub, client: Clients) -> None:
    """A commit moves main; main can be moved back; the old sha stays readable."""
    before = hub.state.sha("demo/public-lora")
    after = hub.state.add_commit("demo/public-lora", {"README.md": None, "extra.txt": b"more"})
    assert (await client("bob").model_info("demo/public-lora")).sha == after
    assert "README.md" not in await client("bob").list_repo_files("demo/public-lora")
    hub.state.move_main("demo/public-lora", before)
    assert (await client("bob").model_info("demo/public-lora")).sha == before
    assert (await client("bob").model_info("demo/public-lora", revision=after)).sha == after


@pytest.mark.parametrize("repo", ["demo/public-lora", "demo/pickle-lora", "demo/wrong-base-lora"])
async def test_adapters_name_the_base(repo: str, client: Clients) -> None:
    """Each adapter's config names the demo's base model, the ill-fitting one's too."""
    config = json.loads((await client("bob").download(repo, "adapter_config.json")).read_bytes())
    assert config["base_model_name_or_path"] == BASE


async def test_raw_metadata_headers(hub: DemoHub, http: aiohttp.ClientSession) -> None:
    """A small file comes at once with its commit and git ETag; HEAD has no body; nothing speaks of Xet."""
    url = f"{hub.endpoint}/demo/public-lora/resolve/main/adapter_config.json"
    sha = hub.state.sha("demo/public-lora")
    stored = hub.state.repos["demo/public-lora"].commits[sha].files["adapter_config.json"]
    for method in ("HEAD", "GET"):
        async with http.request(method, url) as answer:
            assert answer.status == 200
            assert answer.headers["X-Repo-Commit"] == sha
            assert answer.headers["ETag"] == f'"{stored.oid}"'
            assert int(answer.headers["Content-Length"]) == len(stored.content)
            assert await answer.read() == (b"" if method == "HEAD" else stored.content)
            assert not any(header.lower().startswith("x-xet") for header in answer.headers)

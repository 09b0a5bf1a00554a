"""What the demo Hub knows and decides, without any network: who may read what, and what a test can change."""

import time
from collections.abc import Mapping
from pathlib import Path

from hubgate.demo.accounts import READS, WRITE, Accounts, Caller, Clock, Refused, iso
from hubgate.demo.catalog import Catalog, RepoSpec, Token, User, files_of, load
from hubgate.demo.git import MAIN, Blob
from hubgate.demo.outage import Outage, Outages
from hubgate.demo.repos import Repo


class HubState:
    """The Hub's mind. Everything here may be called while it serves, from its event loop's thread.

    `folder` is where the files of the repos in `hub.yaml` are kept; without one they are made in memory.
    """

    def __init__(
        self, catalog: Catalog | None = None, *, clock: Clock = time.time, folder: Path | None = None
    ) -> None:
        self.catalog = catalog or load()
        self.clock = clock
        self.outages = Outages()
        self._fresh = {repo: _build(repo, spec, folder) for repo, spec in self.catalog.repos.items()}
        self.restore()

    def restore(self) -> None:
        """Go back to what `hub.yaml` says: outages lifted, tokens good again, repos as they were."""
        self.outages.lift()
        self.accounts = Accounts(self.clock)
        for name, user in self.catalog.users.items():
            self.accounts.add_user(name, user)
        for secret, token in self.catalog.tokens.items():
            self.accounts.add_token(secret, token)
        self.renames = dict(self.catalog.renames)
        self.repos = {
            repo: Repo(
                id=repo,
                private=spec.private,
                gated=spec.gated,
                disabled=spec.disabled,
                gate=dict(spec.gate),
                refs=dict(self._fresh[repo].refs),
                commits=dict(self._fresh[repo].commits),
            )
            for repo, spec in self.catalog.repos.items()
        }

    # --- decisions

    def visible(self, caller: Caller, repo_id: str) -> Repo | Refused:
        """Say whether the caller may know of a repo: its metadata, its file list and its README.

        A private repo looks like a missing one to those who may not read it. A renamed one gives the
        repo of today's name, whose `id` is then not the one asked for.
        """
        repo = self.repos.get(self.renames.get(repo_id, repo_id))
        if repo is None or (repo.private and not self._owns(caller, repo)):
            return Refused("repo_not_found" if caller.token else "no_credentials", {"repo": repo_id})
        if caller.token and repo.owner in caller.token.unapproved_by:
            return Refused("org_policy", {"repo": repo_id, "org": repo.owner})
        if repo.disabled:
            return Refused("disabled", {"repo": repo_id})
        return repo

    def gate(self, caller: Caller, repo: Repo) -> Refused | None:
        """Say why the caller may not read the files of a repo that is visible to them; None if they may."""
        if not repo.gated or self._owns(caller, repo):
            return None
        fields = {"repo": repo.id}
        token = caller.token
        if token is None:
            return Refused("gated_anonymous", fields)
        if token.role == "fineGrained" and not token.can_read_gated:
            return Refused("fine_grained_scope", fields)
        access = repo.gate.get(token.user, "not_requested")
        return None if access == "accepted" else Refused(f"gated_{access}", fields)

    def write_gate(self, caller: Caller, repo: Repo) -> Refused | None:
        """Say why the caller may not write to a repo that is visible to them; None if they may."""
        token = caller.token
        if token is not None and self.accounts.writes(token.user, repo.owner):
            granted = any(WRITE in token.scoped.get(entity, ()) for entity in (repo.owner, repo.id))
            if token.role in ("write", "god") or granted:
                return None
        return Refused("write_refused", {"repo": repo.id})

    def _owns(self, caller: Caller, repo: Repo) -> bool:
        token = caller.token
        if token is None or not self.accounts.belongs(token.user, repo.owner):
            return False
        if token.role != "fineGrained":
            return True
        return any(READS & set(token.scoped.get(entity, ())) for entity in (repo.owner, repo.id))

    def stored(self, sha256: str) -> Blob | None:
        """Find a large file by the SHA-256 of its content, in any repo."""
        blobs = (
            blob
            for repo in self.repos.values()
            for commit in repo.commits.values()
            for blob in commit.files.values()
        )
        return next((blob for blob in blobs if blob.sha256 == sha256), None)

    # --- switches

    def set_down(self, mode: str | None, **how: object) -> None:
        """Begin an outage of that mode, with further fields of `Outage`; None ends all outages.

        Raises ValueError for an unknown mode or origin, TypeError for an unknown field.
        """
        if mode is None:
            self.outages.lift()
        else:
            self.outages.set(Outage(mode=mode, **how))  # type: ignore[arg-type]

    def add_user(self, name: str, user: User | None = None) -> None:
        """Add or replace a user."""
        self.accounts.add_user(name, user or User(fullname=name))

    def add_token(self, secret: str, token: Token) -> None:
        """Add or replace a token. Raises KeyError for an unknown user."""
        self.accounts.add_token(secret, token)

    def rename_account(self, old: str, new: str) -> None:
        """Rename a user or an organization with its repos; then the old name is free for `add_user`."""
        self.accounts.rename(old, new)
        for repo in [repo for repo in self.repos.values() if repo.owner == old]:
            self.rename(repo.id, f"{new}/{repo.id.partition('/')[2]}")
        for repo in self.repos.values():
            if old in repo.gate:
                repo.gate[new] = repo.gate.pop(old)

    def revoke(self, token: str | None = None, *, name: str | None = None, user: str | None = None) -> int:
        """Revoke a token, the token of that name, or all tokens of a user; give how many there were."""
        return self.accounts.revoke(token, name=name, user=user)

    def unrevoke(self, token: str | None = None, *, name: str | None = None, user: str | None = None) -> int:
        """Undo `revoke`."""
        return self.accounts.unrevoke(token, name=name, user=user)

    def set_gate(self, repo: str, user: str, access: str | None) -> None:
        """Set a user's access request: accepted, pending, rejected, or None for never asked."""
        gate = self.repos[repo].gate
        gate.pop(user, None)
        if access is not None:
            gate[user] = access

    def set_private(self, repo: str, private: bool) -> None:
        """Make a repo private or public."""
        self.repos[repo].private = private

    def set_gated(self, repo: str, gated: str | bool) -> None:
        """Gate a repo ("auto", "manual") or open it (False)."""
        self.repos[repo].gated = gated

    def set_disabled(self, repo: str, disabled: bool) -> None:
        """Disable a repo, as the Hub's own staff do, or enable it."""
        self.repos[repo].disabled = disabled

    def rename(self, old: str, new: str) -> None:
        """Rename a repo; the old name is answered with a redirect."""
        repo = self.repos.pop(old)
        repo.id = new
        self.repos[new] = repo
        self.renames[old] = new

    def add_repo(
        self, repo_id: str, files: Mapping[str, bytes], *, private: bool = False, gated: str | bool = False
    ) -> str:
        """Add or replace a repo with one commit on main; give its sha."""
        repo = self.repos[repo_id] = Repo(id=repo_id, private=private, gated=gated)
        return repo.add_commit(files, title="Initial commit", author=repo.owner, date=iso(self.clock()))

    def add_commit(
        self,
        repo_id: str,
        files: Mapping[str, bytes | None],
        *,
        title: str = "Update",
        ref: str = MAIN,
        parent: str | None = None,
    ) -> str:
        """Commit changed files (None deletes one) and move `ref` there; give the sha."""
        repo = self.repos[repo_id]
        return repo.add_commit(
            files, title=title, author=repo.owner, date=iso(self.clock()), ref=ref, parent=parent
        )

    def set_ref(self, repo: str, ref: str, sha: str) -> None:
        """Point a full ref name, such as refs/tags/v1, to a commit. Raises KeyError if there is none."""
        self.repos[repo].refs[ref] = self.repos[repo].commits[sha].sha

    def move_main(self, repo: str, sha: str) -> None:
        """Point main to a commit of the repo."""
        self.set_ref(repo, MAIN, sha)

    def sha(self, repo: str, revision: str = "main") -> str:
        """Give the commit that a revision points to. Raises KeyError if none."""
        found = self.repos[repo].find(revision)
        if found is None:
            raise KeyError(revision)
        return found.sha


def _build(repo_id: str, spec: RepoSpec, folder: Path | None) -> Repo:
    """Make a repo's commits and refs."""
    repo = Repo(id=repo_id)
    shas: dict[str, str] = {}
    for entry in spec.commits:
        sha = shas[entry.name] = repo.add_commit(
            files_of(repo_id, entry, folder),
            title=entry.title,
            author=entry.author,
            date=entry.date,
            ref=entry.ref,
            parent=shas[entry.parent] if entry.parent else None,
        )
        repo.refs |= {f"refs/tags/{tag}": sha for tag in entry.tags}
    return repo

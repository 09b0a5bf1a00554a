"""The demo Hub's repos: commits, refs and who passed the gate. No network."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from hubgate.demo.git import MAIN, Blob, Commit, blob, commit


@dataclass(slots=True, kw_only=True)
class Repo:
    """One model repo; mutable, owned by HubState."""

    id: str
    private: bool = False
    gated: str | bool = False
    """False, "auto" or "manual"."""
    disabled: bool = False
    gate: dict[str, str] = field(default_factory=dict)
    """User -> accepted, pending or rejected."""
    refs: dict[str, str] = field(default_factory=dict)
    """Full ref name, such as refs/heads/main -> sha."""
    commits: dict[str, Commit] = field(default_factory=dict)

    @property
    def owner(self) -> str:
        """The user or organization that it belongs to."""
        return self.id.partition("/")[0]

    def find(self, revision: str) -> Commit | None:
        """Resolve a branch, a tag, a full ref or a full sha, those of pull requests included."""
        for name in (revision, f"refs/heads/{revision}", f"refs/tags/{revision}"):
            if name in self.refs:
                return self.commits[self.refs[name]]
        return self.commits.get(revision)

    def history(self, newest: Commit) -> Iterator[Commit]:
        """Walk from a commit to the root."""
        at: Commit | None = newest
        while at is not None:
            yield at
            at = self.commits[at.parent] if at.parent else None

    def last_change(self, newest: Commit, path: str) -> Commit:
        """Give the commit that gave the file at `path` its content."""
        found = newest
        for older in self.history(newest):
            if path not in older.files or older.files[path].oid != newest.files[path].oid:
                break
            found = older
        return found

    def add_commit(
        self,
        files: Mapping[str, bytes | None],
        *,
        title: str,
        author: str,
        date: str,
        ref: str = MAIN,
        parent: str | None = None,
    ) -> str:
        """Commit changed files (None deletes) upon `parent`, else upon `ref`; move `ref`; give the sha."""
        parent = parent or self.refs.get(ref)
        after: dict[str, Blob] = dict(self.commits[parent].files) if parent else {}
        for path, content in files.items():
            if content is None:
                del after[path]
            else:
                after[path] = blob(path, content)
        made = commit(after, parent=parent, title=title, author=author, date=date)
        self.commits[made.sha] = made
        self.refs[ref] = made.sha
        return made.sha

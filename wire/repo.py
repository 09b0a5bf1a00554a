"""The one grammar for names of Hub repositories and their revisions."""

import re
from typing import Final, Self

# The Hub's own rule (huggingface_hub/utils/_validators.py) says: at most 96 characters, letters,
# digits and `-_.`, no `--` or `..`, no `-` or `.` at either end. Theirs also lets non-ASCII letters
# and a trailing newline through, which reach other routes; ours is ASCII and matches in full.
_SEGMENT: Final = r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?"
_REPO: Final = re.compile(f"({_SEGMENT})/({_SEGMENT})", re.ASCII)
# git-check-ref-format(1), narrowed to what branches, tags, `refs/pr/N` and shas need.
_REVISION: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,254}", re.ASCII)
_SHA: Final = re.compile(r"[0-9a-f]{40}", re.ASCII)

MAX_LENGTH: Final = 96 + 1 + 96 + 1 + 255


class InvalidRepoError(ValueError):
    """The text is no `org/name[@revision]`. The message never repeats the text."""


class RepoRef:
    """A Hub model repository, `org/name`, and which revision of it; `None` is the default branch.

    A value, and immutable by the type checker's word: one is made for each request, and several are
    compared, so that its texts are made once and nothing about it is generic.
    """

    __slots__ = ("_at", "_text", "id", "name", "org", "revision")

    def __init__(self, org: str, name: str, revision: str | None = None) -> None:
        self.org: Final = org
        self.name: Final = name
        self.revision: Final = revision
        self.id: Final = f"{org}/{name}"  # without the revision
        self._text: Final = self.id if revision is None else f"{self.id}@{revision}"
        self._at: RepoRef | None = None  # where it was last asked for

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `org/name` or `org/name@revision`.

        Raises `InvalidRepoError` for everything else; nothing is normalised or repaired. Nothing is
        remembered either: what one caller named would be quicker for the next one, who could tell.
        """
        if len(text) > MAX_LENGTH:
            raise InvalidRepoError(f"a model name is at most {MAX_LENGTH} characters long")
        repo, at, revision = text.partition("@")
        named = _REPO.fullmatch(repo)
        if named is None or not _is_unambiguous(repo):
            raise InvalidRepoError("a model is named org/name or org/name@revision, as on the Hub")
        if at and not _is_revision(revision):
            raise InvalidRepoError("the revision after '@' is not a branch, a tag or a commit sha")
        return cls(named[1], named[2], revision if at else None)

    @property
    def pinned(self) -> bool:
        """Whether the revision is a full commit sha, which can never mean other bytes."""
        return self.revision is not None and is_sha(self.revision)

    def at(self, revision: str | None) -> "RepoRef":
        """The same repository at another revision; `None` is the default branch."""
        at = self._at
        if at is None or at.revision != revision:
            self._at = at = RepoRef(self.org, self.name, revision)
        return at

    def __str__(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return f"RepoRef({self._text!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RepoRef) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)


def is_sha(text: str) -> bool:
    """Whether the text is a full git commit sha: 40 lower-case hex digits."""
    return _SHA.fullmatch(text) is not None


def _is_unambiguous(repo: str) -> bool:
    """Whether neither segment of an `org/name` has what the Hub reserves."""
    return "--" not in repo and ".." not in repo and ".git/" not in repo and not repo.endswith(".git")


def _is_revision(text: str) -> bool:
    return (
        _REVISION.fullmatch(text) is not None
        and ".." not in text
        and "//" not in text
        and "/." not in text
        and not text.endswith(("/", ".", ".lock"))
    )

"""The one grammar for names of Hub repositories and their revisions."""

import re
from dataclasses import dataclass, field
from typing import Self

# The Hub's own rule (huggingface_hub/utils/_validators.py) says: at most 96 characters, letters,
# digits and `-_.`, no `--` or `..`, no `-` or `.` at either end. Theirs also lets non-ASCII letters
# and a trailing newline through, which reach other routes; ours is ASCII and matches in full.
_SEGMENT = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?", re.ASCII)
# git-check-ref-format(1), narrowed to what branches, tags, `refs/pr/N` and shas need.
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,254}", re.ASCII)
_SHA = re.compile(r"[0-9a-f]{40}", re.ASCII)

MAX_LENGTH = 96 + 1 + 96 + 1 + 255


class InvalidRepoError(ValueError):
    """The text is no `org/name[@revision]`. The message never repeats the text."""


@dataclass(frozen=True, order=True)
class RepoRef:
    """A Hub model repository, `org/name`, and which revision of it; `None` is the default branch."""

    org: str
    name: str
    revision: str | None = None
    id: str = field(init=False, repr=False)  # `org/name`, without the revision
    _text: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        # Made once, since each request asks for them a dozen times.
        repo = f"{self.org}/{self.name}"
        object.__setattr__(self, "id", repo)
        object.__setattr__(self, "_text", repo if self.revision is None else f"{repo}@{self.revision}")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `org/name` or `org/name@revision`.

        Raises `InvalidRepoError` for everything else; nothing is normalised or repaired. Nothing is
        remembered either: what one caller named would be quicker for the next one, who could tell.
        """
        if len(text) > MAX_LENGTH:
            raise InvalidRepoError(f"a model name is at most {MAX_LENGTH} characters long")
        repo, at, revision = text.partition("@")
        org, slash, name = repo.partition("/")
        if not slash or not _is_segment(org) or not _is_segment(name):
            raise InvalidRepoError("a model is named org/name or org/name@revision, as on the Hub")
        if at and not _is_revision(revision):
            raise InvalidRepoError("the revision after '@' is not a branch, a tag or a commit sha")
        return cls(org, name, revision if at else None)

    @property
    def pinned(self) -> bool:
        """Whether the revision is a full commit sha, which can never mean other bytes."""
        return self.revision is not None and is_sha(self.revision)

    def at(self, revision: str | None) -> "RepoRef":
        """The same repository at another revision; `None` is the default branch."""
        return RepoRef(self.org, self.name, revision)

    def __str__(self) -> str:
        return self._text


def is_sha(text: str) -> bool:
    """Whether the text is a full git commit sha: 40 lower-case hex digits."""
    return _SHA.fullmatch(text) is not None


def _is_segment(text: str) -> bool:
    return (
        _SEGMENT.fullmatch(text) is not None
        and "--" not in text
        and ".." not in text
        and not text.endswith(".git")
    )


def _is_revision(text: str) -> bool:
    return (
        _REVISION.fullmatch(text) is not None
        and ".." not in text
        and "//" not in text
        and "/." not in text
        and not text.endswith(("/", ".", ".lock"))
    )

"""Read `hub.yaml`: the demo Hub's callers, repos and error answers, as frozen values."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from hubgate.demo import weights
from hubgate.demo.git import MAIN

DEFAULT: Final = Path(__file__).with_name("hub.yaml")


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """A person, as whoami tells of them."""

    fullname: str
    orgs: Mapping[str, str] = field(default_factory=dict)
    """Organization -> role in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """What the Hub knows of a token, its text apart. Ages and expiry count from when the token was added."""

    user: str
    name: str
    role: str = "read"
    """read, write, god or fineGrained; none for an OAuth token."""
    age_days: float = 0
    expires_in_days: float | None = None
    can_read_gated: bool = False
    scoped: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Of a fineGrained or an OAuth token: user, organization or repo -> permissions."""
    unapproved_by: tuple[str, ...] = ()
    """Organizations whose token policy asks for an approval that is missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitSpec:
    """A commit to be made: a recipe of `hubgate.demo.weights` and its arguments."""

    name: str
    make: str
    arguments: Mapping[str, Any]
    title: str
    author: str
    date: str
    parent: str | None
    ref: str
    tags: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RepoSpec:
    """A repo at the start."""

    private: bool
    gated: str | bool
    """False, "auto" or "manual", as the Hub says it."""
    disabled: bool
    gate: Mapping[str, str]
    commits: tuple[CommitSpec, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorRow:
    """One way in which the Hub says no; texts are templates for `str.format_map`."""

    status: int
    message: str
    code: str | None
    headers: Mapping[str, str]
    raises: str
    """The client's exception, by name."""
    example: Mapping[str, Any] = field(repr=False)
    """How to get this answer: see `hub.yaml`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalog:
    """All of `hub.yaml`."""

    page_size: Mapping[str, int]
    signed_url_lifetime: float
    users: Mapping[str, User]
    tokens: Mapping[str, Token] = field(repr=False)
    repos: Mapping[str, RepoSpec]
    renames: Mapping[str, str]
    errors: Mapping[str, ErrorRow]


def load(path: Path = DEFAULT) -> Catalog:
    """Read the file. Raises OSError, yaml.YAMLError, KeyError or TypeError where a key is odd or missing."""
    data = yaml.safe_load(path.read_text(encoding="utf-8"))
    return Catalog(
        page_size=data["page_size"],
        signed_url_lifetime=data["signed_url_lifetime"],
        users={name: User(**facts) for name, facts in data["users"].items()},
        tokens={secret: _token(facts) for secret, facts in data["tokens"].items()},
        repos={repo: _repo(facts) for repo, facts in data["repos"].items()},
        renames=data["renames"],
        errors={name: _error(**facts) for name, facts in data["errors"].items()},
    )


def files_of(repo: str, spec: CommitSpec, folder: Path | None) -> weights.Files:
    """Give the files of a commit: read from `folder` if they are there, else made, and kept there."""
    if folder is None:
        return weights.make(spec.make, spec.arguments)
    place = folder / repo / spec.name
    if not place.is_dir():
        weights.write(weights.make(spec.make, spec.arguments), place)
    return weights.read(place)


def _token(facts: Mapping[str, Any]) -> Token:
    lists = {
        "scoped": {entity: tuple(permissions) for entity, permissions in facts.get("scoped", {}).items()},
        "unapproved_by": tuple(facts.get("unapproved_by", ())),
    }
    return Token(**{**facts, **lists})


def _repo(facts: Mapping[str, Any]) -> RepoSpec:
    commits: list[CommitSpec] = []
    for entry in facts["commits"]:
        before = commits[-1].name if commits else None
        commits.append(
            CommitSpec(
                name=entry["name"],
                make=entry["make"],
                arguments=entry.get("with", {}),
                title=entry["title"],
                author=entry["author"],
                date=entry["date"],
                parent=entry.get("parent", before),
                ref=entry.get("ref", MAIN),
                tags=tuple(entry.get("tags", ())),
            )
        )
    return RepoSpec(
        private=facts.get("private", False),
        gated=facts.get("gated", False),
        disabled=facts.get("disabled", False),
        gate=facts.get("gate", {}),
        commits=tuple(commits),
    )


def _error(
    *,
    status: int,
    message: str,
    raises: str,
    example: Mapping[str, Any],
    code: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> ErrorRow:
    return ErrorRow(
        status=status, message=message, code=code, headers=headers or {}, raises=raises, example=example
    )

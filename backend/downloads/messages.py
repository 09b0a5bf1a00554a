"""What the backend and its download workers say to each other: JSON, one message a line, over pipes.

The backend sends a `Job`. The worker answers with the `Listing` of the repo, or with `Failure`. The
backend then sends a `FileSelection`, and the worker sends `Verifying` any number of times, then `Done` or
`Failure`; after `Done` there may be another selection. A token travels in a job only: never in an argv
or an environment.
"""

import msgspec

from hubgate.backend.repo_files import RepoFile
from hubgate.wire.control_api import FailureCode


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """Which repo to list, and for whom. `endpoint` empty: what huggingface_hub itself would take."""

    endpoint: str
    repo: str  # org/name
    revision: str
    token: str  # "" asks as nobody
    staging: str  # an absolute directory of our own, empty

    def __repr__(self) -> str:
        return f"Job(repo={self.repo!r}, revision={self.revision!r})"


class Listing(msgspec.Struct, frozen=True, kw_only=True, tag="listing"):
    """The repo at one commit."""

    sha: str
    files: tuple[RepoFile, ...]


class FileSelection(msgspec.Struct, frozen=True, kw_only=True):
    """The files to fetch, exactly these."""

    files: tuple[RepoFile, ...]


class Verifying(msgspec.Struct, frozen=True, kw_only=True, tag="verifying"):
    """All bytes are here; this many of them agree with the Hub's hashes."""

    done: int


class Done(msgspec.Struct, frozen=True, kw_only=True, tag="done"):
    """Every chosen file lies in `staging` and is what the Hub said it is."""


class Failure(msgspec.Struct, frozen=True, kw_only=True, tag="failure"):
    """No files. `message` is fit for a caller's eyes: no token, no local path, no URL."""

    code: FailureCode
    message: str
    retry_after: int | None = None  # seconds


Answer = Listing | Verifying | Done | Failure

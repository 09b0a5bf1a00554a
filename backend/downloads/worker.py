"""The download worker, a process of its own: the only place that uses huggingface_hub.

One process serves one download: huggingface_hub has one HTTP client and one cookie jar for all, no
way to stop it, and it reads its environment at import. The process ends after its job, and the
caller's token with it.
"""

import logging
import os
import resource
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO

import msgspec

from hubgate.backend.downloads.hub_answers import bounded
from hubgate.backend.downloads.hub_errors import MismatchError, NonsenseError, failure
from hubgate.backend.downloads.messages import Answer, Done, FileSelection, Job, Listing, Verifying
from hubgate.backend.repo_files import RepoFile, agrees

if TYPE_CHECKING:
    import httpx2  # what huggingface_hub speaks HTTP with

LIST_TIMEOUT = 20.0  # seconds
PARALLEL = 4  # files at a time
CHUNK = 1 << 20  # bytes; only whole chunks are seen to arrive, and are kept when the connection is cut
HEADROOM = 1 << 20  # bytes that a file may be larger than the largest listed one


def main(source: BinaryIO, sink: BinaryIO) -> int:
    """Import the library while idle, then serve one job. A closed pipe ends the process quietly."""
    # A home of its own: the client keeps listings there that were made for one caller.
    os.environ["HF_HOME"] = os.environ["HOME"] = os.environ["TMPDIR"]
    # The client logs the Hub's signed link when a download is cut, and whoever holds that link can
    # read the file. What matters of a failure is in the answer.
    logging.disable(logging.CRITICAL)
    # Slow, so before there is a job.
    from huggingface_hub import HfApi, constants, hf_hub_download, set_client_factory  # noqa: F401, PLC0415

    set_client_factory(_client)
    constants.DOWNLOAD_CHUNK_SIZE = CHUNK
    _warm_up()
    line = source.readline()
    if not line:
        return 0
    job = msgspec.json.decode(line, type=Job)

    def say(answer: Answer) -> None:
        sink.write(msgspec.json.encode(answer) + b"\n")
        sink.flush()

    try:
        say(_listing(job))
        while line := source.readline():
            choice = msgspec.json.decode(line, type=FileSelection)
            _fetch(job, choice)
            _verify(Path(job.staging), choice, say)
            say(Done())
    except Exception as error:  # noqa: BLE001  # every failure becomes a value; none may quote a token
        say(failure(error))
    return 0


def _warm_up() -> None:
    """Make the HTTP client: reading the certificates that it trusts takes longer than a small download."""
    from huggingface_hub.utils._http import get_session  # noqa: PLC0415

    get_session()


def _listing(job: Job) -> Listing:
    from huggingface_hub import HfApi  # noqa: PLC0415

    # False, not None: None would silently use a token of this process.
    api = HfApi(endpoint=job.endpoint or None, token=job.token or False)
    try:
        info = api.model_info(job.repo, revision=job.revision, files_metadata=True, timeout=LIST_TIMEOUT)
        files = tuple(
            RepoFile(
                name=sibling.rfilename,
                size=sibling.size,
                sha256=sibling.lfs.sha256 if sibling.lfs else None,
                blob=sibling.blob_id,
            )
            for sibling in info.siblings or ()
        )
        # The client believes every type and every text: what cannot be said over the pipe is no listing.
        return msgspec.json.decode(
            msgspec.json.encode(Listing(sha=info.sha or "", files=files)), type=Listing
        )
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        if hasattr(error, "response"):  # an error of the Hub's, which is a ValueError with status 400
            raise
        raise NonsenseError from error


def _fetch(job: Job, choice: FileSelection) -> None:
    from huggingface_hub import hf_hub_download  # noqa: PLC0415

    largest = max((file.size or 0 for file in choice.files), default=0) + HEADROOM
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, hard))
    # An attempt before us may have left parts of files, which the client never takes up again.
    for part in Path(job.staging).rglob("*.incomplete"):
        part.unlink(missing_ok=True)

    def one(file: RepoFile) -> None:
        # Not snapshot_download: when its listing fails it returns an existing folder as if all was
        # well, and it lists the whole repo a second time. A file that an attempt before us finished
        # is not fetched again.
        hf_hub_download(
            job.repo,
            file.name,
            revision=job.revision,
            local_dir=job.staging,
            token=job.token or False,
            endpoint=job.endpoint or None,
        )

    with ThreadPoolExecutor(PARALLEL) as pool:
        list(pool.map(one, choice.files))


def _verify(staging: Path, choice: FileSelection, say: Callable[[Answer], None]) -> None:
    """Plain HTTP checks sizes only: compare every file with the Hub's hash, and have it on the disk."""
    done, said = 0, time.monotonic()

    def read(size: int) -> None:
        nonlocal done, said
        done += size
        if time.monotonic() - said > 1:
            said = time.monotonic()
            say(Verifying(done=done))

    for file in choice.files:
        if not agrees(staging, file, read):
            raise MismatchError
    # A rename survives a power cut before the bytes that it is about, unless these are there.
    with ThreadPoolExecutor(PARALLEL) as pool:
        list(pool.map(_to_disk, (staging / file.name for file in choice.files)))


def _to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def _client() -> "httpx2.Client":
    """The library's own client, but no answer that asks to wait is waited for in here.

    The library would sleep for whatever Retry-After says, with the token in its hands and no limit.
    """
    from huggingface_hub.utils._http import default_client_factory  # noqa: PLC0415

    client = default_client_factory()
    client.headers["Accept-Encoding"] = "identity"
    client.event_hooks = {**client.event_hooks, "response": [bounded]}
    return client


def _say_no_values(kind: type[BaseException], _: BaseException, where: TracebackType | None) -> None:
    """An uncaught error names its type and place only: its text may hold a token."""
    while where is not None and where.tb_next is not None:
        where = where.tb_next
    place = f" at {where.tb_frame.f_code.co_filename}:{where.tb_lineno}" if where else ""
    sys.stderr.write(f"{kind.__name__}{place}\n")


if __name__ == "__main__":
    sys.excepthook = _say_no_values
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not stand between the answers
    status = main(sys.stdin.buffer, answers)
    # Not sys.exit: threads of a library must not keep the process, and the token, alive.
    sys.stderr.flush()
    os._exit(status)

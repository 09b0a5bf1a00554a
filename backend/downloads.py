"""The download worker, `python -m backend.downloads`: the only place that uses huggingface_hub.

One process serves one download: huggingface_hub has one HTTP client and one cookie jar for all, no
way to stop it, and it reads its environment at import. The process ends after its job, and the
caller's token with it.
"""

import errno
import hashlib
import logging
import os
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import msgspec

from backend.jobs import Answer, Choice, Done, Failure, File, Job, Listing, Verifying

LIST_TIMEOUT = 20.0  # seconds
PARALLEL = 4  # files at a time
BLOCK = 1 << 22  # bytes read at once while hashing
MAX_WAIT = 120  # seconds; the longest Retry-After that is passed on
HEADROOM = 1 << 20  # bytes that a file may be larger than the largest listed one


class MismatchError(Exception):
    """A file is not what the Hub's listing says."""


def main(source: BinaryIO, sink: BinaryIO) -> int:
    """Import the library while idle, then serve one job. A closed pipe ends the process quietly."""
    # A home of its own: the client keeps listings there that were made for one caller.
    os.environ["HF_HOME"] = os.environ["HOME"] = os.environ["TMPDIR"]
    # The client logs the Hub's signed link when a download is cut, and whoever holds that link can
    # read the file. What matters of a failure is in the answer.
    logging.disable(logging.CRITICAL)
    from huggingface_hub import HfApi, hf_hub_download  # noqa: F401, PLC0415  # slow, so before there is a job

    line = source.readline()
    if not line:
        return 0
    job = msgspec.json.decode(line, type=Job)

    def say(answer: Answer) -> None:
        sink.write(msgspec.json.encode(answer) + b"\n")
        sink.flush()

    try:
        say(_listing(job))
        line = source.readline()
        if not line:
            return 0
        choice = msgspec.json.decode(line, type=Choice)
        _fetch(job, choice)
        _verify(Path(job.staging), choice, say)
        say(Done())
    except Exception as error:  # noqa: BLE001  # every failure becomes a value; none may quote a token
        say(failure(error))
    return 0


def failure(error: BaseException) -> Failure:
    """Sort an error by what the Hub answered, not by the client's exception class."""
    for cause in _chain(error):
        if isinstance(cause, MismatchError):
            return Failure(code="error", message="a file differs from what the Hub lists")
        status = getattr(getattr(cause, "response", None), "status_code", None)
        if isinstance(status, int):
            return _by_status(status, getattr(cause.response, "headers", {}))  # type: ignore[attr-defined]
        number = cause.errno if isinstance(cause, OSError) else None
        if number in (errno.ENOSPC, errno.EDQUOT):
            return Failure(code="store_full", message="the disk is full")
        if number == errno.EFBIG:
            return Failure(code="rejected", message="a file is larger than the Hub said")
        if _is_transport(cause):
            return Failure(code="hub_unavailable", message="the Hub cannot be reached", retry_after=10)
    return Failure(code="error", message=f"the download failed ({type(error).__name__})")


def _listing(job: Job) -> Listing:
    from huggingface_hub import HfApi  # noqa: PLC0415

    # False, not None: None would silently use a token of this process.
    api = HfApi(endpoint=job.endpoint or None, token=job.token or False)
    info = api.model_info(job.repo, revision=job.revision, files_metadata=True, timeout=LIST_TIMEOUT)
    files = tuple(
        File(
            name=sibling.rfilename,
            size=sibling.size,
            sha256=sibling.lfs.sha256 if sibling.lfs else None,
            blob=sibling.blob_id,
        )
        for sibling in info.siblings or ()
    )
    return Listing(sha=info.sha or "", files=files)


def _fetch(job: Job, choice: Choice) -> None:
    from huggingface_hub import hf_hub_download  # noqa: PLC0415

    largest = max((file.size or 0 for file in choice.files), default=0) + HEADROOM
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))

    def one(file: File) -> None:
        # Not snapshot_download: when its listing fails it returns an existing folder as if all was
        # well, and it lists the whole repo a second time.
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
    shutil.rmtree(Path(job.staging, ".cache"), ignore_errors=True)  # the client's own notes


def _verify(staging: Path, choice: Choice, say: Callable[[Answer], None]) -> None:
    """Plain HTTP checks sizes only: compare every file with the hash that the Hub lists."""
    done, said = 0, time.monotonic()
    for file in choice.files:
        path = staging / file.name
        if path.is_symlink() or not path.is_file() or path.stat().st_size != file.size:
            raise MismatchError
        digest = hashlib.sha256() if file.sha256 else hashlib.sha1(b"blob %d\0" % file.size)  # noqa: S324
        with path.open("rb") as content:
            while block := content.read(BLOCK):
                digest.update(block)
                done += len(block)
                if time.monotonic() - said > 1:
                    said = time.monotonic()
                    say(Verifying(done=done))
        if digest.hexdigest() != (file.sha256 or file.blob):
            raise MismatchError


def _by_status(status: int, headers: object) -> Failure:
    if status in (401, 403):
        return Failure(code="denied", message="the Hub refuses this token")
    if status == 404:
        return Failure(code="not_found", message="the Hub knows no such model, revision or file")
    if status == 429 or status >= 500:
        given = str(headers.get("Retry-After", "")) if hasattr(headers, "get") else ""
        wait = int(given) if given.isdecimal() and len(given) < 6 else 10
        message = "the Hub asks to wait" if status == 429 else "the Hub has a failure"
        return Failure(code="hub_unavailable", message=message, retry_after=min(max(wait, 1), MAX_WAIT))
    return Failure(code="error", message=f"the Hub answered {status}")


def _is_transport(cause: BaseException) -> bool:
    import httpx2  # noqa: PLC0415  # what huggingface_hub speaks HTTP with

    return isinstance(cause, (httpx2.TransportError, ConnectionError, TimeoutError))


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = error
    for _ in range(10):
        if seen is None:
            return
        yield seen
        seen = seen.__cause__ or seen.__context__


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

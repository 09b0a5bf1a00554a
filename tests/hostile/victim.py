"""Who works while others attack: streams a few tokens again and again, and asks whether the proxy lives."""

import contextlib
import json
import socket
import statistics
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.hostile.requests import BASE, post


def stream(**more: object) -> bytes:
    """A stream of eight tokens, with these fields over it."""
    fields = {"model": BASE, "prompt": "Hello", "max_tokens": 8, "temperature": 0, "stream": True, **more}
    return post("/v1/completions", "hf_demo_bob", json.dumps(fields).encode())


# In turns: grammars have a queue of their own in an engine.
STREAMS: Final = (stream(ignore_eos=True), stream(structured_outputs={"regex": "[a-z ]+"}))
PULSE: Final = b"GET /health HTTP/1.1\r\nHost: hubgate\r\n\r\n"
PAUSE: Final = 0.1  # seconds between two streams: 600 requests a minute are allowed
BEAT: Final = 0.005  # seconds between two pulses
PATIENCE: Final = 90.0  # seconds that the victim waits for bytes


@dataclass(slots=True)
class Harm:
    """What an attack did to the victim."""

    wrong: Counter[str] = field(default_factory=Counter)  # what went wrong with requests → how often
    waits: list[float] = field(default_factory=list)  # seconds to the first token of each stream
    streams: int = 0  # that were answered in full
    first_token: float = 0.0  # seconds: the longest wait for the first token of a stream
    pulse: float = 0.0  # seconds: the longest wait for an answer of the proxy's own
    work: int = 0  # nanoseconds that the proxy's thread worked before one such answer, at most


class Victim:
    """One caller with two connections. Everything is noted to the `Harm` of the moment."""

    def __init__(self, port: int, proxy: int, streams: Sequence[bytes] = STREAMS) -> None:
        """`streams` are the requests that are sent in turns; `proxy` is the pid of the one at the port."""
        self._port = port
        self._streams = streams
        self._kinds = min(len(streams), len(STREAMS))
        self.follow(proxy)
        self._harm = Harm()
        self._stopped = threading.Event()
        self._ended = threading.Condition()
        self._begun = self._over = 0  # streams so far
        self._threads = [threading.Thread(target=one) for one in (self._stream_on, self._beat_on)]

    @contextmanager
    def working(self) -> Iterator["Victim"]:
        """Work until the context ends."""
        for thread in self._threads:
            thread.start()
        try:
            yield self
        finally:
            self._stopped.set()
            for thread in self._threads:
                thread.join()

    @contextmanager
    def watched(self) -> Iterator[Harm]:
        """Note what happens inside, until one stream of each kind that began after it has ended."""
        harm = self._harm = Harm()
        yield harm
        self._next_stream()
        self._harm = Harm()

    def follow(self, proxy: int) -> None:
        """Measure the work of this process, which is the proxy."""
        self._work = Path(f"/proc/{proxy}/task/{proxy}/schedstat")

    def usual(self, streams: int = 10) -> float:
        """Seconds to a first token when nobody else asks: the median."""
        waits = []
        for _ in range(streams):
            with self.watched() as harm:
                pass
            waits.append(harm.first_token)
        return statistics.median(waits)

    def sample(self, streams: int) -> Harm:
        """What so many streams meet that begin from now on."""
        with self.watched() as harm:
            for _ in range(0, streams, self._kinds):
                self._next_stream()
        return harm

    def _next_stream(self) -> None:
        """Wait until one of each kind, which has not begun yet, is over."""
        with self._ended:
            wanted = self._begun + self._kinds
            if not self._ended.wait_for(lambda: self._over >= wanted, 4 * PATIENCE):
                raise AssertionError("the victim's streams do not end")

    def _stream_on(self) -> None:
        while not self._stopped.wait(PAUSE):
            with self._ended:
                self._begun += 1
                harm, begun = self._harm, time.monotonic()
            try:
                fault = self._stream(harm)
            except OSError as error:
                fault = type(error).__name__
            if fault:
                harm.wrong[fault] += 1
                harm.first_token = max(harm.first_token, time.monotonic() - begun)
            else:
                harm.streams += 1
            with self._ended:
                self._over += 1
                self._ended.notify_all()

    def _stream(self, harm: Harm) -> str | None:
        """One stream on a connection of its own. Returns what was wrong with it."""
        begun, seen = time.monotonic(), b""
        with socket.create_connection(("127.0.0.1", self._port), PATIENCE) as wire:
            wire.sendall(self._streams[self._begun % len(self._streams)])
            while piece := wire.recv(65536):
                if b"data: " not in seen and b"data: " in seen + piece:
                    harm.waits.append(time.monotonic() - begun)
                    harm.first_token = max(harm.first_token, harm.waits[-1])
                seen += piece
        status = seen[9:12].decode("latin-1")
        if status != "200":
            return status or "no answer"
        return None if b"data: [DONE]" in seen else "cut"

    def _beat_on(self) -> None:
        own = Path(f"/proc/self/task/{threading.get_native_id()}/schedstat")
        while not self._stopped.is_set():
            with contextlib.suppress(OSError), self._connected() as wire:
                while not self._stopped.wait(BEAT):
                    harm, begun, work, waited = self._harm, time.monotonic(), self._worked(), _times(own)[1]
                    wire.sendall(PULSE)
                    if b" 200 " not in wire.recv(65536):
                        harm.wrong["pulse"] += 1
                        break
                    # While this thread waited for a processor, the proxy went on to work for others.
                    harm.work = max(harm.work, self._worked() - work - (_times(own)[1] - waited))
                    harm.pulse = max(harm.pulse, time.monotonic() - begun)

    @contextmanager
    def _connected(self) -> Iterator[socket.socket]:
        """A connection; its loss is noted, and so is one that cannot be had."""
        try:
            with socket.create_connection(("127.0.0.1", self._port), PATIENCE) as wire:
                yield wire
        except OSError as error:
            self._harm.wrong[f"pulse: {type(error).__name__}"] += 1
            self._stopped.wait(PAUSE)
            raise

    def _worked(self) -> int:
        """Nanoseconds that the proxy's main thread has run so far; 0 once it is gone."""
        try:
            return _times(self._work)[0]
        except OSError:
            return 0


def _times(schedstat: Path) -> tuple[int, int]:
    """Nanoseconds that a thread has run, and waited for a processor (Documentation/scheduler/sched-stats)."""
    run, waited, _ = schedstat.read_text(encoding="ascii").split()
    return int(run), int(waited)

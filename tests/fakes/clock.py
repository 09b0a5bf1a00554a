"""A clock that moves only when told to."""

START = 1_790_000_000.0  # seconds since the epoch, in 2026


class Clock:
    """Stands for `time.time` and for `time.monotonic`."""

    def __init__(self, now: float = START) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds

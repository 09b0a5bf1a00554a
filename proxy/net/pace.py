"""A least rate for whoever is waited for: a caller who sends a body, or one who takes an answer."""


class Pace:
    """How long somebody may still be waited for.

    Waiting uses up that time, and each byte that they move earns some of it back: 1 / `rate` seconds. Who
    moves fewer bytes runs out of it, however they spread them. It never is more than `most` seconds, so that
    no burst pays for a long stall.
    """

    def __init__(self, rate: float, most: float) -> None:
        """`rate` in bytes a second, `most` in seconds."""
        self.left = most  # seconds
        self._rate = rate
        self._most = most

    def waited(self, seconds: float, moved: int) -> None:
        """Count `seconds` of waiting in which so many bytes were moved."""
        self.left = min(self._most, self.left - seconds + moved / self._rate)

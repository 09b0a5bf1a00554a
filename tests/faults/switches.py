"""How a test tells its engines, which are other processes, to fail; and how they tell that they did."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Switches:
    """A file for each fault that is on, and a line in another for each time that it fired."""

    folder: Path

    @contextmanager
    def on(self, fault: str) -> Iterator[None]:
        """Let engines fail so, until the context ends."""
        switch = self.folder / fault
        switch.touch()
        try:
            yield
        finally:
            switch.unlink()

    def is_on(self, fault: str) -> bool:
        return (self.folder / fault).exists()

    def fire(self, fault: str) -> None:
        """Say that this fault is happening now."""
        with (self.folder / f"{fault}.fired").open("a", encoding="utf-8") as file:
            file.write("x")

    def fired(self, fault: str) -> int:
        """How often it happened."""
        path = self.folder / f"{fault}.fired"
        return path.stat().st_size if path.exists() else 0

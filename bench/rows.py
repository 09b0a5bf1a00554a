"""What a figure is called."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """One figure."""

    key: str
    title: str
    unit: str
    about: str
    added: bool = False
    """Whether what the same round measured without any proxy is taken off."""
    worst_of: tuple[tuple[str, "Row"], ...] = ()
    """Rows of which it is the largest, whose name is shown with it; they are measured, and it is not."""

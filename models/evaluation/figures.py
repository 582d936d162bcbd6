"""A measured number with all that it means: of what, by which network, on how many pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Figure:
    """One number. `network` names what made the features; None where pixels alone are compared."""

    part: str  # what was measured: reconstruction, samples, inpainting …
    name: str
    value: float
    pictures: int
    network: str | None = None

    def row(self) -> tuple[str, ...]:
        """Return the cells of a table."""
        return self.part, self.name, shown(self.value), str(self.pictures), self.network or "–"


HEADERS = ("part", "measure", "value", "pictures", "network")


def figures_of(part: str, values: Mapping[str, float], pictures: int, network: str | None = None) -> list[Figure]:
    """Make figures of named numbers."""
    return [Figure(part, name, value, pictures, network) for name, value in values.items()]


def as_data(figures: list[Figure]) -> list[dict[str, Any]]:
    """Return what JSON writes of figures."""
    return [asdict(figure) for figure in figures]


def shown(value: float) -> str:
    """Write a number in four digits."""
    return f"{value:.4g}"

"""What a command was asked to draw, wherever it is drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contract.base import Kind
from core.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Order:
    """A kind of task, its fields as requests have them, and where the pictures go; `files` are uploads by field."""

    kind: Kind
    fields: Mapping[str, Any]
    files: Mapping[str, Path]
    out: Path
    force: bool = False
    json: bool = False

    def read_files(self) -> dict[str, bytes]:
        """Raises ConfigurationError, of one that can't be read."""
        return {name: read_file(path) for name, path in self.files.items()}

    def by_path(self, field: str | None, detail: str) -> str:
        """Tell what is wrong with a picture by its path: fields of a request have no name on a command line."""
        return f"{self.files[field]}: {detail}" if field is not None and field in self.files else detail


def read_file(path: Path) -> bytes:
    """Raises ConfigurationError, of one that can't be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}", field="path", value=str(path)) from error

"""LATENTD_MODELS_DIR: every checkpoint in it, with a card written for those that have none."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from core.errors import CheckpointError
from models.checkpoints import native
from models.checkpoints.card import write_card
from models.checkpoints.checkpoint import fitted
from models.checkpoints.compvis.single_file import SUFFIXES
from models.checkpoints.detect import load_checkpoint, single_file
from models.checkpoints.detected import CARD, read_detected
from models.checkpoints.files.weights import understood


@dataclass(frozen=True, slots=True)
class ScannedCheckpoint:
    """A checkpoint of the directory: where its card is, whether it was written now, what to know or why it can't be."""

    path: Path
    card: Path
    written: bool = False
    notes: tuple[str, ...] = ()
    error: str | None = None


def scan(models_dir: Path) -> list[ScannedCheckpoint]:
    """List all checkpoints in order of their names. A file X.safetensors has its card in X/card.json.

    Never raises for a checkpoint: what is wrong with one is its `error`, and the others aren't touched by it.
    """
    paths = sorted(models_dir.iterdir()) if models_dir.is_dir() else []
    return [_found(path, _card(path)) for path in paths if _is_checkpoint(path)]


def _is_checkpoint(path: Path) -> bool:
    if path.is_file():
        return path.suffix in SUFFIXES
    if not path.is_dir() or path.name.startswith("."):
        return False
    indexed = any((path / name).is_file() for name in (native.INDEX, "model_index.json"))
    return indexed or any(p.suffix in SUFFIXES for p in path.iterdir())


def _card(path: Path) -> Path:
    return (path.with_suffix("") if path.is_file() else path) / CARD


def _found(path: Path, card: Path) -> ScannedCheckpoint:
    if card.is_file():
        record = read_detected(card.parent)
        return ScannedCheckpoint(path, card, notes=record.notes if record is not None else ())
    try:
        with understood(path):
            checkpoint = load_checkpoint(path)
            fitted(checkpoint)  # a card promises that the model can be served
            write_card(checkpoint, single_file(path) or path, card.parent, card.parent.name)
    except CheckpointError as error:
        return ScannedCheckpoint(path, card, error=error.detail)
    return ScannedCheckpoint(path, card, written=True, notes=checkpoint.assumptions)

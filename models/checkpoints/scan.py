"""LATENTD_MODELS_DIR: every checkpoint in it, with a card written for those that have none or were replaced."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from contract.card import CARD, closed_folders, model_folders
from core.errors import CheckpointError
from models.checkpoints.card import (
    NO_TOKENIZER,
    card_folder,
    checkpoint_id,
    id_of,
    is_mute,
    notes_of,
    weight_files,
    write_card,
)
from models.checkpoints.checkpoint import fitted
from models.checkpoints.files.weights import companion, is_weights, understood
from models.checkpoints.layouts.detect import is_indexed, load_checkpoint, preferred, single_file
from models.checkpoints.layouts.detected import is_of, read_detected, user_set
from models.checkpoints.layouts.taesd import MARK as TAESD_MARK
from models.checkpoints.layouts.vae import COMPANIONS, is_companion, vae_of
from models.checkpoints.layouts.vae import MARK as VAE_MARK


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

    Never raises for a checkpoint: what is wrong with one is its `error`, and the others aren't touched by it. Folders
    that can't be looked into, those of add-ons too, are listed so.
    """
    paths = sorted(_checkpoints(models_dir))
    taken = _ids_in_use(paths)
    scanned = (_scanned(path, models_dir, taken) for path in paths)
    return [*scanned, *_lone_companions(models_dir, paths), *_closed(models_dir)]


def _closed(models_dir: Path) -> list[ScannedCheckpoint]:
    closed = closed_folders(models_dir)
    said = "may not be read by the user of this process; what is in it is left out"
    return [ScannedCheckpoint(folder, folder / CARD, error=f"{folder} {said}") for folder in closed]


def _lone_companions(models_dir: Path, paths: Iterable[Path]) -> list[ScannedCheckpoint]:
    """Name VAEs and decoders of previews beside models that none of these takes."""
    files = [file for folder in model_folders(models_dir) for file in sorted(folder.iterdir())]
    taken = {file for path in paths for file in _companions(path)}
    return [
        ScannedCheckpoint(
            file,
            file.with_suffix("") / CARD,
            error=f"{file}: {COMPANIONS[Path(file.stem).suffix.lower()]} that no model beside it takes",
        )
        for file in files
        if is_companion(file) and is_weights(file) and file not in taken
    ]


def _companions(path: Path) -> Iterator[Path | None]:
    """Yield what a checkpoint takes by its name, and the VAE that its card names."""
    folder, single = card_folder(path), single_file(path)
    yield companion(folder, TAESD_MARK)
    yield companion(single.with_suffix(""), VAE_MARK) if single is not None else None
    with suppress(CheckpointError):  # it is told of the checkpoint
        yield vae_of(folder, single)


def _checkpoints(models_dir: Path) -> Iterator[Path]:
    """Find folders that say what they hold, folders of one file, and the files of all others."""
    indexed: list[Path] = []
    for folder in model_folders(models_dir):
        if any(folder.is_relative_to(other) for other in indexed):
            continue
        if folder != models_dir and is_indexed(folder):
            indexed.append(folder)
            yield folder
            continue
        own = single_file(folder) if folder != models_dir else None
        files = preferred(folder.iterdir())
        if own in files:
            yield folder
        yield from (file for file in files if file != own)


def _ids_in_use(paths: list[Path]) -> dict[str, Path]:
    """Whose card has an id: the first one's."""
    taken: dict[str, Path] = {}
    for path in paths:
        if (card_folder(path) / CARD).is_file():
            with suppress(CheckpointError):  # a card that doesn't read is named where cards are read
                taken.setdefault(checkpoint_id(path), path)
    return taken


def _scanned(path: Path, models_dir: Path, taken: dict[str, Path]) -> ScannedCheckpoint:
    folder = card_folder(path)
    card = folder / CARD
    if path.is_file() and folder.is_dir() and (is_indexed(folder) or preferred(folder.iterdir())):
        return ScannedCheckpoint(path, card, error=f"{path}: {folder} is a checkpoint of the same name; rename one")
    try:
        found = _renewed(path, card, models_dir, taken)
    except CheckpointError as error:
        return ScannedCheckpoint(path, card, error=error.detail)
    return replace(found, notes=(*found.notes, *_left_out(path)))


def _renewed(path: Path, card: Path, models_dir: Path, taken: dict[str, Path]) -> ScannedCheckpoint:
    record = read_detected(card.parent)
    model_id = next((name for name, owner in taken.items() if owner == path), None)
    if card.is_file() and record is None:
        return ScannedCheckpoint(path, card)  # somebody else's
    if model_id is not None and record is not None and is_of(record, weight_files(path), card.parent):
        return ScannedCheckpoint(path, card, notes=record.notes)
    kept = user_set(card.parent)
    model_id = model_id or id_of(_name(path, models_dir), taken)
    taken[model_id] = path
    with understood(path):
        checkpoint = load_checkpoint(path, data=False)
        fitted(checkpoint)  # a card promises that the model can be served
        if is_mute(checkpoint):
            raise CheckpointError(NO_TOKENIZER, field="tokenizer")
        write_card(checkpoint, path, card.parent, model_id, kept)
    return ScannedCheckpoint(path, card, written=True, notes=notes_of(checkpoint))


def _name(path: Path, models_dir: Path) -> str:
    return card_folder(path).relative_to(models_dir).as_posix()


def _left_out(path: Path) -> tuple[str, ...]:
    """Name the files of the same stem that are there too."""
    served = single_file(path)
    beside = sorted(served.parent.glob("*")) if served is not None else []
    others = [file for file in beside if is_weights(file) and served is not None and file.stem == served.stem]
    return tuple(f"{file.name} beside {served.name} is not served" for file in others if served and file != served)

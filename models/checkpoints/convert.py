"""Checkpoints of any known layout into the internal form or a diffusers folder, weights in the precision they have."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Literal, TypeAlias

from core.errors import CheckpointError
from models.checkpoints.card import card_folder, default_card, write_card
from models.checkpoints.layouts.detect import load_checkpoint
from models.checkpoints.layouts.detected import user_set
from models.checkpoints.layouts.diffusers.writer import save_diffusers
from models.checkpoints.layouts.native import save_native
from models.checkpoints.load import load_decided

Target: TypeAlias = Literal["native", "diffusers"]


def convert(path: Path, out: Path, to: Target) -> Path:
    """Write `path` as a new folder `out`, with its card or a new one. Returns `out`.

    Nothing is left behind if it fails.

    Raises:
        CheckpointError: `out` exists and isn't empty, the checkpoint doesn't read, or diffusers can't express it.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise CheckpointError(f"{out}: exists; choose a new folder", field="out", value=str(out))
    checkpoint = load_decided(path)  # for the new folder will say what it predicts
    unfinished = out.with_name(f".{out.name}.unfinished")
    try:
        (save_native if to == "native" else save_diffusers)(checkpoint, unfinished)
        # The card is that of the new folder, whose files don't say what defaults suit the model: those are kept.
        kept = {"defaults": default_card(checkpoint, out.name, "")["defaults"], **_kept(path)}
        write_card(load_checkpoint(unfinished, data=False), unfinished, unfinished, out.name, kept)
        if out.exists():
            out.rmdir()
        unfinished.rename(out)
    except OSError as error:
        raise CheckpointError(f"{out}: can't be written ({error})") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return out


def _kept(path: Path) -> dict[str, Any]:
    """Read what people have set in the source's card; the new one has its own id and hash, its VAE is its own part."""
    own = ("id", "hash", "tokenizer", "vae", "preview_decoder")
    return {key: value for key, value in user_set(card_folder(path)).items() if key not in own}

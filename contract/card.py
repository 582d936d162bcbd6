"""Model cards: what a checkpoint can do, and what a request that doesn't say gets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import Field

from contract.base import Kind, Wire

CARD = "card.json"
# Folders of LATENTD_MODELS_DIR that hold no models; kept for what they will hold.
RESERVED = frozenset(("lora", "loras", "embeddings", "controlnet", "vae"))
DEPTH = 4  # of folders in folders


class CardDefaults(Wire):
    """What a request of this model gets where it says nothing."""

    steps: int
    sampler: str
    guidance_scale: float = 1.0
    eta: float = 0.0
    strength: float = 1.0
    img2img_strength: float = 0.75
    noise_level: int | None = None
    # null: no prompt at all, which the model was trained with and which isn't the empty one.
    negative_prompt: str | None = Field(default="", exclude_if=lambda text: text == "")

    def strength_of(self, kind: Kind) -> float:
        """Return the strength that a request of this kind gets."""
        return self.img2img_strength if kind == "img2img" else self.strength


class ModelCard(Wire):
    """`card.json` beside each checkpoint; workers publish it to Redis, the gateway resolves requests by it."""

    id: str = Field(pattern=r"^[A-Za-z0-9_-]+$")
    description: str
    hash: str = Field(description="SHA-256 over the weight files, in order of their names.")
    tasks: tuple[Kind, ...]
    native_size: int = Field(description="Width and height of the training pictures, in pixels.")
    latent_factor: int = Field(description="Pixels of the decoded picture per latent pixel, f.")
    scale: int = Field(default=1, description="How many times larger than its input an upscaler's answer is.")
    defaults: CardDefaults
    fields: tuple[str, ...] = Field(description="Request fields that this model uses.")
    prediction_type: Literal["eps", "v", "x0"]
    samplers: tuple[str, ...]
    token_window: int | None = Field(default=None, description="Tokens of a prompt that are read, specials included.")
    tokenizer: str | None = Field(default=None, description="tokenizer.json, relative to the card.")
    classes: int | None = Field(default=None, description="class_id is below it.")
    class_names: tuple[str, ...] | None = Field(default=None, description="Names by class_id, for `label`.")
    map_classes: int | None = Field(default=None, description="Pixels of a label map are below it.")
    noise_levels: int | None = Field(default=None, description="noise_level is below it.")
    licence: str
    attribution: tuple[str, ...] = ()


def model_folders(models_dir: Path, depth: int = DEPTH) -> Iterator[Path]:
    """Yield a models directory and the folders below it, in order of their names, but for hidden and reserved ones."""
    if not models_dir.is_dir():
        return
    yield models_dir
    for entry in sorted(models_dir.iterdir()) if depth else ():
        if not entry.name.startswith(".") and entry.name.lower() not in RESERVED and entry.is_dir():
            yield from model_folders(entry, depth - 1)


def card_files(models_dir: Path) -> list[Path]:
    """List the cards below a models directory; what isn't a regular file is none."""
    folders = (folder for folder in model_folders(models_dir) if folder != models_dir)
    return [folder / CARD for folder in folders if (folder / CARD).is_file()]

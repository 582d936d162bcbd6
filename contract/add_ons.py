"""What a job adds to its model, as it was resolved: LoRAs, ControlNets and embeddings, each by its file's hash."""

from __future__ import annotations

from typing import Literal, TypeAlias

from pydantic import Field

from contract.base import Wire
from contract.uploads import Upload

Preprocess: TypeAlias = Literal["canny"]
# What a row of a ControlNet costs, in rows of its UNet: by arithmetic 0.33 of Stable Diffusion 1 and 2, 0.44 of XL.
CONTROL_ROW = 0.4


class AppliedLora(Wire):
    """A LoRA of a job: the file with this hash, by whatever name, times `scale`."""

    id: str
    scale: float
    hash: str


class AppliedControl(Wire):
    """A ControlNet of a job: the file with this hash, what it reads, how much of it, and between which parts of the
    steps. `preprocess` canny: its map is drawn from the picture; null: the picture is the map.
    """

    id: str
    image: Upload
    scale: float = 1.0
    start: float = 0.0
    end: float = 1.0
    preprocess: Preprocess | None = Field(default=None, exclude_if=lambda preprocess: preprocess is None)
    hash: str


class AppliedEmbedding(Wire):
    """An embedding that a prompt names, in any case: the file with this hash."""

    name: str
    hash: str

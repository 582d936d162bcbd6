"""What workers measure: rates that waits are predicted by, and the step-time table of the planner."""

from __future__ import annotations

from pydantic import Field

from contract.base import Kind, Wire


class Rates(Wire):
    """Seconds that a model's workers measured; the gateway predicts waits by them."""

    row_s: float = Field(description="One row's share of a full UNet call.")
    step_s: float = Field(description="One UNet call with a single image's rows.")
    image_s: float = Field(description="Decoding one image, encoding its file and storing it.")


class ShapeTimes(Wire):
    """Seconds that a worker needs for latents of one shape (c, h, w)."""

    shape: tuple[int, int, int]
    calls: dict[int, float] = Field(description="Rows of a UNet call, fillers included, and its seconds.")
    encode_s: dict[Kind, float] = Field(description="Prompts and pictures of one job, by its kind.")
    decode_s: float | None = Field(description="Decoding one image.")


class StepTimes(Wire):
    """A model's step-time table: what `latentd plan` simulates with."""

    model: str
    latent_factor: int
    shapes: tuple[ShapeTimes, ...]
    store_s: float | None = Field(default=None, description="Encoding a file and storing it, beside the GPU.")
    round_s: float | None = Field(default=None, description="A round of the worker's loop beside its computing.")
    move_s: float | None = Field(default=None, description="What one claimed or ended job adds to a round.")

"""What the builder of the emoji set is told."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from models.training.configs.base import Strict

Style = Literal["flat", "3d", "noto", "blob", "twemoji", "fluent", "emojione", "firefox", "icon"]


class EmojiConfig(Strict):
    """Open emoji artwork, from the npm packages that hold it, as a folder of pictures with captions."""

    out: Path
    styles: dict[Style, float] = Field(min_length=1)  # its share of what is drawn
    late_styles: dict[Style, float] = Field(default_factory=dict)  # the same, in the column weight_late
    named: bool = True  # only what a picture alone names
    plain: Style = "flat"  # the style that a caption which names none means
    captions: int = Field(default=10, ge=1)  # drawn for each picture
    short_names: float = Field(default=4.0, gt=0)  # how much more names of one word weigh in weight_late
    size: int = Field(default=256, ge=16, le=1024)
    seed: int = 7

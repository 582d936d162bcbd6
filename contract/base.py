"""What every message has in common, and the version that a worker must share to run a job."""

from __future__ import annotations

from typing import Literal, TypeAlias

from pydantic import BaseModel, ConfigDict

CONTRACT_VERSION = 1
Kind: TypeAlias = Literal["txt2img", "inpaint", "upscale", "img2img", "class2img", "semantic2img"]


class Wire(BaseModel):
    """Base of all that travels: unknown fields are refused, values don't change."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def to_json(self) -> str:
        """JSON that validates again: without computed fields."""
        return self.model_dump_json(round_trip=True)

"""What every reader of checkpoints returns."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from models.config import ModelConfig
from models.tokenizer import PromptTokenizer


@dataclass(frozen=True, slots=True)
class Loaded:
    """Config, weights under our names by part (unet, first_stage, conditioner), the tokenizer if there is one."""

    config: ModelConfig
    states: dict[str, dict[str, Tensor]]
    tokenizer: PromptTokenizer | None = None
    assumptions: tuple[str, ...] = ()  # what the files don't say and a family's habit filled in

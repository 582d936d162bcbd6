"""Prompts to token numbers by a checkpoint's own tokenizer file, padded to the encoder's window."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

from latentd.errors import CheckpointError


@dataclass(frozen=True, slots=True)
class PromptTokenizer:
    """`tokenizers` with truncation and padding to `window`."""

    tokenizer: Tokenizer
    window: int

    def __call__(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Token numbers and attention mask, both b n (int64); longer prompts lose their end."""
        encodings = self.tokenizer.encode_batch(list(prompts))
        ids = torch.tensor([e.ids for e in encodings], dtype=torch.int64)  # b n
        mask = torch.tensor([e.attention_mask for e in encodings], dtype=torch.int64)  # b n
        return ids, mask


def load_tokenizer(folder: Path, positions: int) -> PromptTokenizer:
    """From a tokenizer folder in the transformers layout; `positions` bounds the window.

    Raises CheckpointError if the folder has no tokenizer.json or its padding token is not in the vocabulary.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; prompts can't be tokenized")
    config = _json(folder / "tokenizer_config.json")
    window = min(int(config.get("model_max_length", positions)), positions)
    pad = _token(config.get("pad_token") or _json(folder / "special_tokens_map.json").get("pad_token") or "[PAD]")
    return padded(Tokenizer.from_file(str(path)), window, pad)


def padded(tokenizer: Tokenizer, window: int, pad: str) -> PromptTokenizer:
    """Set truncation and padding. Raises CheckpointError if `pad` is not a token."""
    pad_id = tokenizer.token_to_id(pad)
    if pad_id is None:
        raise CheckpointError(f"padding token {pad!r} is not in the tokenizer's vocabulary")
    tokenizer.enable_truncation(window)
    tokenizer.enable_padding(length=window, pad_id=pad_id, pad_token=pad)
    return PromptTokenizer(tokenizer, window)


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text("utf-8")) if path.is_file() else {}


def _token(value: str | dict[str, Any]) -> str:
    """Special tokens are strings or {"content": …}."""
    return value if isinstance(value, str) else str(value["content"])

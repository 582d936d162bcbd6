"""Token counts of prompts, by the `tokenizers` package alone: how many there are and which text a model won't read."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from pydantic import BaseModel
from tokenizers import Tokenizer

from contract.card import ModelCard


class Tokens(BaseModel):
    """A prompt's tokens, specials included, and the end of it that the model's window cuts."""

    count: int | None
    cut: str | None = None


@lru_cache(maxsize=32)
def _tokenizer(path: Path, changed: int) -> Tokenizer:  # noqa: ARG001 (a new file, a new entry)
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def count_tokens(card: ModelCard, folder: Path | None, prompt: str) -> Tokens:
    """Count `prompt` as `card`'s model reads it; `count` is None where the gateway has no tokenizer in its folder."""
    if card.token_window is None or card.tokenizer is None or folder is None:
        return Tokens(count=None)
    path = folder / card.tokenizer
    if ".." in Path(card.tokenizer).parts or not path.is_relative_to(folder) or not path.is_file():
        return Tokens(count=None)
    tokenizer = _tokenizer(path, path.stat().st_mtime_ns)
    specials = tokenizer.num_special_tokens_to_add(is_pair=False)
    offsets = tokenizer.encode(prompt, add_special_tokens=False).offsets
    kept = max(card.token_window - specials, 0)
    cut = prompt[offsets[kept][0] :].strip() if len(offsets) > kept else None
    return Tokens(count=len(offsets) + specials, cut=cut)

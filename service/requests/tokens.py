"""Token counts of prompts, by the `tokenizers` package alone: how many there are and which text a model won't read."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from stat import S_ISREG

from pydantic import BaseModel
from tokenizers import Tokenizer

from contract.card import ModelCard


class Tokens(BaseModel):
    """A prompt's tokens, specials included, and the end of it that the model's window cuts."""

    count: int | None
    cut: str | None = None


@dataclass(frozen=True, slots=True)
class _Counter:
    tokenizer: Tokenizer
    specials: int


@lru_cache(maxsize=32)
def _counter(path: Path, changed: int) -> _Counter:  # noqa: ARG001 (a new file, a new entry)
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return _Counter(tokenizer, tokenizer.num_special_tokens_to_add(is_pair=False))


@lru_cache(maxsize=256)
def _place(folder: Path, name: str) -> Path | None:
    """Return where a card's tokenizer is; None for one that isn't in the card's folder."""
    path = folder / name
    return None if ".." in Path(name).parts or not path.is_relative_to(folder) else path


def _read(card: ModelCard, folder: Path | None) -> _Counter | None:
    path = None if folder is None or card.tokenizer is None else _place(folder, card.tokenizer)
    try:
        found = None if path is None else path.stat()
    except OSError:
        return None
    return None if path is None or found is None or not S_ISREG(found.st_mode) else _counter(path, found.st_mtime_ns)


def count_tokens(card: ModelCard, folder: Path | None, prompt: str) -> Tokens:
    """Count `prompt` as `card`'s model reads it; `count` is None where the gateway has no tokenizer in its folder."""
    counter = None if card.token_window is None else _read(card, folder)
    if counter is None or card.token_window is None:
        return Tokens(count=None)
    offsets = counter.tokenizer.encode(prompt, add_special_tokens=False).offsets
    kept = max(card.token_window - counter.specials, 0)
    cut = prompt[offsets[kept][0] :].strip() if len(offsets) > kept else None
    return Tokens(count=len(offsets) + counter.specials, cut=cut)

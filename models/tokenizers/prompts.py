"""Prompts to token numbers by a checkpoint's own tokenizer files, padded to the encoder's window."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer
from torch import Tensor

import models
from core.errors import CheckpointError
from models.tokenizers.vocabularies import CLIP_END, read_bert, read_clip

TOKENIZERS = ("tokenizer", "tokenizer_2")  # folders of a checkpoint, by tower
PACKAGE = Path(models.__file__).parent
CLIP_FILE = PACKAGE / "tokenizers" / "clip" / "tokenizer.json"
CONFIG, MAP = "tokenizer_config.json", "special_tokens_map.json"
BERT_FILE = PACKAGE / "tokenizers" / "bert" / "tokenizer.json"  # bert-base-uncased's vocabulary


@dataclass(frozen=True)
class PromptTokenizer:
    """`tokenizers` with truncation and padding to `window`."""

    tokenizer: Tokenizer
    window: int
    bare: Tokenizer | None = None  # where padding tokens are special, the one in which they are text like any other

    def __call__(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return token numbers and attention mask, both b n (int64); longer prompts lose their end."""
        encodings = self.tokenizer.encode_batch(list(prompts))
        ids = torch.tensor([e.ids for e in encodings], dtype=torch.int64)  # b n
        mask = torch.tensor([e.attention_mask for e in encodings], dtype=torch.int64)  # b n
        return ids, mask

    def pieces(self, text: str) -> list[tuple[int, str]]:
        """Return the tokens of a part of a prompt, however many, each with its text from the end of the one before."""
        return _pieces(self._whole, text)

    def bare_pieces(self, text: str) -> list[tuple[int, str]]:
        """As `pieces`, as AUTOMATIC1111 reads it: the padding token within a prompt is text."""
        return _pieces(self._whole if self.bare is None else self.bare, text)

    def framed(self, numbers: Sequence[int]) -> list[int]:
        """Put up to window - 2 tokens between start and end, and pad."""
        start, end, *padding = self.tokenizer.encode("").ids
        return [start, *numbers, end, *padding[len(numbers) :]]

    @cached_property
    def _whole(self) -> Tokenizer:
        return _unbounded(self.tokenizer)


def load_tokenizer(folder: Path, positions: int) -> PromptTokenizer:
    """Read a tokenizer folder in the transformers layout; `positions` bounds the window.

    Raises:
        CheckpointError: the folder has no tokenizer, or its padding token is not in the vocabulary.
    """
    config = _json(folder / CONFIG)
    tokenizer = _read(folder)
    _add(tokenizer, folder, config)
    # Configs without a limit hold a huge number instead.
    window = min(int(config.get("model_max_length") or positions), positions)
    # As transformers does: where the config lists no tokens, the map beside it says more (SD 2's two disagree).
    pads = [config.get("pad_token"), _json(folder / MAP).get("pad_token")]
    pads = pads if "added_tokens_decoder" in config else pads[::-1]
    default = CLIP_END if tokenizer.token_to_id(CLIP_END) is not None else "[PAD]"
    return padded(tokenizer, window, _token(pads[0] or pads[1] or default))


def load_vocabulary(vocab_txt: Path, window: int) -> PromptTokenizer:
    """Read the vocab.txt of a BERT.

    Raises:
        CheckpointError: as `load_tokenizer` does.
    """
    return padded(read_bert(vocab_txt), window, "[PAD]")


def shipped_clip(window: int, pad: str) -> PromptTokenizer:
    """Read CLIP's 49,408 tokens; SD 1 pads with the end token, SD 2 and SDXL's second tower with token 0, "!"."""
    return padded(Tokenizer.from_file(str(CLIP_FILE)), window, pad)


def shipped_bert(window: int) -> PromptTokenizer:
    """Read bert-base-uncased's 30,522 tokens."""
    return padded(Tokenizer.from_file(str(BERT_FILE)), window, "[PAD]")


def save_tokenizer(tokenizer: PromptTokenizer, folder: Path, cls: str | None = None) -> None:
    """Write tokenizer.json, and window and padding token beside it, as transformers lays them out; with a class, too,
    the vocabulary in the files that classes of its 4.x read."""
    folder.mkdir(parents=True, exist_ok=True)
    pad = (tokenizer.tokenizer.padding or {}).get("pad_token", "[PAD]")
    config = {"model_max_length": tokenizer.window, "pad_token": pad}
    if cls is not None:
        config["tokenizer_class"] = cls
        tokenizer.tokenizer.model.save(str(folder))
    _unbounded(tokenizer.bare or tokenizer.tokenizer).save(str(folder / "tokenizer.json"))
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", "utf-8")
    if (folder / MAP).is_file():  # of whoever was there before; it would be believed
        (folder / MAP).write_text(json.dumps(_json(folder / MAP) | {"pad_token": pad}, indent=2) + "\n", "utf-8")


def padded(tokenizer: Tokenizer, window: int, pad: str) -> PromptTokenizer:
    """Set truncation and padding. The padding token within a prompt is that token, too.

    So transformers reads it: with SD 2's and SDXL's second tokenizer "night!" is night and the padding, token 0.

    Raises:
        CheckpointError: `pad` is not a token.
    """
    pad_id = tokenizer.token_to_id(pad)
    if pad_id is None:
        raise CheckpointError(f"padding token {pad!r} is not in the tokenizer's vocabulary")
    bare = None
    if pad not in (token.content for token in tokenizer.get_added_tokens_decoder().values()):
        bare = _unbounded(tokenizer)
        tokenizer.add_special_tokens([pad])
    tokenizer.enable_truncation(window)
    tokenizer.enable_padding(length=window, pad_id=pad_id, pad_token=pad)
    return PromptTokenizer(tokenizer, window, bare)


def _pieces(tokenizer: Tokenizer, text: str) -> list[tuple[int, str]]:
    encoding = tokenizer.encode(text, add_special_tokens=False)
    ends = [end for _, end in encoding.offsets]
    return [(number, text[a:b]) for number, a, b in zip(encoding.ids, [0, *ends], ends, strict=False)]


def _unbounded(tokenizer: Tokenizer) -> Tokenizer:
    whole = Tokenizer.from_str(tokenizer.to_str())
    whole.no_truncation()
    whole.no_padding()
    return whole


def _read(folder: Path) -> Tokenizer:
    try:
        if (folder / "tokenizer.json").is_file():
            return Tokenizer.from_file(str(folder / "tokenizer.json"))
        if (folder / "vocab.json").is_file():
            return read_clip(folder / "vocab.json", folder / "merges.txt")
        return read_bert(folder / "vocab.txt")
    except CheckpointError:
        raise
    except Exception as error:  # tokenizers raises bare Exception for files that it can't parse
        raise CheckpointError(f"{folder}: no readable tokenizer.json, vocab.json or vocab.txt ({error})") from error


def _add(tokenizer: Tokenizer, folder: Path, config: Mapping[str, Any]) -> None:
    """Add the tokens that a fine-tuning brought, as transformers keeps them beside the vocabulary.

    Raises:
        CheckpointError: one has a number that leaves others out.
    """
    listed = config.get("added_tokens_decoder", {})
    added = {str(token["content"]): int(number) for number, token in listed.items()}
    added |= {token: int(number) for token, number in _json(folder / "added_tokens.json").items()}
    for token, number in sorted(added.items(), key=lambda item: item[1]):
        if tokenizer.token_to_id(token) is None:
            tokenizer.add_tokens([AddedToken(token, normalized=False)])
        if (got := tokenizer.token_to_id(token)) != number:
            raise CheckpointError(f"{folder}: the added token {token!r} has number {number}, not {got}, the next one")


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text("utf-8-sig")) if path.is_file() else {}


def _token(value: str | dict[str, Any]) -> str:
    """Read a special token, which is a string or {"content": …}."""
    return value if isinstance(value, str) else str(value["content"])

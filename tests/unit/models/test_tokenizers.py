"""Tokenizer folders: which token pads, what it is within a prompt, and that a folder written is the one read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import CLIPTokenizer

from models.tokenizers.prompts import (
    CLIP_FILE,
    PromptTokenizer,
    load_tokenizer,
    save_tokenizer,
    shipped_bert,
    shipped_clip,
)
from models.tokenizers.vocabularies import CLIP_END
from service.requests.tokens import count_chunks, count_tokens
from tests.gateway import PAINTER

PROMPTS = ("a cat at night!", "wow!!! night!", "")
WINDOW = 77


def write_clip(folder: Path, config_pad: str, map_pad: str, **more: Any) -> Path:
    """CLIP's vocabulary in three files as SD 2's folders have it, whose two padding tokens disagree."""
    model = json.loads(CLIP_FILE.read_text("utf-8"))["model"]
    merges = "\n".join(pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"])
    special = {"bos_token": "<|startoftext|>", "eos_token": CLIP_END, "unk_token": CLIP_END}
    config = {"model_max_length": WINDOW, "tokenizer_class": "CLIPTokenizer", "pad_token": config_pad, **special}
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]), "utf-8")
    (folder / "merges.txt").write_text(f"#version: 0.2\n{merges}\n", "utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(config | more), "utf-8")
    (folder / "special_tokens_map.json").write_text(json.dumps(special | {"pad_token": map_pad}), "utf-8")
    return folder


@pytest.mark.parametrize(
    ("config_pad", "map_pad"), [(CLIP_END, "!"), ("!", "!"), (CLIP_END, CLIP_END), ("!", CLIP_END)]
)
@pytest.mark.parametrize("lists_tokens", [False, True])
def test_folders_are_read_as_transformers_does(
    tmp_path: Path, config_pad: str, map_pad: str, lists_tokens: bool
) -> None:
    tokens = {"49406": {"content": "<|startoftext|>", "special": True}, "49407": {"content": CLIP_END, "special": True}}
    folder = write_clip(tmp_path, config_pad, map_pad, **({"added_tokens_decoder": tokens} if lists_tokens else {}))
    theirs = CLIPTokenizer.from_pretrained(str(folder))
    expected = theirs(list(PROMPTS), padding="max_length", max_length=WINDOW, truncation=True)
    ids, _ = load_tokenizer(folder, WINDOW)(PROMPTS)
    assert ids.tolist() == expected["input_ids"]


@pytest.mark.parametrize("pad", ["!", CLIP_END])
@pytest.mark.parametrize("there", [None, "!", CLIP_END])
def test_a_folder_that_was_written_is_read_as_it_was(tmp_path: Path, pad: str, there: str | None) -> None:
    """In both readings, as transformers and as AUTOMATIC1111 (the padding token is text); over other files, too."""
    tokenizer = shipped_clip(WINDOW, pad)
    if there is not None:
        write_clip(tmp_path, there, there)
    save_tokenizer(tokenizer, tmp_path)
    again = load_tokenizer(tmp_path, WINDOW)
    assert again(PROMPTS)[0].tolist() == tokenizer(PROMPTS)[0].tolist()
    for text in PROMPTS:
        assert again.pieces(text) == tokenizer.pieces(text)
        assert again.bare_pieces(text) == tokenizer.bare_pieces(text)


@pytest.mark.parametrize(
    ("tokenizer", "cls"), [(shipped_clip(WINDOW, "!"), "CLIPTokenizer"), (shipped_bert(WINDOW), "BertTokenizer")]
)
def test_a_named_class_finds_its_own_files(tmp_path: Path, tokenizer: PromptTokenizer, cls: str) -> None:
    """Those of transformers 4.x, as diffusers' folders name them, don't read tokenizer.json."""
    save_tokenizer(tokenizer, tmp_path, cls)
    (tmp_path / "tokenizer.json").unlink()
    assert load_tokenizer(tmp_path, WINDOW)(PROMPTS)[0].tolist() == tokenizer(PROMPTS)[0].tolist()


@pytest.mark.parametrize("pad", ["!", CLIP_END])
def test_the_gateway_counts_what_the_engine_reads(tmp_path: Path, pad: str) -> None:
    """A run of the padding token is one token or many, by the syntax; so what is cut differs, too."""
    tokenizer = shipped_clip(WINDOW, pad)
    save_tokenizer(tokenizer, tmp_path / "tokenizer")
    told = {"tokenizer": "tokenizer/tokenizer.json", "token_window": WINDOW}
    card = PAINTER.model_copy(update=told)
    for prompt in (*PROMPTS, "big sale " + "!" * 90 + " a red heart"):
        assert count_tokens(card, tmp_path, prompt).count == len(tokenizer.pieces(prompt)) + 2
        weighted = count_chunks(card, tmp_path, prompt, "weighted", {})
        assert sum(part.tokens for part in (weighted.chunks or [[]])[0]) == len(tokenizer.bare_pieces(prompt))
    assert (count_tokens(card, tmp_path, prompt).cut is not None) == (pad == "!")

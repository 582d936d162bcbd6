"""Tokenizers made from bare vocabularies, for checkpoints that bring no tokenizer.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from core.errors import CheckpointError

CLIP_START, CLIP_END = "<|startoftext|>", "<|endoftext|>"
# Contractions, words, single digits, runs of other signs: how CLIP splits text before its byte pairs (Radford 2021).
CLIP_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def bert_tokenizer(vocabulary: Mapping[str, int]) -> Tokenizer:
    """Make a lower-casing WordPiece with [CLS] … [SEP].

    Raises:
        CheckpointError: a special token is missing.
    """
    for token in ("[PAD]", "[UNK]", "[CLS]", "[SEP]"):
        if token not in vocabulary:
            raise CheckpointError(f"vocabulary lacks {token}; not one of BERT's")
    tokenizer = Tokenizer(models.WordPiece(dict(vocabulary), unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    specials = [(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=specials)
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens([t for t in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]") if t in vocabulary])
    return tokenizer


def read_bert(vocab_txt: Path) -> Tokenizer:
    """Read a vocab.txt, one token a line."""
    lines = vocab_txt.read_text("utf-8").splitlines()
    return bert_tokenizer({token: i for i, token in enumerate(lines)})


def clip_tokenizer(vocabulary: Mapping[str, int], merges: list[tuple[str, str]]) -> Tokenizer:
    """Make lower-casing byte pairs with word ends marked </w>, between start and end tokens.

    Raises:
        CheckpointError: a special token is missing.
    """
    for token in (CLIP_START, CLIP_END):
        if token not in vocabulary:
            raise CheckpointError(f"vocabulary lacks {token}; not one of CLIP's")
    pairs = models.BPE(dict(vocabulary), merges, end_of_word_suffix="</w>", unk_token=CLIP_END)
    tokenizer = Tokenizer(pairs)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    words = pre_tokenizers.Split(Regex(CLIP_WORDS), behavior="removed", invert=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    start, end = (CLIP_START, vocabulary[CLIP_START]), (CLIP_END, vocabulary[CLIP_END])
    tokenizer.post_processor = processors.RobertaProcessing(end, start, trim_offsets=False, add_prefix_space=False)
    tokenizer.decoder = decoders.BPEDecoder(suffix="</w>")
    tokenizer.add_special_tokens([CLIP_START, CLIP_END])
    return tokenizer


def read_clip(vocab_json: Path, merges_txt: Path) -> Tokenizer:
    """Read the vocab.json and merges.txt of old folders."""
    vocabulary = json.loads(vocab_json.read_text("utf-8"))
    lines = [line for line in merges_txt.read_text("utf-8").splitlines() if line and not line.startswith("#version")]
    pairs = [tuple(line.split(" ", 1)) for line in lines]
    return clip_tokenizer(vocabulary, [(a, b) for a, b in pairs])

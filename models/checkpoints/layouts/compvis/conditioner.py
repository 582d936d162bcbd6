"""Conditioners in CompVis's and Stability's key layouts, told apart by their keys."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from core.errors import CheckpointError
from models.checkpoints.build import State
from models.checkpoints.files.rename import (
    CLIP,
    CLIP_IGNORED,
    COMPVIS_BERT,
    COMPVIS_BERT_IGNORED,
    OPEN_CLIP,
    OPEN_CLIP_IGNORED,
    OPEN_CLIP_POOLED_IGNORED,
    below,
    renamed,
)
from models.checkpoints.towers import together
from models.networks.conditioning import ClassConfig, Conditioner, RescalerConfig, TowerConfig

Params = Mapping[str, Any]
CLIP_KEYS = ("transformer.text_model.", "transformer.embeddings.")  # the second in NAI and what was merged with it
BERT_HEADS, BERT_HEAD_DIM = 8, 64  # of x-transformers, whatever the width
CLIP_HEAD_DIM = 64  # of every published CLIP text tower
CUT_LAYERS = 23  # of ViT-H's 24: files converted from diffusers lack the one that isn't read
CLIP_LAYERS = "text_model.encoder.layers."


def read_conditioner(
    state: Mapping[str, Tensor], params: Params, stages: int, heads: int | None
) -> tuple[Conditioner, State] | None:
    """Read config and weights under our names, from keys without `cond_stage_model.`; None: nothing conditions.

    `params` is cond_stage_config.params; `stages` is used for a rescaler whose params don't count its halvings;
    `heads` is the text tower's number of heads where it isn't its width / 64.

    Raises:
        CheckpointError: the keys are of no known kind.
    """
    if "transformer.token_emb.weight" in state:
        return together([_bert(below(state, "transformer."))])
    if any(key.startswith(CLIP_KEYS) for key in state):
        return together([_clip(below(state, "transformer."), heads)])
    if "model.token_embedding.weight" in state:
        return together([_open_clip(below(state, "model."), params, heads)])
    if "embedding.weight" in state:
        classes, width = state["embedding.weight"].shape
        return ClassConfig(classes, width), {"embedding.weight": state["embedding.weight"]}
    if "channel_mapper.weight" in state or "n_stages" in params:
        return _rescaler(state, params, stages)
    if any(not key.startswith(("encoder.", "decoder.", "quant", "post_quant", "loss.")) for key in state):
        raise CheckpointError(f"conditioner: unknown kind with key {min(state)}", field=min(state))
    return None  # a copy of the first stage, `__is_first_stage__`


def read_embedders(state: Mapping[str, Tensor], heads: Sequence[int | None]) -> tuple[Conditioner, State]:
    """Read SDXL's towers, CLIP's and open_clip's or the latter alone, from keys without `conditioner.`.

    `heads` are each tower's, as in `read_conditioner`. The other embedders, of sizes, have no weights.
    """
    towers = []
    for i, count in enumerate(heads):
        own = below(state, prefix := f"embedders.{i}.")
        if any(key.startswith(CLIP_KEYS) for key in own):
            towers.append(_as_xl(*_clip(below(own, "transformer."), count)))
        elif "model.token_embedding.weight" in own:
            towers.append(_as_xl(*_projected(below(own, "model."), count, f"{prefix}model.")))
    if not towers:
        raise CheckpointError("conditioner: lacks embedders.0.model.* and embedders.0.transformer.*")
    return together(towers)


def _as_xl(config: TowerConfig, state: State) -> tuple[TowerConfig, State]:
    return replace(config, skip=1, final_norm=False), state


def _projected(state: State, heads: int | None, prefix: str) -> tuple[TowerConfig, State]:
    """Read a whole open_clip tower, whose projection is multiplied from the right, unless it is a layer's weight."""
    names = renamed(_apart(state), OPEN_CLIP, OPEN_CLIP_POOLED_IGNORED)
    if (turned := names.pop("text_projection", None)) is not None:
        names["text_projection.weight"] = turned.T.contiguous()
    if "text_projection.weight" not in names:
        key = f"{prefix}text_projection"
        raise CheckpointError(f"conditioner: lacks {key}", field=key)
    return replace(_clip_config(names, heads, "gelu"), pooled=len(names["text_projection.weight"])), names


def _bert(state: State) -> tuple[TowerConfig, State]:
    by_layer = {re.sub(r"^attn_layers\.layers\.(\d+)\.", _by_layer, key): value for key, value in state.items()}
    names = renamed(by_layer, COMPVIS_BERT, COMPVIS_BERT_IGNORED)
    vocab, width = names["tokens.weight"].shape
    config = TowerConfig(
        kind="ldm",
        vocab_size=vocab,
        width=width,
        layers=sum(key.endswith(".fc1.weight") for key in names),
        heads=BERT_HEADS,
        head_dim=BERT_HEAD_DIM,
        mlp=len(names["layers.0.fc1.weight"]),
        positions=len(names["positions.weight"]),
    )
    return config, names


def _by_layer(match: re.Match[str]) -> str:
    index = int(match[1])
    return f"{'ff' if index % 2 else 'attn'}.{index // 2}."


def _clip(state: State, heads: int | None) -> tuple[TowerConfig, State]:
    names = renamed(state, CLIP, CLIP_IGNORED)
    return _clip_config(names, heads, "quick_gelu"), names


def _open_clip(state: State, params: Params, heads: int | None) -> tuple[TowerConfig, State]:
    """Leave the last block out, as Stability reads the penultimate one, where the file still has it."""
    names = renamed(_apart(state), OPEN_CLIP, OPEN_CLIP_IGNORED)
    layers = sum(key.endswith(".fc1.weight") for key in names)
    if params.get("layer", "penultimate") == "penultimate" and layers != CUT_LAYERS:
        last = f"{CLIP_LAYERS}{layers - 1}."
        names = {key: value for key, value in names.items() if not key.startswith(last)}
    return _clip_config(names, heads, "gelu"), names


def _apart(state: State) -> State:
    """Make matrices of their own of queries, keys and values."""
    parts: State = {}
    for key, value in state.items():
        prefix, found, kind = key.partition("in_proj_")
        chunks = zip("qkv", value.chunk(3), strict=True) if found else ()
        parts |= {f"{prefix}{part}_proj.{kind}": chunk.clone() for part, chunk in chunks} if found else {key: value}
    return parts


def _clip_config(names: State, heads: int | None, activation: Any) -> TowerConfig:
    vocab, width = names["text_model.embeddings.token_embedding.weight"].shape
    heads = heads or max(width // CLIP_HEAD_DIM, 1)
    return TowerConfig(
        kind="clip",
        vocab_size=vocab,
        width=width,
        layers=sum(key.endswith(".fc1.weight") for key in names),
        heads=heads,
        head_dim=width // heads,
        mlp=len(names[f"{CLIP_LAYERS}0.mlp.fc1.weight"]),
        positions=len(names["text_model.embeddings.position_embedding.weight"]),
        activation=activation,
    )


def _rescaler(state: Mapping[str, Tensor], params: Params, stages: int) -> tuple[RescalerConfig, State]:
    weight = state.get("channel_mapper.weight")  # absent where the map's channels are kept
    config = RescalerConfig(
        in_channels=int(params.get("in_channels", 3)) if weight is None else weight.shape[1],
        out_channels=None if weight is None else len(weight),
        stages=int(params.get("n_stages", 1 if params else stages)),
        multiplier=float(params.get("multiplier", 0.5)),
        method=params.get("method", "bilinear"),
        bias="channel_mapper.bias" in state,
    )
    return config, dict(state)

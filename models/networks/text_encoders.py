"""BERT and CLIP text encoders, computed by transformers' modules; only their configs are ours.

They are made from those configs alone: no hub, no files, weights come through our readers. The import takes seconds,
so that this module is imported by who needs it (`make`), at best in a thread while weights are read.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.models.bert.configuration_bert import BertConfig
from transformers.models.bert.modeling_bert import BertModel
from transformers.models.clip.configuration_clip import CLIPTextConfig
from transformers.models.clip.modeling_clip import CLIPTextModel

from models.networks.conditioning import TextConfig, TextEncoder


class BertTextEncoder(TextEncoder):
    """The last hidden state of a BERT; padding is hidden where the config says `masked`."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__(config)
        self.bert = BertModel(BertConfig(**_fields(config)), add_pooling_layer=False)
        # Buffers that no file holds would stay on the meta device; `forward` says what they say.
        del self.bert.embeddings.position_ids, self.bert.embeddings.token_type_ids

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return b n d of ids b n; `mask` b n is 1 at tokens and 0 at padding."""
        seen = mask if self.config.masked else None
        types = torch.zeros_like(ids)
        out = self.bert(ids, attention_mask=seen, position_ids=_positions(ids), token_type_ids=types)
        return out.last_hidden_state  # type: ignore[no-any-return]  # b n d


class ClipTextEncoder(TextEncoder):
    """The normalised last hidden state of a CLIP text tower; SD 2's penultimate layer is one with a layer fewer."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__(config)
        if config.width % config.heads:
            raise ValueError(f"{config.width} channels can't be split into {config.heads} heads")
        last = config.vocab_size - 1
        self.text_model = CLIPTextModel(CLIPTextConfig(**_fields(config), bos_token_id=last - 1, eos_token_id=last))
        del self.text_model.embeddings.position_ids  # as above

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:  # noqa: ARG002 (causal: padding comes last)
        """Return b n d of ids b n."""
        return self.text_model(ids, position_ids=_positions(ids)).last_hidden_state  # type: ignore[no-any-return]


def _fields(config: TextConfig) -> dict[str, Any]:
    """Return what configs of both call the same."""
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "intermediate_size": config.mlp,
        "max_position_embeddings": config.positions,
        "hidden_act": config.activation,
        "layer_norm_eps": config.norm_eps,
        "attn_implementation": "sdpa",  # torch's fused kernel
    }


def _positions(ids: Tensor) -> Tensor:
    return torch.arange(ids.shape[1], device=ids.device)[None]  # 1 n

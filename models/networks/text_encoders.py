"""BERT and CLIP text encoders, computed by transformers' modules; only their configs are ours.

They are made from those configs alone: no hub, no files, weights come through our readers. The import takes seconds,
so that this module is imported by who needs it (`make`), at best in a thread while weights are read.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.bert.configuration_bert import BertConfig
from transformers.models.bert.modeling_bert import BertModel
from transformers.models.clip.configuration_clip import CLIPTextConfig
from transformers.models.clip.modeling_clip import CLIPTextModel

from models.networks.conditioning import Encoded, TextTower, Told, TowerConfig


class BertTower(TextTower):
    """The last hidden state of a BERT; padding is hidden where the config says `masked`."""

    def __init__(self, config: TowerConfig) -> None:
        super().__init__(config)
        self.bert = BertModel(BertConfig(**_fields(config)), add_pooling_layer=False)
        # Buffers that no file holds would stay on the meta device; `forward` says what they say.
        del self.bert.embeddings.position_ids, self.bert.embeddings.token_type_ids

    def forward(
        self,
        ids: Tensor,
        mask: Tensor | None = None,
        told: Told | None = None,  # noqa: ARG002 (CLIP's)
    ) -> Encoded:
        """Encode ids b n; `mask` b n is 1 at tokens and 0 at padding."""
        seen = mask if self.config.masked else None
        types = torch.zeros_like(ids)
        out = self.bert(ids, attention_mask=seen, position_ids=_positions(ids), token_type_ids=types)
        return Encoded(out.last_hidden_state)


class ClipTower(TextTower):
    """A CLIP text tower: the state before its last `skip` layers, normalised or not, and the projected end token.

    SD 2's context, the normalised penultimate state, is a tower with a layer fewer; SDXL's is not normalised.
    """

    def __init__(self, config: TowerConfig) -> None:
        super().__init__(config)
        if config.width % config.heads:
            raise ValueError(f"{config.width} channels can't be split into {config.heads} heads")
        last = config.vocab_size - 1
        self.text_model = CLIPTextModel(CLIPTextConfig(**_fields(config), bos_token_id=last - 1, eos_token_id=last))
        del self.text_model.embeddings.position_ids  # as above
        if config.pooled is not None:
            self.text_projection = nn.Linear(config.width, config.pooled, bias=False)

    def forward(
        self,
        ids: Tensor,
        mask: Tensor | None = None,  # noqa: ARG002 (causal: padding comes last)
        told: Told | None = None,
    ) -> Encoded:
        """Encode ids b n, of which those from vocab_size on are vectors that it is `told`."""
        config, told = self.config, told or Told()
        with self._knowing(ids, told.vectors):
            known = ids if told.vectors is None else ids.clamp(max=config.vocab_size - 1)
            out = self.text_model(known, position_ids=_positions(ids), output_hidden_states=True)
        state = out.hidden_states[-1 - config.skip if told.clip_skip is None else -told.clip_skip]  # b n d
        context = self.text_model.final_layer_norm(state) if config.final_norm else state
        if config.pooled is None:
            return Encoded(context)
        end = (ids == config.end_token).int().argmax(dim=1)  # b, the first one where padding is the same token
        return Encoded(context, self.text_projection(out.last_hidden_state[torch.arange(len(ids)), end]))

    @contextmanager
    def _knowing(self, ids: Tensor, vectors: Tensor | None) -> Iterator[None]:
        """Let vectors k d take their places among the embeddings of ids b n, before positions are added."""
        if vectors is None:
            yield
            return
        own = (ids - self.config.vocab_size)[..., None]  # b n 1

        def put(_module: nn.Module, _args: tuple[Tensor, ...], out: Tensor) -> Tensor:
            given = vectors.to(out)[own.squeeze(-1).clamp(min=0)]  # b n d
            return torch.where(own >= 0, given, out)

        hook = self.text_model.embeddings.token_embedding.register_forward_hook(put)
        try:
            yield
        finally:
            hook.remove()


def _fields(config: TowerConfig) -> dict[str, Any]:
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

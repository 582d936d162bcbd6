"""Renaming of keys by tables of regular expressions."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from torch import Tensor

Rules = Sequence[tuple[str, str]]

# diffusers' UNet, AutoencoderKL and VQModel, old attention names included.
DIFFUSERS: Rules = (
    (r"\.query\.", ".to_q."),
    (r"\.key\.", ".to_k."),
    (r"\.value\.", ".to_v."),
    (r"\.proj_attn\.", ".to_out."),
    (r"\.to_out\.0\.", ".to_out."),
    (r"(attentions\.\d+)\.to_", r"\1.attention.to_"),
    (r"\.ff\.net\.0\.proj\.", ".ff.proj_in."),
    (r"\.ff\.net\.2\.", ".ff.proj_out."),
)

# transformers' BertModel; old files write LayerNorm.gamma and .beta.
BERT: Rules = (
    (r"^bert\.", ""),
    (r"LayerNorm\.gamma$", "LayerNorm.weight"),
    (r"LayerNorm\.beta$", "LayerNorm.bias"),
    (r"^embeddings\.word_embeddings\.", "tokens."),
    (r"^embeddings\.position_embeddings\.", "positions."),
    (r"^embeddings\.token_type_embeddings\.", "token_types."),
    (r"^embeddings\.LayerNorm\.", "norm."),
    (r"^encoder\.layer\.", "layers."),
    (r"\.attention\.self\.query\.", ".attention.to_q."),
    (r"\.attention\.self\.key\.", ".attention.to_k."),
    (r"\.attention\.self\.value\.", ".attention.to_v."),
    (r"\.attention\.output\.dense\.", ".attention.to_out."),
    (r"\.attention\.output\.LayerNorm\.", ".norm1."),
    (r"\.intermediate\.dense\.", ".fc1."),
    (r"\.output\.dense\.", ".fc2."),
    (r"\.output\.LayerNorm\.", ".norm2."),
)
BERT_IGNORED = r"^(bert\.)?(pooler\.|embeddings\.position_ids$)|^cls\."

# transformers' CLIPTextModel, with and without its text_model prefix.
CLIP: Rules = (
    (r"^text_model\.", ""),
    (r"^embeddings\.token_embedding\.", "tokens."),
    (r"^embeddings\.position_embedding\.", "positions."),
    (r"^encoder\.layers\.", "layers."),
    (r"^final_layer_norm\.", "norm."),
    (r"\.self_attn\.([qkv])_proj\.", r".attention.to_\1."),
    (r"\.self_attn\.out_proj\.", ".attention.to_out."),
    (r"\.layer_norm([12])\.", r".norm\1."),
    (r"\.mlp\.fc", ".fc"),
)
CLIP_IGNORED = r"embeddings\.position_ids$|^text_projection\."

# diffusers' LDMBertModel.
LDM_BERT: Rules = (
    (r"^model\.embed_tokens\.", "tokens."),
    (r"^model\.embed_positions\.", "positions."),
    (r"^model\.layer_norm\.", "norm."),
    (r"^model\.layers\.", "layers."),
    (r"\.self_attn\.([qkv])_proj\.", r".attention.to_\1."),
    (r"\.self_attn\.out_proj\.", ".attention.to_out."),
    (r"\.self_attn_layer_norm\.", ".norm1."),
    (r"\.final_layer_norm\.", ".norm2."),
)
LDM_BERT_IGNORED = r"^to_logits\."


def renamed(state: Mapping[str, Tensor], rules: Rules, ignored: str | None = None) -> dict[str, Tensor]:
    """Every key through all rules in turn; keys that match `ignored` are left out."""
    compiled = [(re.compile(pattern), new) for pattern, new in rules]
    out: dict[str, Tensor] = {}
    for key, value in state.items():
        if ignored is not None and re.search(ignored, key):
            continue
        for pattern, new in compiled:
            key = pattern.sub(new, key)
        out[key] = value
    return out

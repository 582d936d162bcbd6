"""Keys of state dicts: renamed by tables of regular expressions, or freed of a prefix."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from torch import Tensor

Renames = Sequence[tuple[str, str]]

# diffusers' UNet, AutoencoderKL and VQModel, old attention names included.
DIFFUSERS: Renames = (
    (r"\.query\.", ".to_q."),
    (r"\.key\.", ".to_k."),
    (r"\.value\.", ".to_v."),
    (r"\.proj_attn\.", ".to_out."),
    (r"\.to_out\.0\.", ".to_out."),
    (r"(attentions\.\d+)\.to_", r"\1.attention.to_"),
    (r"\.ff\.net\.0\.proj\.", ".ff.proj_in."),
    (r"\.ff\.net\.2\.", ".ff.proj_out."),
)

# transformers' BertModel and CLIPTextModel, with and without their prefixes; old files write LayerNorm.gamma and .beta.
BERT: Renames = (
    (r"^(?!bert\.)", "bert."),
    (r"LayerNorm\.gamma$", "LayerNorm.weight"),
    (r"LayerNorm\.beta$", "LayerNorm.bias"),
)
BERT_IGNORED = r"^(bert\.)?(pooler\.|embeddings\.position_ids$)|^cls\."
CLIP: Renames = ((r"^(?!text_model\.|text_projection\.)", "text_model."),)
CLIP_POOLED_IGNORED = r"embeddings\.position_ids$"
CLIP_IGNORED = rf"{CLIP_POOLED_IGNORED}|^text_projection\."

# diffusers' LDMBertModel.
LDM_BERT: Renames = (
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


# CompVis: inside a residual block of the UNet, and the first stage after its levels are turned.
COMPVIS_RESBLOCK: Renames = (
    (r"\.in_layers\.0\.", ".norm1."),
    (r"\.in_layers\.2\.", ".conv1."),
    (r"\.emb_layers\.1\.", ".time_emb_proj."),
    (r"\.out_layers\.0\.", ".norm2."),
    (r"\.out_layers\.3\.", ".conv2."),
    (r"\.skip_connection\.", ".conv_shortcut."),
    (r"samplers\.0\.op\.", "samplers.0.conv."),
)
COMPVIS_FIRST_STAGE: Renames = (
    (r"\.down\.(\d+)\.block\.", r".down_blocks.\1.resnets."),
    (r"\.up\.(\d+)\.block\.", r".up_blocks.\1.resnets."),
    (r"\.down\.(\d+)\.downsample\.", r".down_blocks.\1.downsamplers.0."),
    (r"\.up\.(\d+)\.upsample\.", r".up_blocks.\1.upsamplers.0."),
    (r"\.down\.(\d+)\.attn\.", r".down_blocks.\1.attentions."),
    (r"\.up\.(\d+)\.attn\.", r".up_blocks.\1.attentions."),
    (r"\.mid\.block_1\.", ".mid_block.resnets.0."),
    (r"\.mid\.block_2\.", ".mid_block.resnets.1."),
    (r"\.mid\.attn_1\.", ".mid_block.attentions.0."),
    (r"(attentions\.\d+)\.norm\.", r"\1.group_norm."),
    (r"(attentions\.\d+)\.(?:to_)?([qkv])\.", r"\1.attention.to_\2."),  # to_: left by an old script of diffusers
    (r"(attentions\.\d+)\.(?:proj_out|to_out\.0)\.", r"\1.attention.to_out."),
    (r"\.nin_shortcut\.", ".conv_shortcut."),
    (r"\.norm_out\.", ".conv_norm_out."),
)

# CompVis's BERTEmbedder (x-transformers): even layers attend, odd ones feed forward. Applied with layers numbered.
COMPVIS_BERT: Renames = (
    (r"^token_emb\.", "tokens."),
    (r"^pos_emb\.emb\.", "positions."),
    (r"^attn\.(\d+)\.0\.", r"layers.\1.norm1."),
    (r"^attn\.(\d+)\.1\.to_out\.", r"layers.\1.attention.to_out."),
    (r"^attn\.(\d+)\.1\.", r"layers.\1.attention."),
    (r"^ff\.(\d+)\.0\.", r"layers.\1.norm2."),
    (r"^ff\.(\d+)\.1\.net\.0\.0\.", r"layers.\1.fc1."),
    (r"^ff\.(\d+)\.1\.net\.2\.", r"layers.\1.fc2."),
)
COMPVIS_BERT_IGNORED = r"^to_logits\."

# open_clip's text tower, after q, k and v are split.
OPEN_CLIP: Renames = (
    (r"^token_embedding\.", "text_model.embeddings.token_embedding."),
    (r"^positional_embedding$", "text_model.embeddings.position_embedding.weight"),
    (r"^ln_final\.", "text_model.final_layer_norm."),
    (r"^transformer\.resblocks\.", "text_model.encoder.layers."),
    (r"\.attn\.([qkv]|out)_proj\.", r".self_attn.\1_proj."),
    (r"\.ln_([12])\.", r".layer_norm\1."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
)
OPEN_CLIP_POOLED_IGNORED = r"^(logit_scale|attn_mask|visual\.)"
OPEN_CLIP_IGNORED = rf"{OPEN_CLIP_POOLED_IGNORED}|^text_projection"


# Our names into those of diffusers and transformers, after q, k and v are split.
TO_DIFFUSERS: Renames = (
    (r"\.attention\.to_", ".to_"),
    (r"\.to_out\.", ".to_out.0."),
    (r"\.ff\.proj_in\.", ".ff.net.0.proj."),
    (r"\.ff\.proj_out\.", ".ff.net.2."),
)
TO_BERT: Renames = ((r"^bert\.", ""),)
TO_LDM_BERT: Renames = (
    (r"^tokens\.", "model.embed_tokens."),
    (r"^positions\.", "model.embed_positions."),
    (r"^norm\.", "model.layer_norm."),
    (r"^layers\.", "model.layers."),
    (r"\.attention\.to_([qkv])\.", r".self_attn.\1_proj."),
    (r"\.attention\.to_out\.", ".self_attn.out_proj."),
    (r"\.norm1\.", ".self_attn_layer_norm."),
    (r"\.norm2\.", ".final_layer_norm."),
)


def renamed(state: Mapping[str, Tensor], renames: Renames, ignored: str | None = None) -> dict[str, Tensor]:
    """Pass every key through all renames in turn; keys that match `ignored` are left out."""
    compiled = [(re.compile(pattern), new) for pattern, new in renames]
    out: dict[str, Tensor] = {}
    for key, value in state.items():
        if ignored is not None and re.search(ignored, key):
            continue
        for pattern, new in compiled:
            key = pattern.sub(new, key)
        out[key] = value
    return out


def below(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Take the part of a state dict under a prefix, which is cut off."""
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}

"""Files that are no checkpoint of ours, named for what they are: the family, and what latentd needs instead."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from core.errors import CheckpointError

HEAD = 512  # bytes of a file that tell what it is
SHOWN = 3  # keys of a file that a refusal shows
NEEDED = "latentd needs a whole Stable Diffusion 1, 2 or XL or latent-diffusion model"

BYTES: tuple[tuple[bytes, str], ...] = (
    (rb"^version https://git-lfs", "a git-lfs pointer, not the weights; fetch them by `git lfs pull`"),
    (rb"^\s*(<!doctype html|<html|<\?xml)", "an HTML page, not the weights; the download failed or wanted a login"),
    (rb"^GGUF", f"GGUF, quantised for other programs; {NEEDED} as .safetensors or .ckpt"),
    (rb"^(Rar!|7z\xbc\xaf|\x1f\x8b)", "a packed archive; unpack it"),
)

CONTROLNET = "a ControlNet; its place is the folder ControlNet of LATENTD_MODELS_DIR"
VAE = "a VAE (first stage) alone; it belongs beside a model as NAME.vae.safetensors, or in the folder VAE"
TAESD = "a decoder of previews (TAESD); its place is the folder VAE-approx, or beside a model as NAME.taesd.safetensors"
# By keys, the most telling first; those of WHOLE have a UNet and a first stage under the prefixes of ours.
WHOLE: tuple[tuple[str, str], ...] = (
    (r"^cc_projection\.|^cond_stage_model\.model\.visual\.", "Zero123 or image variations"),
    (r"^noise_augmentor\.|^embedder\.model\.visual", "unCLIP"),
    (r"^edm_(mean|std|vpred)", "a relative of Stable Diffusion XL trained on EDM's noise (Playground 2.5, CosXL)"),
    (r"time_stack\.|\.time_mixer\.", "Stable Video Diffusion"),
    (r"joint_blocks\.\d", "Stable Diffusion 3"),
    (r"distilled_guidance_layer\.", "Chroma"),
    (r"individual_token_refiner\.|context_embedder\.token_refiner\.", "Hunyuan Video or Hunyuan Image"),
    (r"(^|\.)mlp_t5\.\d|^text_embedding_padding$", "Hunyuan-DiT"),
    (r"double_layers\.\d|joint_transformer_blocks\.\d", "AuraFlow"),
    (r"transformer_blocks\.\d+\.(img|txt)_mod\.", "Qwen-Image"),
    (r"double_blocks\.\d|single_transformer_blocks\.\d", "Flux"),
    (r"(^|\.)(x|cap)_pad_token$|all_x_embedder\.", "Z-Image"),
    (r"(^|\.)cap_embedder\.\d|time_caption_embed\.", "Lumina"),
    (r"mlp\.inverted_conv\.|ff\.conv_inverted\.", "Sana"),
    (r"patchify_proj\.|(^|\.)head\.modulation$", "a model of videos (LTX, Wan)"),
    (r"adaln_single\.|^(model\.)?blocks\.\d+\.scale_shift_table", "PixArt"),
    (r"transformer_blocks\.\d+\.attn\.add_[qkv]_proj\.", "Stable Diffusion 3 or another transformer"),
    (r"effnet_mappers\.|^cond_mapper\.\d", "Wuerstchen"),
    (r"effnet_mapper\.|clip_txt_mapper\.|clip_txt_pooled_mapper\.", "Stable Cascade"),
    (r"add_embedding\.image_(norm|proj)\.|visual_transformer_blocks\.\d", "Kandinsky"),
    (r"^(prior\.)?(prd_embedding|clip_mean)$", "the prior of unCLIP or Kandinsky"),
    (r"motion_modules\.\d", "AnimateDiff's motion module"),
    (r"^control_model\.", CONTROLNET),
)
LORA = "a LoRA; its place is the folder Lora of LATENTD_MODELS_DIR"
KEYS: tuple[tuple[str, str], ...] = (
    (r"lora_(up|down|A|B)\b|\.lora\.(up|down)|^lora_(unet|te)|hada_w1|lokr_w|dora_scale", LORA),
    *WHOLE,
    (r"controlnet_(cond_embedding|down_blocks|mid_block)|input_hint_block|^zero_convs\.", CONTROLNET),
    (r"^(string_to_param|emb_params|clip_[lg])$", "an embedding (textual inversion)"),
    (r"^(image_proj|ip_adapter)\b", "an IP-Adapter"),
    (r"^adapter\.|^body\.\d+\.(resnets|block1|block2|in_conv|down_opt)\b", "a T2I-Adapter"),
    (r"RRDB_trunk|^conv_first\.|^body\.\d+\.rdb\d|^model\.1\.sub\.", "ESRGAN, an upscaler"),
    (r"^(320|640|768|1024|1280)(\.|$)", "a hypernetwork"),
    (r"^(taesd_decoder|decoder\.layers|decoder)\.\d+\.|^\d+\.conv\.\d", TAESD),
    (r"^(encoder|decoder)\.(conv_in|down|up|mid)|^(post_)?quant_conv\.", VAE),
    (r"^(input_blocks|down_blocks)\.0\.|^model\.diffusion_model\.", "a UNet without its first stage"),
    (r"^(text_model|transformer\.text_model)\.|^encoder\.block\.0\.layer", "a text encoder alone"),
)

PIPELINES: tuple[tuple[str, str], ...] = (
    ("StableDiffusionXLControlNet", "Stable Diffusion XL with a ControlNet"),
    ("StableDiffusionXLAdapter", "Stable Diffusion XL with a T2I-Adapter"),
    ("StableDiffusionXLInstructPix2Pix", "InstructPix2Pix of Stable Diffusion XL"),
    ("StableDiffusion3", "Stable Diffusion 3"),
    ("Flux", "Flux"),
    ("PixArt", "PixArt"),
    ("StableUnCLIP", "unCLIP"),
    ("UnCLIP", "unCLIP"),
    ("Kandinsky", "Kandinsky"),
    ("StableVideoDiffusion", "Stable Video Diffusion"),
    ("StableDiffusionControlNet", "Stable Diffusion with a ControlNet"),
    ("StableDiffusionAdapter", "Stable Diffusion with a T2I-Adapter"),
    ("StableCascade", "Stable Cascade"),
    ("Wuerstchen", "Wuerstchen"),
    ("AuraFlow", "AuraFlow"),
    ("Chroma", "Chroma"),
    ("Hunyuan", "Hunyuan"),
    ("Lumina", "Lumina"),
    ("QwenImage", "Qwen-Image"),
    ("ZImage", "Z-Image"),
    ("Sana", "Sana"),
    ("Kolors", "Kolors, whose text encoder is a language model"),
    ("IF", "DeepFloyd IF, which draws pixels"),
    ("AnimateDiff", "AnimateDiff"),
    ("Marigold", "Marigold, which draws depth or normals"),
)


def refuse_foreign(path: Path) -> None:
    """Look at a file's first bytes.

    Raises:
        CheckpointError: it is no weight file, saying what it is.
    """
    try:
        with path.open("rb") as stream:
            head = stream.read(HEAD)
    except OSError as error:
        raise CheckpointError(f"{path}: {error}") from error
    for pattern, what in BYTES:
        if re.search(pattern, head, re.IGNORECASE):
            raise CheckpointError(f"{path}: {what}")


def what_it_is(keys: Iterable[str]) -> str:
    """Say of a file with these keys what it is, as the end of a refusal."""
    names = list(keys)
    family = next((what for pattern, what in KEYS if any(re.search(pattern, name) for name in names)), None)
    said = f"; this is {family}; {NEEDED}" if family is not None else f"; {NEEDED}"
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{said}; its keys: {', '.join(sorted(names)[:SHOWN])}{more}"


def refuse_family(keys: Iterable[str]) -> None:
    """Look at the keys of what seems to be a whole model.

    Raises:
        CheckpointError: it is of a family that latentd doesn't run.
    """
    names = list(keys)
    if any(re.search(pattern, name) for pattern, _ in WHOLE for name in names):
        raise CheckpointError(what_it_is(names).removeprefix("; "))


def what_it_holds(value: Any) -> str:
    """Say of a pickled value without tensors by names what it is."""
    return what_it_is(map(str, value)) if isinstance(value, dict) and value else ""


def refuse_pipeline(name: str, has_unet: bool, where: Path) -> None:
    """Look at the class that a diffusers folder names, and at whether it has a UNet.

    Raises:
        CheckpointError: it is of a family that latentd doesn't run.
    """
    for beginning, family in PIPELINES:
        if name.startswith(beginning):
            raise CheckpointError(f"{where}: {name} is {family}; {NEEDED}", field="_class_name", value=name)
    if not has_unet:
        raise CheckpointError(f"{where}: {name} has no part unet; {NEEDED}", field="_class_name", value=name)

"""LoRA files as people have them: kohya's names, or PEFT's as diffusers writes them."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from models.training.configs.diffusion import LoraRun
from models.training.lora.products import Product, Products

KOHYA = {"unet": "lora_unet", "te1": "lora_te"}
PEFT = {"unet": "unet", "te1": "text_encoder"}
DTYPES = {"float32": torch.float32, "float16": torch.float16}


def write_lora(run: LoraRun, products: Products) -> Path:
    """Write `out / NAME.safetensors`, NAME that of `out`; the file before is replaced. Returns its path."""
    alpha = float(run.rank if run.alpha is None else run.alpha)
    state: dict[str, Tensor] = {}
    for product in products:
        down, up = (t.detach().cpu().to(DTYPES[run.save_dtype]).contiguous() for t in (product.down, product.up))
        up = up.reshape(*up.shape, *(1 for _ in down.shape[2:]))
        key = _key(run, product)
        names = ("lora_down", "lora_up") if run.layout == "kohya" else ("lora_A", "lora_B")
        state |= {f"{key}.{names[0]}.weight": down, f"{key}.{names[1]}.weight": up}
        if run.layout == "kohya":
            state[f"{key}.alpha"] = torch.tensor(alpha)
    file = run.out / f"{run.out.name}.safetensors"
    unfinished = file.with_name(f".{file.name}")
    save_file(state, unfinished, _metadata(run, products, alpha))
    unfinished.replace(file)
    return file


def _key(run: LoraRun, product: Product) -> str:
    if run.layout == "kohya":
        return f"{KOHYA[product.network]}_{product.name.replace('.', '_')}"
    return f"{PEFT[product.network]}.{product.name}"


def _metadata(run: LoraRun, products: Products, alpha: float) -> dict[str, str]:
    told = {"modelspec.trigger_phrase": run.trigger} if run.trigger else {}
    if run.layout == "peft":
        networks = {PEFT[product.network] for product in products}
        values = {f"{name}.lora_alpha": alpha for name in networks} | {f"{name}.r": run.rank for name in networks}
        return told | {"lora_adapter_metadata": json.dumps(values)}
    return told | {"ss_network_dim": str(run.rank), "ss_network_alpha": str(alpha)}

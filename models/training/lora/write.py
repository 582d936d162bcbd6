"""LoRA files as people have them: kohya's names, or PEFT's as diffusers writes them."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from models.training.configs.diffusion import LoraRun
from models.training.diffusion.write import DTYPES
from models.training.lora.products import Product, Products

KOHYA = {"unet": "lora_unet", "te1": "lora_te"}
PEFT = {"unet": "unet", "te1": "text_encoder"}
PROJECTIONS = (".proj_in", ".proj_out")


def write_lora(run: LoraRun, products: Products) -> Path:
    """Write `out / NAME.safetensors`, NAME that of `out`; the file before is replaced. Returns its path."""
    alpha = float(run.rank if run.alpha is None else run.alpha)
    state: dict[str, Tensor] = {}
    for product in products:
        down, up = (t.detach().cpu().to(DTYPES[run.save_dtype]).contiguous() for t in (product.down, product.up))
        if _spatial(products, product):
            down = down[:, :, None, None]
        up = up.reshape(*up.shape, *(1 for _ in down.shape[2:]))
        key = _key(run, product)
        names = ("lora_down", "lora_up") if run.layout == "kohya" else ("lora_A", "lora_B")
        state |= {f"{key}.{names[0]}.weight": down, f"{key}.{names[1]}.weight": up}
        if run.layout == "kohya":
            state[f"{key}.alpha"] = torch.tensor(alpha)
    file = run.out / f"{run.name}.safetensors"
    unfinished = file.with_name(f".{file.name}")
    save_file(state, unfinished, _metadata(run, products, alpha))
    unfinished.replace(file)
    return file


def _spatial(products: Products, product: Product) -> bool:
    """Whether old checkpoints, and so those who read a LoRA of one, have a 1×1 convolution where ours is linear."""
    projects = product.network == "unet" and ".ff." not in product.name and product.name.endswith(PROJECTIONS)
    return projects and not products.shared.model.config.unet.linear_projection


def _key(run: LoraRun, product: Product) -> str:
    if run.layout == "kohya":
        return f"{KOHYA[product.network]}_{product.name.replace('.', '_')}"
    return f"{PEFT[product.network]}.{product.name}"


def _metadata(run: LoraRun, products: Products, alpha: float) -> dict[str, str]:
    told = {"modelspec.trigger_phrase": run.trigger} if run.trigger else {}
    if run.layout == "peft":
        values: dict[str, object] = {}
        for network in {product.network for product in products}:
            # As the ends of names: versions of transformers differ in whether they have this in front.
            own = (product.name for product in products if product.network == network)
            names = sorted(name.removeprefix("text_model.") for name in own)
            its = {"lora_alpha": alpha, "r": run.rank, "target_modules": names}
            values |= {f"{PEFT[network]}.{key}": value for key, value in its.items()}
        return told | {"lora_adapter_metadata": json.dumps(values)}
    return told | {"ss_network_dim": str(run.rank), "ss_network_alpha": str(alpha)}

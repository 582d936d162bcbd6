"""GET /sdapi/v1/samplers, sd-models and what else the web UI's clients ask for when they start."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter

from service.compat.a1111.answers import EmbeddingsAnswer, LoraItem, ModelItem, SamplerItem, SchedulerItem, UpscalerItem
from service.compat.a1111.catalog import (
    LATENT_MODE,
    drawing_cards,
    embeddings_answer,
    lora_items,
    model_items,
    upscaler_items,
)
from service.compat.a1111.routes.document import answers
from service.compat.a1111.samplers import SCHEDULERS, offered_samplers
from service.state import Current

router = APIRouter(tags=["a1111"])
SDAPI = "/sdapi/v1"

# What is always the same here, mostly none, as a client that looks for it reads it.
FIXED: Mapping[str, Any] = {
    "sd-vae": [],
    "sd-modules": [],
    "hypernetworks": [],
    "face-restorers": [],
    "realesrgan-models": [],
    "prompt-styles": [],
    "extensions": [],
    "script-info": [],
    "scripts": {"txt2img": [], "img2img": []},
    "latent-upscale-modes": [{"name": LATENT_MODE}],
    "cmd-flags": {"api": True, "nowebui": True},
}
# What is always fresh here.
REFRESHED = ("checkpoints", "vae", "embeddings", "loras")


@router.get(f"{SDAPI}/samplers", name="a1111_samplers", summary="Samplers", responses=answers())
async def samplers(gateway: Current) -> list[SamplerItem]:
    """Those that an installed model runs."""
    found = offered_samplers(drawing_cards(await gateway.cards.all()))
    return [SamplerItem(name=each.name, aliases=[*each.aliases, each.ours]) for each in found]


@router.get(f"{SDAPI}/schedulers", name="a1111_schedulers", summary="Sets of noise levels", responses=answers())
async def schedulers() -> list[SchedulerItem]:
    return [SchedulerItem(name=each.name, label=each.label) for each in SCHEDULERS]


@router.get(f"{SDAPI}/sd-models", name="a1111_models", summary="Checkpoints that draw", responses=answers())
async def models(gateway: Current) -> list[ModelItem]:
    return model_items(await gateway.cards.all())


@router.get(f"{SDAPI}/upscalers", name="a1111_upscalers", summary="Ways to enlarge", responses=answers())
async def upscalers(gateway: Current) -> list[UpscalerItem]:
    return upscaler_items(await gateway.cards.all())


@router.get(f"{SDAPI}/loras", name="a1111_loras", summary="LoRAs", responses=answers())
async def loras(gateway: Current) -> list[LoraItem]:
    return await lora_items(gateway)


@router.get(f"{SDAPI}/embeddings", name="a1111_embeddings", summary="Embeddings", responses=answers())
async def embeddings(gateway: Current) -> EmbeddingsAnswer:
    """Those that prompts may name; skipped are files that can't be read."""
    return await embeddings_answer(gateway)


@router.get(f"{SDAPI}/memory", name="a1111_memory", summary="The gateway's memory", responses=answers())
async def memory() -> dict[str, Any]:
    """Models are in workers: what is free there is in their metrics."""
    page = os.sysconf("SC_PAGE_SIZE")
    total, free = page * os.sysconf("SC_PHYS_PAGES"), page * os.sysconf("SC_AVPHYS_PAGES")
    ram = {"free": free, "used": total - free, "total": total}
    return {"ram": ram, "cuda": {"error": "models are in other processes; see /metrics of the workers"}}


@router.get("/internal/ping", name="a1111_ping", summary="Whether the service is there", responses=answers())
async def ping() -> dict[str, Any]:
    return {}


def _add_empty(name: str, value: Any) -> None:
    async def read() -> Any:
        return value

    router.add_api_route(
        f"{SDAPI}/{name}",
        read,
        methods=["GET"],
        name=f"a1111_{name.replace('-', '_')}",
        summary="Empty: there are none here",
        response_model=dict[str, Any] if isinstance(value, dict) else list[Any],
        responses=answers(),
    )


def _add_refresh(name: str) -> None:
    async def refresh() -> None:
        """Workers find new files when they start."""

    router.add_api_route(
        f"{SDAPI}/refresh-{name}",
        refresh,
        methods=["POST"],
        name=f"a1111_refresh_{name}",
        summary="Does nothing: workers find new files when they start",
        response_model=None,
        responses=answers(),
    )


for each, value in FIXED.items():
    _add_empty(each, value)
for each in REFRESHED:
    _add_refresh(each)

"""GET /v1/loras, /v1/embeddings and /v1/controlnets: what requests may name to be added to a model."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel

from contract.card import ControlNetCard, EmbeddingCard, LoraCard
from service.routes.openapi import problems
from service.state import Current

router = APIRouter(prefix="/v1", tags=["models"])


class LoraList(BaseModel):
    """All LoRAs, those that can't be used with the reason."""

    items: list[LoraCard]
    next_cursor: None = None


@router.get("/loras", name="list_loras", summary="All LoRAs", responses=problems())
async def loras(gateway: Current) -> LoraList:
    return LoraList(items=list((await gateway.loras.all()).values()))


class EmbeddingList(BaseModel):
    """All embeddings, those that can't be used with the reason."""

    items: list[EmbeddingCard]
    next_cursor: None = None


@router.get("/embeddings", name="list_embeddings", summary="All embeddings", responses=problems())
async def embeddings(gateway: Current) -> EmbeddingList:
    return EmbeddingList(items=list((await gateway.embeddings.all()).values()))


class ControlNetList(BaseModel):
    """All ControlNets, those that can't be used with the reason."""

    items: list[ControlNetCard]
    next_cursor: None = None


@router.get("/controlnets", name="list_controlnets", summary="All ControlNets", responses=problems())
async def controlnets(gateway: Current) -> ControlNetList:
    return ControlNetList(items=list((await gateway.controlnets.all()).values()))

"""GET /v1/loras: the LoRAs that requests may name."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel

from contract.card import LoraCard
from service.routes.openapi import problems
from service.state import Current

router = APIRouter(prefix="/v1/loras", tags=["models"])


class LoraList(BaseModel):
    """All LoRAs, those that can't be used with the reason."""

    items: list[LoraCard]
    next_cursor: None = None


@router.get("", name="list_loras", summary="All LoRAs", responses=problems())
async def loras(gateway: Current) -> LoraList:
    return LoraList(items=list((await gateway.loras.all()).values()))

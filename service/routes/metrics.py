"""GET /metrics."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST

from service.routes.openapi import problems
from service.state import Current

router = APIRouter(tags=["health"])


@router.get(
    "/metrics", name="get_metrics", summary="Prometheus metrics", response_class=PlainTextResponse, responses=problems()
)
async def metrics(gateway: Current) -> Response:
    text = await gateway.metrics.render(gateway.redis, gateway.cards.known)
    return Response(text, media_type=CONTENT_TYPE_LATEST)

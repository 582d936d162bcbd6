"""What the configs of SDXL's code (sgm) beside a file say that its shapes don't."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Params = Mapping[str, Any]
SINUSOIDS = 256  # channels of each size, crop or score in every published model


def unet_params(params: Params) -> Params:
    """Return the UNet's, which LDM's code and sgm name differently."""
    config = params.get("unet_config") or params.get("network_config") or {}
    return config.get("params", {}) if isinstance(config, Mapping) else {}


def sinusoids(params: Params) -> int:
    """Return the channels of each number beside the pooled text."""
    conditioner = params.get("conditioner_config") or {}
    models = (conditioner.get("params") or {}).get("emb_models") or []
    widths = [(model.get("params") or {}).get("outdim") for model in models]
    return next((int(width) for width in widths if width is not None), SINUSOIDS)

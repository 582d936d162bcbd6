"""Prompts as the web UI writes them: `<lora:name:weight>` names a LoRA; all else is read as it stands."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from contract.card import LoraCard
from contract.prompts import LORA
from core.errors import InvalidRequest
from service.requests.resolution import lora_named

_LORA = re.compile(rf"(?<!\s)\s*{LORA.pattern}")  # from a run of spaces' beginning on alone: else each costs the rest


class Prompt(NamedTuple):
    """The text that is read, and fields of our post for what it named."""

    text: str
    fields: dict[str, Any]


def read_prompt(prompt: str, known: Mapping[str, LoraCard]) -> Prompt:
    """Take the LoRAs out of a prompt; of one that is named twice the first counts, as everywhere.

    Raises:
        InvalidRequest: a name that several have, or a weight that isn't one number.
    """
    found: dict[str, float] = {}
    for name, scale in _LORA.findall(prompt):
        found.setdefault(lora_named(name, known), _scale(name, scale))
    if not found:
        return Prompt(prompt, {})
    loras = [{"id": name, "scale": scale} for name, scale in found.items()]
    return Prompt(_LORA.sub("", prompt).strip(), {"loras": loras})


def _scale(name: str, written: str) -> float:
    """Read `0.5` or `.5`; none is 1. Weights for UNet and text apart aren't followed, so they are refused."""
    try:
        scale = float(written.strip() or 1)
    except ValueError:
        scale = math.nan
    if not math.isfinite(scale):
        bound = "one number"
        raise InvalidRequest(
            f"<lora:{name}:{written}>: the weight must be {bound}", field="prompt", value=written, bound=bound
        )
    return scale

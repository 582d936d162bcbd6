"""Prompts as the web UI writes them: `<lora:name:weight>` names a LoRA; all else is read as it stands."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from contract.job import JobWarning
from service.compat.fields import told
from service.requests.posts import Prompted

_LORA = re.compile(r"\s*<lora:([^:<>]{1,128})(?::([-+]?\d+(?:\.\d+)?))?(?::[^<>]{0,64})?>")


class Prompt(NamedTuple):
    """The text that is read, fields of our post for what it named, and what can't be followed."""

    text: str
    fields: dict[str, Any]
    warnings: tuple[JobWarning, ...] = ()


def read_prompt(prompt: str) -> Prompt:
    """Take the LoRAs out of a prompt; of one that is named twice the first counts, as everywhere."""
    found: dict[str, float] = {}
    for name, scale in _LORA.findall(prompt):
        found.setdefault(name, float(scale or 1))
    if not found:
        return Prompt(prompt, {})
    text = _LORA.sub("", prompt).strip()
    if "loras" not in Prompted.model_fields:
        names = ", ".join(found)
        return Prompt(text, {}, (told("prompt", f"no LoRA can be added here; ignored: {names}"),))
    return Prompt(text, {"loras": [{"id": name, "scale": scale} for name, scale in found.items()]})

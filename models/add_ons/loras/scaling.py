"""What PEFT multiplies a LoRA's products by, as a file's header says it, or `adapter_config.json` beside PEFT's own."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.errors import CheckpointError
from models.add_ons.shelf import adapter_config
from models.checkpoints.files.weights import read_json

HEADER = "lora_adapter_metadata"  # of files that diffusers writes: JSON with the options of each network
OWN = "base_model.model."  # begins the keys of PEFT's own files
NAME = re.compile(r"[\w.]+")  # a pattern that is a layer's name, or the end of one
STARTS = (None, True, False, "gaussian", "eva", "orthogonal")  # of weights; others change the model's own, too


@dataclass(frozen=True, slots=True)
class Scaling:
    """α of a network's layers, over the rank or its root (rsLoRA); alpha None: it isn't said, and is the rank."""

    alpha: float | None = None
    patterns: tuple[tuple[str, float], ...] = ()  # the ends of layers' names and their own α
    root: bool = False

    def alpha_of(self, layer: str) -> float | None:
        """Return α of a layer."""
        return next((a for name, a in self.patterns if f".{layer}".endswith(f".{name}")), self.alpha)


def scalings(path: Path, metadata: Mapping[str, str]) -> dict[str, Scaling]:
    """Read what is said of a file's networks, by what begins their keys.

    Raises:
        CheckpointError: it scales or changes in a way that isn't served, by the option's name.
    """
    said: dict[str, dict[str, Any]] = {}
    for name, value in json.loads(metadata.get(HEADER, "{}")).items():
        network, dot, option = name.rpartition(".")
        said.setdefault(network + dot, {})[option] = value
    # A network saved by itself has options without a prefix, as its keys are.
    own = {prefix: options for prefix, options in said.items() if prefix or "lora_alpha" in options}
    found = {prefix: _scaling(HEADER, prefix, options) for prefix, options in own.items()}
    config = adapter_config(path)
    return found if config is None else found | {OWN: _scaling(config.name, "", read_json(config))}


def _scaling(where: str, prefix: str, said: Mapping[str, Any]) -> Scaling:
    patterns = said.get("alpha_pattern") or {}
    wrong = ["use_dora"] if said.get("use_dora") else []
    wrong += ["init_lora_weights"] if said.get("init_lora_weights") not in STARTS else []
    wrong += [f"alpha_pattern {name}" for name in patterns if not NAME.fullmatch(name)]
    if wrong:
        raise CheckpointError(f"{where}: {prefix}{wrong[0]} is not served", field=f"{prefix}{wrong[0]}")
    if "lora_alpha" not in said:
        raise CheckpointError(f"{where}: lacks {prefix}lora_alpha", field=f"{prefix}lora_alpha")
    own = tuple((name, float(alpha)) for name, alpha in patterns.items())
    return Scaling(float(said["lora_alpha"]), own, bool(said.get("use_rslora")))

"""One reference case: its description, inputs and expected arrays."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Compute = Callable[[str], Tensor]


class NotCoveredError(Exception):
    """An output that this project has no computation for."""


@dataclass(frozen=True)
class Case:
    """A folder with case.json, inputs.npz, expected.npz and weights."""

    folder: Path

    @cached_property
    def spec(self) -> dict[str, Any]:
        spec: dict[str, Any] = json.loads((self.folder / "case.json").read_text("utf-8"))
        return spec

    @property
    def config(self) -> dict[str, Any]:
        config: dict[str, Any] = self.spec["config"]
        return config

    @cached_property
    def inputs(self) -> dict[str, Tensor]:
        path = self.folder / "inputs.npz"
        return {key: torch.from_numpy(value) for key, value in _arrays(path).items()} if path.is_file() else {}

    @cached_property
    def expected(self) -> dict[str, NDArray[Any]]:
        return _arrays(self.folder / "expected.npz")

    @property
    def weights(self) -> Path:
        files: dict[str, str] = self.spec["files"]
        return self.folder / files.get("checkpoint", files.get("pipeline", ""))

    def tolerance(self, output: str) -> dict[str, Any]:
        """What case.json says of an output; `*` stands for all that it doesn't name."""
        outputs: dict[str, dict[str, Any]] = self.spec["outputs"]
        return outputs.get(output) or outputs["*"]

    def optional(self, *names: str) -> Tensor | None:
        """The first of these inputs that the case has."""
        return next((self.inputs[name] for name in names if name in self.inputs), None)

    def runs(self) -> dict[str, dict[str, Any]]:
        """Sampling runs by the prefix of their outputs; a lone run, or one named ddim, has none."""
        sampling = self.spec.get("sampling", {})
        named = {key: value for key, value in sampling.items() if isinstance(value, dict)}
        prefixed = {f"{key}_": value for key, value in named.items()}
        return prefixed | ({"": named["ddim"]} if "ddim" in named else {}) or {"": sampling}

    def noise(self, run: dict[str, Any]) -> Tensor | None:
        """The step noise (steps b c h w) that a run names as `name[i]`, or the only input called noise."""
        match = re.search(r"(\w+)\[i\]", str(run.get("noise", "")))
        return self.inputs[match[1]] if match else self.optional("noise")

    def noted_timesteps(self, output: str) -> Tensor | None:
        """Timesteps that a note on an output gives in words: `name = … timesteps 951 and 101`."""
        for note in self.spec.get("notes", ()):
            if note.startswith(output) and (match := re.search(r"timesteps? ((?:\d+(?:, | and )?)+)", note)):
                return torch.tensor([float(t) for t in re.findall(r"\d+", match[1])])
        return None


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    with np.load(path, allow_pickle=False) as archive:
        return dict(archive)

"""Single networks in CompVis's layout: first stages, conditioners and UNets."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from models.checkpoints.build import build
from models.checkpoints.files.rename import below
from models.checkpoints.layouts.compvis.conditioner import read_conditioner
from models.checkpoints.layouts.compvis.first_stage import read_first_stage
from models.checkpoints.layouts.compvis.model import CONDITIONER, FIRST_STAGE, UNET
from models.checkpoints.layouts.compvis.single_file import read_single
from models.checkpoints.layouts.compvis.unet import read_unet
from models.networks.autoencoder import Autoencoder
from models.networks.conditioning import ConditionerModule, SpatialRescaler, TextEncoder
from models.networks.make import make_conditioner
from models.networks.unet import UNet
from tests.parity.case import Case, Compute, NotCoveredError

FLOAT = torch.float32


def _state(case: Case, prefix: str) -> dict[str, Tensor]:
    state = read_single(case.weights).state
    return below(state, prefix) or state


class FirstStageOutputs:
    """Outputs of an autoencoder on `image`."""

    def __init__(self, case: Case) -> None:
        config, state = read_first_stage(_state(case, FIRST_STAGE))
        self.net = build(lambda: Autoencoder(config), state, "first stage", "cpu", FLOAT)
        self.case = case

    def __call__(self, output: str) -> Tensor:
        net, image = self.net, self.case.inputs["image"]
        if net.config.kind == "vq":
            return self._vq(output, image)
        mean, logvar = net.moments(image)
        known = {
            "moments": lambda: net.quant_conv(net.encoder(image)),
            "mean": lambda: mean,
            "mode": lambda: mean,
            "logvar": lambda: logvar,
            "std": lambda: torch.exp(0.5 * logvar),
            "sample": lambda: net.encode(image, self.case.inputs["noise"]),
            "reconstruction_from_mode": lambda: net.decode(mean),
            "reconstruction_from_sample": lambda: net.decode(net.encode(image, self.case.inputs["noise"])),
        }
        return _known(known, output)

    def _vq(self, output: str, image: Tensor) -> Tensor:
        net, z = self.net, self.net.encode(image)
        known = {
            "prequant": lambda: z,
            "indices": lambda: net.quantize.indices(z),
            "quantized": lambda: net.quantize(z),
            "reconstruction": lambda: net.decode(z),
            "reconstruction_without_quantization": lambda: net.decode(z, quantize=False),
        }
        return _known(known, output)


class ConditionerOutputs:
    """Outputs of a text encoder, class embedder or rescaler."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.net = conditioner(case, _params(case.config))

    def __call__(self, output: str) -> Tensor:
        if isinstance(self.net, SpatialRescaler):
            one_hot = F.one_hot(self.case.inputs["labels"], self.net.config.in_channels)
            return self.net(rearrange(one_hot, "b h w k -> b k h w").float())  # type: ignore[no-any-return]
        ids = self.case.optional("tokens", "class_label", "input_ids", "labels")
        if ids is None:
            raise NotCoveredError(output)
        if match := re.fullmatch(r"embedding_of_first_(\d+)", output):
            ids = ids[:, : int(match[1])]
        elif output not in ("embedding", "context", "conditioning", "condition"):
            raise NotCoveredError(output)
        return read_by(self.net, ids)


class UNetOutputs:
    """The raw output of a UNet, and its context where the case brings the embedder."""

    def __init__(self, case: Case) -> None:
        self.case = case
        params = _params(case.config.get("unet_config", case.config))
        config, state = read_unet(_state(case, UNET), params)
        self.net = build(lambda: UNet(config), state, "unet", "cpu", FLOAT)
        cond = case.config.get("cond_stage_config")
        self.embedder = conditioner(case, _params(cond)) if isinstance(cond, Mapping) else None

    def __call__(self, output: str) -> Tensor:
        case = self.case
        context = self.context()
        if output in ("context", "conditioning") and context is not None:
            return context
        if output not in ("eps", "v", "output", "model_output"):
            raise NotCoveredError(output)
        concat = case.optional("concat")
        x = case.inputs["x"] if concat is None else torch.cat([case.inputs["x"], concat], dim=1)
        return self.net(x, case.inputs["timesteps"], context, case.optional("y"))  # type: ignore[no-any-return]

    def context(self) -> Tensor | None:
        if self.embedder is None:
            return self.case.optional("context")
        ids = self.case.optional("class_label", "tokens")
        return None if ids is None else read_by(self.embedder, ids)


def read_by(net: ConditionerModule, ids: Tensor) -> Tensor:
    """The context of token numbers or classes."""
    return net([(ids, None)]).context if isinstance(net, TextEncoder) else net(ids)  # type: ignore[no-any-return]


def conditioner(case: Case, params: Mapping[str, Any]) -> ConditionerModule:
    """The conditioner of a case's weights file."""
    found = read_conditioner(_state(case, CONDITIONER), params, 0, None)
    if found is None:
        raise NotCoveredError("conditioner")
    config, state = found
    return build(lambda: make_conditioner(config), state, "conditioner", "cpu", FLOAT)


def _params(config: Mapping[str, Any]) -> Mapping[str, Any]:
    params: Mapping[str, Any] = config.get("params", {})
    return params


def _known(known: Mapping[str, Any], output: str) -> Tensor:
    if output not in known:
        raise NotCoveredError(output)
    value: Tensor = known[output]()
    return value


KINDS = (
    ("UNet", UNetOutputs),
    ("Autoencoder", FirstStageOutputs),
    ("VQModel", FirstStageOutputs),
    ("Embedder", ConditionerOutputs),
    ("Rescaler", ConditionerOutputs),
)


def module(case: Case) -> Compute:
    """The computation of a case whose config names one class, or a UNet with its embedder."""
    if "unet_config" in case.config:
        return UNetOutputs(case)
    name = str(case.config.get("target", "")).rpartition(".")[2]
    for word, kind in KINDS:
        if word in name:
            return kind(case)
    raise NotCoveredError(f"class {name}")

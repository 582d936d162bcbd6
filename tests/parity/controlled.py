"""Folders with ControlNets beside them: their outputs, and runs by the engine's own calls."""

from __future__ import annotations

import re
from functools import cached_property

import torch
from torch import Tensor

from models.add_ons.controls.files import load_control, read_control
from models.checkpoints.files.weights import component_files
from models.inputs import Inputs
from models.networks.controlnet import Control, ControlNet, RowControls
from models.samplers import compile_plan
from tests.parity.case import Case, NotCoveredError
from tests.parity.pipelines import Pipeline
from workers.engine.conditioning import Conditions
from workers.engine.denoise import denoise
from workers.engine.latent_state import LatentState

# Of a run's name: scales of the ControlNets, and the part of the steps in which they act.
SCALES = {"latent_scale50": (0.5,), "latent_scale100": (1.0,), "latent_steps_20_to_60": (1.0,), "latent_base": ()}


class Controlled:
    """Outputs of a pipeline with ControlNets."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.pipeline = Pipeline(case)
        self.model = self.pipeline.model

    @cached_property
    def networks(self) -> list[ControlNet]:
        files = [self.case.folder / name for name in self.case.spec["files"]["controlnet"]]
        paths = [component_files(path)[0] if path.is_dir() else path for path in files]
        return [load_control(read_control(path), self.model) for path in paths]

    def __call__(self, output: str) -> Tensor:
        z, context = self.case.inputs["latents"], self.pipeline.context
        t = torch.full((len(z),), 501.0)
        if match := re.fullmatch(r"control_(?:down_(\d)|mid)", output):
            hint = self.networks[0].embed(self.case.inputs["control_image"])
            residuals: list[Tensor] = self.networks[0](z, t, context, None, hint)
            return residuals[-1 if match[1] is None else int(match[1])]
        if output == "unet_output_t501":
            controls = RowControls([self.controls(row, (1.0,)) for row in range(len(z))], apart=False)
            return self.model.predict(z, t, Inputs(context), controls=controls)
        return self.latent(output)

    def controls(self, row: int, scales: tuple[float, ...], start: float = 0.0, end: float = 1.0) -> list[Control]:
        """Controls of a row: the first ones, at these scales; 0 leaves one out."""
        names = ["control_image"] if "control_image" in self.case.inputs else ["control_image_1", "control_image_2"]
        pictures = [self.case.inputs[name][row : row + 1] for name in names]
        each = zip(self.networks, pictures, scales, strict=False)
        return [Control(n, n.embed(picture)[0], scale, start, end) for n, picture, scale in each if scale]

    def latent(self, output: str) -> Tensor:
        """Run as the engine does."""
        first, second = (*self.case.spec["sampling"]["scales"], 0.0)[:2]
        two = {"latent": (first, second), "latent_first": (first,), "latent_second": (0.0, second)}
        scales = {**two, **SCALES}.get(output)
        if scales is None:
            raise NotCoveredError(output)
        times = (0.2, 0.6) if output == "latent_steps_20_to_60" else (0.0, 1.0)
        images = [
            self.image(row, self.controls(row, scales, *times)) for row in range(len(self.case.inputs["latents"]))
        ]
        while not images[0].done:
            denoise(self.model, images, 2 * len(images))
        return torch.stack([image.z_t for image in images])

    def image(self, row: int, controls: list[Control]) -> LatentState:
        sampling, z = self.pipeline.sampling, self.case.inputs["latents"][row]
        plan = compile_plan("ddim", self.model.schedule, int(sampling["steps"]), float(sampling["eta"]))
        context, null = self.pipeline.context, self.pipeline.null_context
        assert context is not None
        assert null is not None
        conditions = Conditions(Inputs(context[row]), Inputs(null[row]))
        return LatentState(0, plan, conditions, float(sampling["guidance_scale"]), z, z, controls=controls)

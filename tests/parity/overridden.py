"""A folder whose first stage is replaced by files beside it."""

from __future__ import annotations

from functools import cache

from torch import Tensor

from models.checkpoints.layouts.detect import load_checkpoint
from models.checkpoints.layouts.vae import read_vae, replaced
from models.checkpoints.load import assemble
from models.pipeline.pipeline import LatentDiffusion
from tests.parity.case import Case, NotCoveredError
from tests.parity.pipelines import Pipeline

FILES = {"safetensors": 0, "pt": 1}


class Overridden:
    """Outputs of the folder's own first stage, and encoding and decoding by the files'."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.pipeline = Pipeline(case)

    def __call__(self, output: str) -> Tensor:
        if output in ("latent", "image"):
            return self.pipeline(output)
        model, inputs = self.model(output.rpartition("_")[2]), self.case.inputs
        if output.startswith("image_vae_"):
            return model.decode(self.pipeline("latent"))
        if output.startswith("encoded_sample_"):
            return model.encode_images(inputs["image"], inputs["posterior_noise"])
        if output.startswith("encoded_"):
            return model.encode_images(inputs["image"])
        raise NotCoveredError(output)

    @cache  # noqa: B019 (a case lives as long as its outputs are compared)
    def model(self, kind: str) -> LatentDiffusion:
        place = self.case.folder / self.case.spec["files"]["vae"][FILES[kind]]
        return assemble(replaced(load_checkpoint(self.case.weights), place, read_vae(place)), kind)

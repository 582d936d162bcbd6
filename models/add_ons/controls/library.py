"""The ControlNets of a worker: read when a job names them, kept for the next while a budget lasts."""

from __future__ import annotations

from collections.abc import Mapping

from contract.card import InstalledControlNet
from core.errors import CheckpointError
from models.add_ons.controls.files import load_control, read_control, size_of
from models.add_ons.shelf import Found, Kept, Named, path_of
from models.networks.controlnet import ControlNet
from models.pipeline.pipeline import LatentDiffusion


class ControlLibrary:
    """Loads the ControlNets of jobs. Not for threads."""

    def __init__(self, found: Mapping[str, Found[InstalledControlNet]], kept: Kept) -> None:
        self._found = dict(found)
        self._kept = kept

    @property
    def ids(self) -> frozenset[str]:
        """The ControlNets that it can load."""
        return frozenset(self._found)

    def network(self, model: LatentDiffusion, named: Named) -> ControlNet:
        """Return a ControlNet on a model's device and in its precision; models of one shape share it.

        Raises:
            CheckpointError: it isn't there, was replaced since the request was accepted, or doesn't fit the model, by
                its id.
        """
        key = ("controlnet", named.hash, model.config.unet, str(model.device), model.dtype)
        return self._kept.get(key, lambda: self._load(model, named), size_of)

    def _load(self, model: LatentDiffusion, named: Named) -> ControlNet:
        path = path_of(self._found, "ControlNet", "controls", named.id, named.hash)
        try:
            return load_control(read_control(path), model)
        except CheckpointError as error:
            detail = f"ControlNet {named.id!r} doesn't fit model {model.id}: {error.detail}"
            raise CheckpointError(detail, field="controls", value=named.id) from error

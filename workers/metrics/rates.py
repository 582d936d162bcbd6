"""Measured speeds of each model, from which the gateway predicts waits."""

from __future__ import annotations

from dataclasses import dataclass, field

from contract.measurements import Rates
from workers.engine.messages import Called

WEIGHT = 0.2  # of the newest measurement in the moving average


@dataclass(slots=True)
class ModelRates:
    """Moving averages, in seconds."""

    calls: dict[int, float] = field(default_factory=dict)  # by rows computed, fillers included
    single: float | None = None
    image: float = 0.0

    def rates(self) -> Rates:
        """A full call's row, a single image's call (the smallest call where none was alone), an image's rest."""
        most = max(self.calls)
        single = self.calls[min(self.calls)] if self.single is None else self.single
        return Rates(row_s=self.calls[most] / most, step_s=single, image_s=self.image)


class RateMeter:
    """Averages what the engine and the storage report."""

    def __init__(self) -> None:
        self._models: dict[str, ModelRates] = {}
        self._published: dict[str, Rates] = {}

    def called(self, call: Called) -> None:
        """One UNet call."""
        model = self._models.setdefault(call.model, ModelRates())
        model.calls[call.padded_rows] = _average(model.calls.get(call.padded_rows), call.seconds)
        if call.slots == 1:
            model.single = _average(model.single, call.seconds)
        self._published = {**self._published, call.model: model.rates()}

    def imaged(self, model: str, seconds: float) -> None:
        """One image was decoded and stored."""
        rates = self._models.setdefault(model, ModelRates())
        rates.image = _average(rates.image or None, seconds)

    def published(self) -> dict[str, Rates]:
        """Rates of the models measured so far; safe to call from another thread."""
        return self._published


def _average(before: float | None, now: float) -> float:
    return now if before is None else before + WEIGHT * (now - before)

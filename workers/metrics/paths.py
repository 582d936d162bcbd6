"""How each model's UNet is computed here: its precision, and by which of the ways that this machine has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from models.networks.layers import packed
from models.pipeline.pipeline import LatentDiffusion


def path_of(model: LatentDiffusion) -> str:
    """Return fused or captured (GPUs), packed (CPUs in bfloat16), else plain."""
    captured = model.denoiser.captured
    if captured is not None and captured.fused is not None and captured.fused.there:
        return "fused"
    if captured is not None and not captured.broken:
        return "captured"
    return "packed" if packed(model.unet) else "plain"


class PathCollector(Collector):
    """Asks at every scrape, since a path can be given up while a worker runs."""

    def __init__(self) -> None:
        self.models: Mapping[str, LatentDiffusion] = {}

    def collect(self) -> Iterable[GaugeMetricFamily]:
        family = GaugeMetricFamily(
            "latentd_network_info",
            "1: the precision of a model's UNet, and how it is computed: plain, packed, captured or fused.",
            labels=("model", "dtype", "path"),
        )
        for name, model in list(self.models.items()):
            family.add_metric((name, str(model.dtype).removeprefix("torch."), path_of(model)), 1)
        yield family

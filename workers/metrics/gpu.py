"""What a GPU does, read through NVML at each scrape; without a GPU the families show HELP and TYPE and no series."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import structlog
import torch
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from workers.metrics.flops import peak_flops

FAMILIES = {
    "latentd_gpu_utilization_ratio": "Share of the last second or less in which the GPU computed.",
    "latentd_gpu_memory_used_bytes": "Memory of the GPU in use, by all processes.",
    "latentd_gpu_memory_total_bytes": "Memory that the GPU has.",
    "latentd_gpu_power_watts": "Power that the GPU draws.",
    "latentd_gpu_peak_flops": "FLOP/s that the GPU can do in the models' dtype, where known: the bound of utilisation.",
}

log = structlog.get_logger()


class Nvml(Protocol):
    """What is used of the module `pynvml`; its functions take the handle of a GPU."""

    NVMLError: type[Exception]

    def nvmlInit(self) -> None: ...  # noqa: N802
    def nvmlDeviceGetHandleByUUID(self, uuid: str, /) -> Any: ...  # noqa: N802
    def nvmlDeviceGetUtilizationRates(self, handle: Any, /) -> Any: ...  # noqa: N802
    def nvmlDeviceGetMemoryInfo(self, handle: Any, /) -> Any: ...  # noqa: N802
    def nvmlDeviceGetPowerUsage(self, handle: Any, /) -> int: ...  # noqa: N802


@dataclass(frozen=True, slots=True)
class Gpu:
    """One card. NVML knows it by `uuid`: its numbers aren't torch's where CUDA_VISIBLE_DEVICES is set."""

    nvml: Nvml
    uuid: str
    index: str
    peak: float | None

    def read(self) -> dict[str, float]:
        """Read values by family; NVML's percent, bytes and milliwatts become ratio, bytes and watts.

        A value that this card doesn't have is left out.
        """
        self.nvml.nvmlInit()
        handle = self.nvml.nvmlDeviceGetHandleByUUID(self.uuid)
        sources: dict[str, Callable[[], float]] = {
            "latentd_gpu_utilization_ratio": lambda: self.nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100,
            "latentd_gpu_memory_used_bytes": lambda: self.nvml.nvmlDeviceGetMemoryInfo(handle).used,
            "latentd_gpu_memory_total_bytes": lambda: self.nvml.nvmlDeviceGetMemoryInfo(handle).total,
            "latentd_gpu_power_watts": lambda: self.nvml.nvmlDeviceGetPowerUsage(handle) / 1000,
        }
        values = {name: value for name, source in sources.items() if (value := self._value(source)) is not None}
        return values if self.peak is None else {**values, "latentd_gpu_peak_flops": self.peak}

    def _value(self, source: Callable[[], float]) -> float | None:
        try:
            return float(source())
        except self.nvml.NVMLError as error:  # e.g. power on a card or driver that doesn't tell
            log.debug("nvml doesn't tell", gpu=self.index, error=str(error))
            return None


class GpuCollector(Collector):
    """Prometheus families of one card, or of none."""

    def __init__(self, gpu: Gpu | None) -> None:
        self._gpu = gpu

    def collect(self) -> Iterator[GaugeMetricFamily]:
        values = self._values()
        for name, about in FAMILIES.items():
            family = GaugeMetricFamily(name, about, labels=("gpu",))
            if self._gpu is not None and name in values:
                family.add_metric((self._gpu.index,), values[name])
            yield family

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """Describe names only, so that registering asks nothing of the driver."""
        for name, about in FAMILIES.items():
            yield GaugeMetricFamily(name, about, labels=("gpu",))

    def _values(self) -> dict[str, float]:
        if self._gpu is None:
            return {}
        try:
            return self._gpu.read()
        except self._gpu.nvml.NVMLError as error:
            log.warning("nvml is away", gpu=self._gpu.index, error=str(error))
            return {}


def gpu_of(device: str, dtype: torch.dtype) -> Gpu | None:
    """Return the card behind a device of torch; None for the CPU."""
    if torch.device(device).type != "cuda":
        return None
    import pynvml

    about = torch.cuda.get_device_properties(device)
    index = torch.device(device).index or 0
    return Gpu(pynvml, f"GPU-{about.uuid}", str(index), peak_flops(about.name, dtype))


def device_kind(device: torch.device) -> str:
    """Return what devices of equal speed have in common: `cpu`, or the GPU's name."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type

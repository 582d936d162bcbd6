"""The GPU's families, over a stand-in for NVML."""

from __future__ import annotations

import torch
from prometheus_client import CollectorRegistry, generate_latest

from tests.nvml import UUID, StandInNvml
from workers.metrics.gpu import FAMILIES, Gpu, GpuCollector, gpu_of


def registry_of(gpu: Gpu | None) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(GpuCollector(gpu))
    return registry


def samples(gpu: Gpu | None) -> dict[str, float]:
    return {sample.name: sample.value for family in registry_of(gpu).collect() for sample in family.samples}


def test_values_have_base_units() -> None:
    nvml = StandInNvml(utilization=50, used=2**30, total=2**31, milliwatts=300_500)
    assert samples(Gpu(nvml, UUID, "3", 1e12)) == {
        "latentd_gpu_utilization_ratio": 0.5,
        "latentd_gpu_memory_used_bytes": 2**30,
        "latentd_gpu_memory_total_bytes": 2**31,
        "latentd_gpu_power_watts": 300.5,
        "latentd_gpu_peak_flops": 1e12,
    }
    assert 'latentd_gpu_power_watts{gpu="3"} 300.5' in generate_latest(registry_of(Gpu(nvml, UUID, "3", 1e12))).decode()


def test_without_a_gpu_families_show_and_have_no_series() -> None:
    assert gpu_of("cpu", torch.float32) is None
    text = generate_latest(registry_of(None)).decode()
    for name in FAMILIES:
        assert f"# HELP {name} " in text
        assert f"# TYPE {name} gauge\n" in text
    assert samples(None) == {}


def test_a_lost_card_has_no_series_and_comes_back() -> None:
    nvml = StandInNvml(lost=True)
    gpu = Gpu(nvml, UUID, "0", None)
    assert samples(gpu) == {}
    nvml.lost = False
    assert "latentd_gpu_power_watts" in samples(gpu)


def test_what_a_card_does_not_tell_is_left_out() -> None:
    values = samples(Gpu(StandInNvml(silent={"power"}), UUID, "0", None))
    assert "latentd_gpu_power_watts" not in values
    assert "latentd_gpu_peak_flops" not in values
    assert values["latentd_gpu_utilization_ratio"] == 0.92

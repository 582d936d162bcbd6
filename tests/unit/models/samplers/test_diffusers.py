"""Which sampler equals which scheduler of diffusers: the rows of the table in docs/samplers.md."""

from __future__ import annotations

from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

from models.samplers import compile_plan
from models.samplers.update import apply, stack_history, stack_rows
from models.schedule import NoiseSchedule, ScheduleConfig

# diffusers turns its torch tables into numpy arrays in a way that numpy 2 warns of.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SCHEDULERS: dict[str, Any] = {
    "ddim": diffusers.DDIMScheduler,
    "ddpm": diffusers.DDPMScheduler,
    "plms": diffusers.PNDMScheduler,
    "euler": diffusers.EulerDiscreteScheduler,
    "dpmpp_2m": diffusers.DPMSolverMultistepScheduler,
    "unipc": diffusers.UniPCMultistepScheduler,
}
# Arguments that only some of them take.
EXTRA: dict[str, dict[str, Any]] = {
    "ddim": {"set_alpha_to_one": False, "clip_sample": False},
    "ddpm": {"clip_sample": False},
    "plms": {"set_alpha_to_one": False, "skip_prk_steps": True},
}
EQUAL = [
    (name, spacing)
    for name in ("ddim", "ddpm", "euler", "dpmpp_2m", "unipc")
    for spacing in ("leading", "trailing", "linspace")
    if (name, spacing) != ("ddim", "linspace")  # diffusers steps past or short of the next timestep there
]
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def network(z: Tensor, t: float) -> Tensor:
    return torch.tanh(0.7 * z + 0.3 * torch.sin(3 * z) + t / 2000)


def ours(name: str, steps: int, config: dict[str, Any], z: Tensor, strength: float = 1.0, end: float = 1.0) -> Tensor:
    schedule = NoiseSchedule(ScheduleConfig.from_diffusers({"set_alpha_to_one": False, "clip_sample": False} | config))
    stored: list[Tensor] = []
    generator = torch.Generator().manual_seed(1)
    for row in compile_plan(name, schedule, steps, strength=strength, span=(0.0, end)).rows:
        c = stack_rows([row], dtype=z.dtype)
        noise = torch.randn(z.shape, generator=generator, dtype=z.dtype) if row.noise else torch.zeros_like(z)
        z, p, _ = apply(c, network(z, row.t), z, stack_history([stored], c.depth, z[0]), noise)
        stored = [p[0], *stored]
    return z


def theirs(name: str, steps: int, config: dict[str, Any], z: Tensor, end: float = 1.0) -> Tensor:
    scheduler = SCHEDULERS[name](**config, **EXTRA.get(name, {}))
    scheduler.set_timesteps(steps)
    # Euler's latent is z / α.
    z = z * (scheduler.sigmas[0] ** 2 + 1) ** 0.5 if name == "euler" else z
    noise = {"generator": torch.Generator().manual_seed(1)} if name == "ddpm" else {}
    for t in (t for t in scheduler.timesteps if t >= 1000 * (1 - end)):
        output = network(scheduler.scale_model_input(z, t), float(t))
        z = scheduler.step(output, t, z, return_dict=False, **noise)[0]
    return z


def gap(name: str, steps: int, config: dict[str, Any], end: float = 1.0) -> float:
    """The largest difference of the final latents, both computed in float64 (their tables are float32)."""
    z = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return float((ours(name, steps, config, z, end=end) - theirs(name, steps, config, z, end)).abs().max())


@pytest.mark.parametrize(("name", "spacing"), EQUAL)
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_equal_for_any_number_of_steps(name: str, spacing: str, prediction: str) -> None:
    config = BETAS | {"timestep_spacing": spacing, "prediction_type": prediction, "steps_offset": 1}
    for steps in (1, 6, 7, 20, 30):
        assert gap(name, steps, config) < (1e-3 if prediction == "epsilon" else 1e-4)


@pytest.mark.parametrize("name", ["dpmpp_2m", "unipc"])
def test_a_part_of_the_way_ends_in_the_order_of_the_whole(name: str) -> None:
    config = BETAS | {"timestep_spacing": "leading", "prediction_type": "v_prediction", "steps_offset": 1}
    for steps in (10, 20):
        assert gap(name, steps, config, end=0.8) < 1e-4


@pytest.mark.parametrize("steps", [1, 2, 7, 20])
def test_plms_equals_pndm_without_runge_kutta_on_leading_steps(steps: int) -> None:
    config = BETAS | {"timestep_spacing": "leading", "prediction_type": "epsilon", "steps_offset": 1}
    assert gap("plms", steps, config) < 1e-4


@pytest.mark.parametrize(("steps", "strength"), [(10, 0.1), (10, 0.2), (10, 0.5), (20, 0.3), (50, 0.8)])
def test_plms_over_a_picture_equals_pndm_that_is_asked_twice_at_its_second_timestep(
    steps: int, strength: float
) -> None:
    """As `set_timesteps` lists them; diffusers' img2img pipelines cut the list, lose the second one, and go astray."""
    config = BETAS | {"timestep_spacing": "leading", "prediction_type": "epsilon", "steps_offset": 1}
    scheduler = SCHEDULERS["plms"](**config, **EXTRA["plms"])
    scheduler.set_timesteps(steps)
    ts = list(dict.fromkeys(scheduler.timesteps.tolist()))[steps - int(steps * strength) :]
    start = z = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for t in [*ts[:2], *ts[1:]]:
        z = scheduler.step(network(z, t), t, z, return_dict=False)[0]
    assert float((ours("plms", steps, config, start, strength) - z).abs().max()) < 1e-4


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_plms_of_one_step_is_ddim_of_one_step(spacing: str, prediction: str) -> None:
    config = BETAS | {"timestep_spacing": spacing, "prediction_type": prediction, "steps_offset": 1}
    z = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for steps, strength in ((1, 1.0), (12, 0.1)):
        expected = ours("ddim", steps, config, z, strength)
        torch.testing.assert_close(ours("plms", steps, config, z, strength), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["ddim", "ddpm", "euler"])
def test_equal_from_no_signal(name: str) -> None:
    config = BETAS | {"timestep_spacing": "trailing", "prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
    assert gap(name, 20, config) < 2e-4


@pytest.mark.parametrize("name", ["dpmpp_2m", "unipc"])
def test_solvers_from_no_signal_differ_by_how_near_to_it_diffusers_starts(name: str) -> None:
    """Ours takes the limit ᾱ → 0, theirs starts from ᾱ = 2⁻²⁴: the second step of theirs is of second order."""
    config = BETAS | {"timestep_spacing": "trailing", "prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
    assert gap(name, 20, config) < 1e-3


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize(("bound", "to_one"), [(0.4, True), (1.0, False)])
def test_ddim_goes_on_with_the_networks_eps_where_x0_is_clamped(prediction: str, bound: float, to_one: bool) -> None:
    config = BETAS | {"prediction_type": prediction, "clip_sample": True, "clip_sample_range": bound}
    config |= {"set_alpha_to_one": to_one, "timestep_spacing": "leading", "steps_offset": 0}
    z = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    scheduler = SCHEDULERS["ddim"](**config)
    scheduler.set_timesteps(10)
    expected = z
    for t in scheduler.timesteps:
        expected = scheduler.step(network(expected, float(t)), t, expected, return_dict=False)[0]
    torch.testing.assert_close(ours("ddim", 10, config, z), expected, atol=2e-4, rtol=1e-4)

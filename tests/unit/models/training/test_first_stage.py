"""Pieces of stage 1: codebooks, the pass-through start, losses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from core.errors import ConfigurationError
from models.checkpoints.layouts.first_stage import load_first_stage
from models.networks.autoencoder import Autoencoder
from models.networks.quantize import nearest
from models.training.configs.autoencoder import AutoencoderShape
from models.training.first_stage.codebook import CodeUse, flat, k_means, standardise, vectors_of
from models.training.first_stage.discriminator import PatchDiscriminator, adaptive_weight, hinge
from models.training.first_stage.losses import edge, kl_divergence, psnr
from models.training.first_stage.stage import TrainedAutoencoder
from models.training.first_stage.start import pass_through
from models.training.loop.processes import Processes
from tests.training import autoencoder_run, train, write_balls

CODES = "quantize.embedding.weight"


def network(channels: tuple[int, ...] = (8, 8, 16), kind: str = "vq") -> Autoencoder:
    torch.manual_seed(0)
    codebook = 8 if kind == "vq" else 0
    fields = dict(kind=kind, channels=channels, z_channels=3, norm_groups=1, codebook=codebook)
    return Autoencoder(AutoencoderShape.model_validate(fields).network())


def test_dead_codes_move_to_vectors_and_live_ones_stay() -> None:
    use, vectors = CodeUse(4), torch.arange(10.0)[:, None].expand(10, 2) + 100
    codes, average = torch.zeros(4, 2), torch.zeros(4, 2)
    for _ in range(3):
        use.note(torch.tensor([5.0, 0, 1, 0]))
    assert use.restart([codes, average], vectors, after=4, seed=1) == 0
    use.note(torch.tensor([1.0, 0, 0, 0]))
    assert use.restart([codes, average], vectors, after=4, seed=1) == 2
    assert (codes[[1, 3]] >= 100).all()
    assert (codes[[0, 2]] == 0).all()
    assert torch.equal(codes, average)
    assert use.idle.tolist() == [0, 0, 1, 0]


def test_k_means_finds_clusters_and_leaves_no_centre_dead() -> None:
    torch.manual_seed(0)
    middles = torch.tensor([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0], [9.0, 9.0]])
    vectors = (middles[:, None] + 0.1 * torch.randn(4, 50, 2)).flatten(0, 1)
    centres = k_means(vectors, 4, rounds=10, seed=3)
    distances = torch.cdist(vectors, centres).min(1)
    assert len(set(nearest(vectors, centres).tolist())) == len(centres)
    assert float(distances.values.mean()) < 5


def test_codes_come_from_all_pictures_and_not_the_first_few() -> None:
    """Of each as many vectors, drawn by seed and number; of small latents all, of as many pictures as that takes."""

    def latents(count: int, side: int) -> Iterator[tuple[int, torch.Tensor]]:
        for number in range(count):
            yield number, number + torch.arange(side**2).reshape(1, 1, side, side) / side**2

    found = vectors_of(latents(50, 16), 50, 1000, seed=0)
    assert found.shape == (1000, 1)
    assert found[:, 0].int().bincount().tolist() == [20] * 50
    assert torch.equal(found, vectors_of(latents(50, 16), 50, 1000, seed=0))
    assert not torch.equal(found, vectors_of(latents(50, 16), 50, 1000, seed=1))
    assert len({float(v) % 1 for v in found}) > 200  # other places in each picture
    few = vectors_of(latents(3000, 1), 3000, 2000, seed=0)
    assert few[:, 0].tolist() == [*range(2000)]
    seen = latents(3000, 8)
    assert len(vectors_of(seen, 3000, 4000, seed=0)) == 4000
    assert next(seen)[0] == 1000  # no more were encoded


def test_standardising_latents_changes_their_spread_and_not_the_picture() -> None:
    model, x = network(), torch.rand(2, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        before = model.decode(model.encode(x), quantize=False)
        unit = standardise(model, flat(model.encode(x)))
        z = flat(model.encode(x))
        after = model.decode(model.encode(x), quantize=False)
    assert torch.allclose(z, unit, atol=1e-4)
    assert torch.allclose(z.mean(0), torch.zeros(3), atol=1e-4)
    assert torch.allclose(z.std(0), torch.ones(3), atol=1e-4)
    assert torch.allclose(before, after, atol=1e-4)


def test_the_pass_through_start_shows_the_picture() -> None:
    """Nothing but scale and offset lies between a smooth picture and its reconstruction; not so from torch's start."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, 32), torch.linspace(-1, 1, 32), indexing="ij")
    picture = torch.stack([x, y, torch.cos(3 * x) * y])[None]
    for kind, start, least in (("vq", True, 0.9), ("kl", True, 0.9), ("vq", False, -1.0)):
        model = network(kind=kind)
        if start:
            pass_through(model)
        with torch.no_grad():
            made = model.decode(model.encode(picture), quantize=False)
        likeness = [
            float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1])
            for a, b in zip(picture[0], made[0], strict=True)
        ]
        assert min(likeness) > least
        assert start or min(likeness) < 0.9


def test_levels_too_narrow_to_pass_a_picture_through_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="6 channels a level"):
        pass_through(network(channels=(4, 8)))


def test_losses_are_what_their_formulas_say() -> None:
    assert psnr(torch.full((1, 3, 4, 4), 0.2), torch.zeros(1, 3, 4, 4))[0] == pytest.approx(20.0, abs=1e-4)
    assert kl_divergence(torch.zeros(1, 2, 3, 3), torch.zeros(1, 2, 3, 3))[0] == 0
    assert kl_divergence(torch.ones(1, 2, 3, 3), torch.zeros(1, 2, 3, 3))[0] == pytest.approx(9.0)
    step = torch.cat([torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2)], dim=3)
    assert edge(step)[0] == pytest.approx(1 / 3)
    assert hinge(torch.full((1, 1, 2, 2), 2.0), torch.full((1, 1, 2, 2), 0.0))[0] == pytest.approx(0.5)


@pytest.mark.parametrize("kind", ["kl", "vq"])
def test_latents_of_either_kind_may_get_noise_before_they_are_decoded(kind: str) -> None:
    model, x = TrainedAutoencoder(network(kind=kind)), torch.rand(1, 3, 32, 32) * 2 - 1
    added = 0.5 * torch.randn(1, 3, 8, 8)
    with torch.no_grad():
        plain, z, _ = model(x, None, None)
        noisy, same, _ = model(x, None, added)
        assert torch.equal(z, same)
        assert torch.equal(noisy, model.decoded(z + added))
    assert not torch.allclose(plain, noisy, atol=1e-3)


VQ = {"kind": "vq", "channels": (8, 8, 16), "z_channels": 3, "norm_groups": 1, "codebook": 16}


def test_a_first_stage_without_codes_is_not_written(tmp_path: Path) -> None:
    """Stopped before its codebook begins: what is there of it are random first weights."""
    write_balls(tmp_path / "data")
    run = autoencoder_run(tmp_path, autoencoder=VQ, codebook={"continuous": 0.5, "vectors": 200, "rounds": 2}, steps=4)
    train(run, until=2)
    assert (run.out / "state").is_dir()
    assert not (run.out / "first_stage").exists()
    train(run, until=3)
    assert load_first_stage(run.out / "first_stage").config.kind == "vq"
    for continuous in (0.9, 1.0):
        with pytest.raises(ValidationError, match=r"codebook\.continuous is .*; no step of 4 is left to learn codes"):
            autoencoder_run(tmp_path, autoencoder=VQ, codebook={"continuous": continuous}, steps=4)


@pytest.mark.parametrize("then", ["decoder", "all"])
def test_who_goes_on_from_a_first_stage_keeps_its_codes_or_says_that_new_ones_are_made(
    tmp_path: Path, then: str
) -> None:
    write_balls(tmp_path / "data")
    first = autoencoder_run(tmp_path, autoencoder=VQ, codebook={"vectors": 200, "rounds": 2})
    train(first)
    before = load_first_stage(first.out / "first_stage").state
    more = {"autoencoder": VQ, "start": "random", "start_from": first.out / "first_stage", "steps": 2}
    kept, new = (
        autoencoder_run(
            tmp_path, **more, codebook={"continuous": at, "then": then, "vectors": 200}, out=tmp_path / name
        )
        for name, at in (("kept", 0.0), ("new", 0.5))
    )
    moved = []
    for run in (kept, new):
        train(run)
        after = load_first_stage(run.out / "first_stage").state
        assert not torch.equal(after["decoder.conv_out.weight"], before["decoder.conv_out.weight"])
        moved.append(float((after[CODES] - before[CODES]).abs().max()))
    assert moved[0] <= (0.0 if then == "decoder" else 0.02)
    assert moved[1] > 0.02
    with pytest.raises(ValidationError, match=r"codebook\.continuous isn't said; 0 keeps the codes of start_from"):
        autoencoder_run(tmp_path, **more)


def test_latent_noise_changes_what_a_kl_first_stage_learns(tmp_path: Path) -> None:
    write_balls(tmp_path / "data")
    clean, noisy = (
        train(autoencoder_run(tmp_path, steps=1, latent_noise=noise, out=tmp_path / f"{noise}")) for noise in (0.0, 0.5)
    )
    assert clean != noisy


def test_the_adaptive_weight_balances_gradients_at_the_last_layer() -> None:
    last = torch.ones(3, requires_grad=True)
    weight = adaptive_weight((3 * last).sum(), (0.5 * last).sum(), last, Processes())
    assert float(weight) == pytest.approx(6.0, rel=1e-3)


def test_a_pictures_logits_dont_depend_on_its_neighbours() -> None:
    torch.manual_seed(0)
    critic, x = PatchDiscriminator(width=8), torch.randn(3, 3, 32, 32)
    assert torch.allclose(critic(x)[:1], critic(x[:1]), atol=1e-5)

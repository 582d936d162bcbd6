"""Previews: of each picture of a job, at their steps, in no more events than without, and changing nothing."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import count

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange
from PIL import Image

from contract.add_ons import AppliedUpscaler, Hires
from tests.engines import EITHER, finished, job_of, make_engine, play
from workers.engine.decoding import draw_alike
from workers.engine.messages import Called, Outcome, Stepped


def steps_of(outcomes: list[Outcome], job_id: str = "a") -> list[Stepped]:
    return [o for o in outcomes if isinstance(o, Stepped) and o.job_id == job_id]


def shown(steps: list[Stepped]) -> Counter[int]:
    """How many previews each picture had."""
    return Counter(index for step in steps for index in step.previews)


@EITHER
def test_previews_come_with_their_steps_and_change_nothing(as_gpu: bool) -> None:
    outcomes = play(make_engine(as_gpu=as_gpu), [job_of("a", steps=6, preview_every=2, width=600, height=320)])
    previews = {o.step: o.previews for o in steps_of(outcomes)}
    assert {step: [*each] for step, each in previews.items() if each} == {2: [0], 4: [0]}
    picture = Image.open(io.BytesIO(previews[2][0]))
    assert picture.format == "WEBP"
    assert max(picture.size) <= 256
    plain = play(make_engine(as_gpu=as_gpu), [job_of("a", steps=6, width=600, height=320)])
    assert finished(outcomes)["a", 0].tobytes() == finished(plain)["a", 0].tobytes()


def _pixels(pictures: Sequence[Image.Image]) -> torch.Tensor:
    """What is each one's own, n k: without what all have in common, of length 1."""
    same = torch.tensor([list(picture.convert("RGB").resize((32, 32)).tobytes()) for picture in pictures]).float()
    return F.normalize(same - same.mean(0), dim=1)


def nearest(previews: Mapping[int, bytes], outcomes: list[Outcome], job_id: str) -> list[int]:
    """Which picture of a job each preview, in their order, is most like."""
    drawn = [picture for (whose, _), picture in sorted(finished(outcomes).items()) if whose == job_id]
    shown = [Image.open(io.BytesIO(data)) for data in previews.values()]
    likeness: list[int] = (_pixels(shown) @ _pixels(drawn).T).argmax(dim=1).tolist()
    return likeness


@EITHER
@pytest.mark.parametrize("max_rows", [16, 6, 2])
def test_each_picture_of_a_job_has_its_own_previews(as_gpu: bool, max_rows: int) -> None:
    """In one call with another job, three a call, or each by itself; in no more events than without."""
    job = {"num_images": 4, "steps": 8, "width": 128, "height": 128}
    asked = [job_of("other", steps=5, preview_every=3), job_of("a", preview_every=2, **job)]
    outcomes = play(make_engine(as_gpu=as_gpu, max_rows=max_rows), asked)
    steps = steps_of(outcomes)
    assert shown(steps) == {0: 3, 1: 3, 2: 3, 3: 3}
    assert [o.step for o in steps] == sorted({o.step for o in steps})
    last = {index: data for o in steps for index, data in o.previews.items()}
    assert nearest(last, outcomes, "a") == [*last]
    plain = play(make_engine(as_gpu=as_gpu, max_rows=max_rows), [job_of("other", steps=5), job_of("a", **job)])
    assert len(steps_of(plain)) == len(steps)
    assert {key: each.tobytes() for key, each in finished(plain).items()} == {
        key: each.tobytes() for key, each in finished(outcomes).items()
    }


@EITHER
def test_only_jobs_that_go_on_are_previewed(as_gpu: bool) -> None:
    """Not one that was dropped while its previews were due; the other's share the call with it."""
    engine = make_engine(as_gpu=as_gpu)
    for job_id in "ab":
        engine.admit(job_of(job_id, num_images=2, preview_every=1, steps=6))
    while not any(isinstance(o, Called) for o in engine.turn()):
        pass
    engine.drop("a")
    outcomes = play(engine)
    assert steps_of(outcomes) == []
    assert shown(steps_of(outcomes, "b")) == {0: 5, 1: 5}


def test_previews_that_were_overtaken_come_with_the_next_step() -> None:
    """A job that is prepared meanwhile goes first, and what was read before it is told in order."""
    engine = make_engine(as_gpu=True, max_rows=4)
    engine.admit(job_of("a", num_images=4, preview_every=2, steps=6))
    outcomes: list[Outcome] = []
    for number in count():
        outcomes += engine.turn()
        if not engine.busy:
            break
        if number < 20:
            engine.admit(job_of(f"b{number}", steps=1))
    steps = steps_of(outcomes)
    assert [o.step for o in steps] == sorted({o.step for o in steps})
    assert shown(steps).keys() == {0, 1, 2, 3}
    assert len(finished(outcomes)) == 24


def test_previews_after_the_first_are_smaller() -> None:
    """So that an event of many stays small, and as large on the screen as their tiles are."""
    job = job_of("a", num_images=8, steps=2, preview_every=1, guidance_scale=1.0, width=256, height=192)
    (previews,) = [step.previews for step in steps_of(play(make_engine(), [job])) if step.previews]
    sizes = [Image.open(io.BytesIO(previews[k])).size for k in range(8)]
    assert sizes == [(256, 192), *[(128, 96)] * 7]


def test_previews_have_the_shape_of_the_picture() -> None:
    job = job_of("a", num_images=2, steps=2, preview_every=1, guidance_scale=1.0, width=70, height=50)
    (previews,) = [step.previews for step in steps_of(play(make_engine(), [job])) if step.previews]
    assert [Image.open(io.BytesIO(previews[k])).size for k in (0, 1)] == [(70, 50)] * 2


def test_what_one_picture_teaches_draws_the_others() -> None:
    """Of a decoder that is linear in the latents around a place the others come out as it would decode them."""
    decoder = torch.randn(27, 4, 3, 3, generator=torch.Generator().manual_seed(1)) / 18  # to 3 × 3 pixels of 3 colours
    z = torch.randn(3, 4, 40, 40, generator=torch.Generator().manual_seed(2))
    pixels = F.conv2d(F.pad(z, (1, 1, 1, 1), mode="replicate"), decoder)
    pictures = rearrange(pixels, "b (c u v) h w -> b c (h u) (w v)", u=3, v=3)
    drawn = draw_alike(z, pictures[:1])
    assert drawn.shape == pictures[1:].shape
    assert (drawn - pictures[1:]).square().mean() < 0.01 * pictures.square().mean()


@pytest.mark.parametrize("value", [0.0, 1e30, float("inf"), float("nan")])
def test_a_broken_latent_breaks_no_preview(value: float) -> None:
    assert draw_alike(torch.full((2, 4, 8, 8), value), torch.full((1, 3, 64, 64), value)).isfinite().all()


def test_every_picture_is_previewed_in_both_stages_though_each_is_enlarged_by_itself() -> None:
    up = AppliedUpscaler(id="up", hash="c0ffee", scale=4, steps=3, sampler="ddim")
    hires = Hires(scale=2.0, strength=1.0, steps=4, upscaler="up", enlarged_by=up)
    steps = steps_of(play(make_engine(), [job_of("a", preview_every=2, num_images=3, steps=4, hires=hires)]))
    assert steps[-1].step == 3 * 11
    assert shown(steps) == {0: 5, 1: 5, 2: 5}

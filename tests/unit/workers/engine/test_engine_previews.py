"""Previews: of each picture of a job, at their steps, in no more events than without, and changing nothing."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping
from itertools import count

import pytest
import torch
from PIL import Image

from contract.add_ons import AppliedUpscaler, Hires
from tests.engines import finished, make_engine, make_request, play
from workers.engine.messages import Admission, Called, Outcome, Stepped
from workers.engine.pictures import preview_side

EITHER = pytest.mark.parametrize("as_gpu", [False, True])  # outcomes at once, or read with a later turn


def _job(job_id: str, **changes: object) -> Admission:
    return Admission(job_id, make_request(**changes))


def steps_of(outcomes: list[Outcome], job_id: str = "a") -> list[Stepped]:
    return [o for o in outcomes if isinstance(o, Stepped) and o.job_id == job_id]


def shown(steps: list[Stepped]) -> Counter[int]:
    """How many previews each picture had."""
    return Counter(index for step in steps for index in step.previews)


@EITHER
def test_previews_come_with_their_steps_and_change_nothing(as_gpu: bool) -> None:
    outcomes = play(make_engine(as_gpu=as_gpu), [_job("a", steps=6, preview_every=2, width=600, height=320)])
    previews = {o.step: o.previews for o in steps_of(outcomes)}
    assert {step: [*each] for step, each in previews.items() if each} == {2: [0], 4: [0]}
    picture = Image.open(io.BytesIO(previews[2][0]))
    assert picture.format == "WEBP"
    assert max(picture.size) <= 256
    plain = play(make_engine(as_gpu=as_gpu), [_job("a", steps=6, width=600, height=320)])
    assert finished(outcomes)["a", 0].tobytes() == finished(plain)["a", 0].tobytes()


def _pixels(picture: Image.Image) -> torch.Tensor:
    return torch.tensor(list(picture.convert("RGB").resize((32, 32)).tobytes()), dtype=torch.float32)


def nearest(previews: Mapping[int, bytes], outcomes: list[Outcome], job_id: str) -> list[int]:
    """Which picture of a job each preview, in their order, is nearest to."""
    drawn = [_pixels(picture) for (whose, _), picture in sorted(finished(outcomes).items()) if whose == job_id]
    shown = [_pixels(Image.open(io.BytesIO(data))) for data in previews.values()]
    return [min(range(len(drawn)), key=lambda k: float((each - drawn[k]).square().mean())) for each in shown]


@EITHER
@pytest.mark.parametrize("max_rows", [16, 6, 2])
def test_each_picture_of_a_job_has_its_own_previews(as_gpu: bool, max_rows: int) -> None:
    """In one call with another job, three a call, or each by itself; in no more events than without."""
    job = {"num_images": 4, "steps": 8, "guidance_scale": 4.0}
    asked = [_job("other", steps=5, preview_every=3), _job("a", preview_every=2, **job)]
    outcomes = play(make_engine(as_gpu=as_gpu, max_rows=max_rows), asked)
    steps = steps_of(outcomes)
    assert shown(steps) == {0: 3, 1: 3, 2: 3, 3: 3}
    assert [o.step for o in steps] == sorted({o.step for o in steps})
    last = {index: data for o in steps for index, data in o.previews.items()}
    assert nearest(last, outcomes, "a") == [*last]
    plain = play(make_engine(as_gpu=as_gpu, max_rows=max_rows), [_job("other", steps=5), _job("a", **job)])
    assert len(steps_of(plain)) == len(steps)
    assert {key: each.tobytes() for key, each in finished(plain).items()} == {
        key: each.tobytes() for key, each in finished(outcomes).items()
    }


@EITHER
def test_only_jobs_that_go_on_are_previewed(as_gpu: bool) -> None:
    """Not one that was dropped while its previews were due; the other's share the call with it."""
    engine = make_engine(as_gpu=as_gpu)
    for job_id in "ab":
        engine.admit(_job(job_id, num_images=2, preview_every=1, steps=6))
    while not any(isinstance(o, Called) for o in engine.turn()):
        pass
    engine.drop("a")
    outcomes = play(engine)
    assert steps_of(outcomes) == []
    assert shown(steps_of(outcomes, "b")) == {0: 5, 1: 5}


def test_previews_that_were_overtaken_come_with_the_next_step() -> None:
    """A job that is prepared meanwhile goes first, and what was read before it is told in order."""
    engine = make_engine(as_gpu=True, max_rows=4)
    engine.admit(_job("a", num_images=4, preview_every=2, steps=6))
    outcomes: list[Outcome] = []
    for number in count():
        outcomes += engine.turn()
        if not engine.busy:
            break
        if number < 20:
            engine.admit(_job(f"b{number}", steps=1))
    steps = steps_of(outcomes)
    assert [o.step for o in steps] == sorted({o.step for o in steps})
    assert shown(steps).keys() == {0, 1, 2, 3}
    assert len(finished(outcomes)) == 24


def test_the_previews_of_many_pictures_are_small() -> None:
    """Together as large as four of one picture, so that an event of them stays small, too."""
    for images, side in ((1, 256), (4, 256), (8, 170)):
        job = _job("a", num_images=images, steps=2, preview_every=1, guidance_scale=1.0, width=256, height=256)
        previews = {k: data for step in steps_of(play(make_engine(), [job])) for k, data in step.previews.items()}
        assert sorted(previews) == [*range(images)]
        assert {Image.open(io.BytesIO(data)).size for data in previews.values()} == {(side, side)}
    assert preview_side(16) == 128


def test_every_picture_is_previewed_in_both_stages_though_each_is_enlarged_by_itself() -> None:
    up = AppliedUpscaler(id="up", hash="c0ffee", scale=4, steps=3, sampler="ddim")
    hires = Hires(scale=2.0, strength=1.0, steps=4, upscaler="up", enlarged_by=up)
    steps = steps_of(play(make_engine(), [_job("a", preview_every=2, num_images=3, steps=4, hires=hires)]))
    assert steps[-1].step == 3 * 11
    assert shown(steps) == {0: 5, 1: 5, 2: 5}

"""LoRAs and ControlNets in a job of two passes: the second pass, too, is of both, and resumes with them."""

from __future__ import annotations

from pathlib import Path

import pytest

from contract.add_ons import Hires
from contract.uploads import control_name
from tests import controls, loras
from tests.engines import finished, make_engine, make_request, picture_bytes, play
from workers.engine.engine import Engine
from workers.engine.messages import Admission, Stepped

FIRST = 4  # steps of the first pass
HIRES = Hires(scale=2.0, strength=0.5, steps=8, upscaler="latent", enlarged_by=None)


@pytest.fixture(scope="module")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    loras.write_loras(folder)
    controls.write_controls(folder)
    return folder


def _engine(models_dir: Path) -> Engine:
    libraries = {"loras": loras.library_of(models_dir), "controlnets": controls.library_of(models_dir)}
    return make_engine({"pipeline": loras.small_sd()}, **libraries)  # type: ignore[arg-type]


def _job(models_dir: Path, lora: float, control: float, snapshot: bytes | None = None) -> Admission:
    request = make_request(
        model="pipeline",
        steps=FIRST,
        determinism="strict",
        hires=HIRES,
        loras=loras.applied(models_dir, style=lora),
        controls=[controls.applied(models_dir, "any", scale=control)],
    )
    return Admission("a", request, {control_name(0): picture_bytes(64, 64)}, snapshot=snapshot)


def _state_in_the_second_pass(models_dir: Path) -> bytes:
    engine, reached = _engine(models_dir), 0
    engine.admit(_job(models_dir, lora=1.0, control=1.0))
    while reached <= FIRST:
        reached = max([reached, *(o.step for o in engine.turn() if isinstance(o, Stepped))])
    state = engine.snapshot("a")
    assert state is not None
    return state


def test_the_second_pass_is_of_both(models_dir: Path) -> None:
    """From one state within it, a job ends in another picture as soon as it loses either."""
    state = _state_in_the_second_pass(models_dir)
    scales = {"both": (1.0, 1.0), "control": (0.0, 1.0), "lora": (1.0, 0.0)}
    ends = {name: play(_engine(models_dir), [_job(models_dir, *pair, state)]) for name, pair in scales.items()}
    assert {o.step for each in ends.values() for o in each if isinstance(o, Stepped)} <= set(range(FIRST + 1, 9))
    pictures = {name: finished(outcomes)["a", 0] for name, outcomes in ends.items()}
    assert {picture.size for picture in pictures.values()} == {(128, 128)}
    assert len({picture.tobytes() for picture in pictures.values()}) == 3
    unbroken = finished(play(_engine(models_dir), [_job(models_dir, 1.0, 1.0)]))["a", 0]
    assert pictures["both"].tobytes() == unbroken.tobytes()

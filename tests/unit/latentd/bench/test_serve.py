"""`latentd bench serve`: the load, the policies on a real engine, what the peers do with a batch, what clients post."""

from __future__ import annotations

import io
import math
import os
import sys
import time
from collections import deque
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from contract.card import ModelCard
from core.errors import ConfigurationError
from latentd.bench.peers.options import Options
from latentd.bench.serve.client import for_latentd, for_peer
from latentd.bench.serve.environment import python_of
from latentd.bench.serve.load import Question, Side, Timed, default_mix, jobs, measure, runs_of
from latentd.bench.serve.policies import ByRequests, BySteps, alike, anything, play, sides
from latentd.bench.serve.servers import Server, ServerFailed, ours
from tests.engines import make_engine
from tests.tiny import write_tiny_inpaint

SIDE = 64


@pytest.fixture(scope="module")
def card(tmp_path_factory: pytest.TempPathFactory) -> ModelCard:
    folder = write_tiny_inpaint(tmp_path_factory.mktemp("models") / "paint")
    return ModelCard.model_validate_json((folder / "card.json").read_bytes())


def drawn(card: ModelCard, rate: float, count: int) -> list[Timed]:
    return jobs(default_mix(card, SIDE), card, rate, count, seed=0)


def test_jobs_mix_tasks_and_steps_and_come_sooner_at_a_higher_rate(card: ModelCard) -> None:
    slow, fast = drawn(card, 1.0, 200), drawn(card, 4.0, 200)
    assert {job.request.kind for job in slow} == {"txt2img", "inpaint"}
    assert {job.request.steps for job in slow} == {8, 12, 20, 30}
    assert [job.request for job in slow] == [job.request for job in fast]
    assert [job.at for job in slow] == pytest.approx([4 * job.at for job in fast])
    assert slow[-1].at == pytest.approx(200, rel=0.3)
    assert {job.at for job in drawn(card, math.inf, 5)} == {0.0}


def test_pictures_that_are_repainted_have_the_size_of_the_answer(card: ModelCard) -> None:
    for job in jobs(default_mix(card, 128), card, 1.0, 20, seed=0):
        assert {(file.width, file.height) for file in job.request.files.values()} <= {(128, 128)}


def test_every_policy_answers_every_job(card: ModelCard) -> None:
    made = sides(make_engine(), 16)
    for side in made:
        waited = side.play(drawn(card, 200.0, 8))
        assert len(waited) == 8
        assert min(waited) > 0
    assert [side.batches for side in made] == [True, True, True, False]


def test_requests_are_batched_with_their_like_alone_and_nobody_joins(card: ModelCard) -> None:
    engine, policy = make_engine(), ByRequests(8, 0.0, alike)
    waiting = deque(enumerate(drawn(card, math.inf, 30)))
    batch = policy.take(waiting, engine, 0.0)
    assert 1 < len(batch) <= 8
    assert len({alike(job.request) for _, job in batch}) == 1
    assert len(waiting) == 30 - len(batch)
    assert len(ByRequests(8, 0.0, anything).take(deque(enumerate(drawn(card, math.inf, 30))), engine, 0.0)) == 8


def test_the_first_of_a_batch_waits_for_others_as_long_as_the_window_is(card: ModelCard) -> None:
    engine, policy = make_engine(), ByRequests(8, 0.5, alike)
    waiting = deque([(0, drawn(card, math.inf, 1)[0])])
    assert policy.take(waiting, engine, 0.49) == []
    assert len(policy.take(waiting, engine, 0.5)) == 1


def test_step_batching_admits_what_the_engine_has_room_for(card: ModelCard) -> None:
    engine = make_engine(max_rows=4)
    waiting = deque(enumerate(drawn(card, math.inf, 30)))
    assert len(BySteps().take(waiting, engine, 0.0)) == engine.capacity("paint")


def test_all_sides_get_the_same_load_in_turn_and_loads_follow_the_smallest_that_batches(card: ModelCard) -> None:
    seen: list[tuple[str, float]] = []

    def side(name: str, seconds: float, batches: bool) -> Side:
        def serve(load: object) -> list[float]:
            assert isinstance(load, list)
            seen.append((name, load[-1].at))
            return [seconds * (i + 1) for i in range(len(load))]

        return Side(name, serve, batches)

    question = Question(default_mix(card, SIDE), card, 4, 0, rounds=2, shares=(0.5,))
    both = [side("a", 0.1, batches=True), side("b", 0.2, batches=True), side("c", 1.0, batches=False)]
    calls: list[None] = []
    rows = measure(both, question, lambda: calls.append(None))
    assert len(calls) == runs_of(3, question) == 12
    assert [row["side"] for row in rows] == ["a", "b", "c"]
    assert rows[0]["p99, s"] == pytest.approx(0.4), "of both rounds together"
    assert {row["jobs/s"] for row in rows} == {0.5 * 5.0}  # half of b's capacity; c doesn't batch
    assert [name for name, _ in seen[3:]] == ["a", "b", "c"] * 4
    assert seen[-1][1] == seen[-2][1] == seen[-3][1]


def test_a_bench_of_one_job_is_refused(card: ModelCard) -> None:
    with pytest.raises(ConfigurationError, match="--jobs 1"):
        Question(default_mix(card, SIDE), card, 1, 0)


def test_a_job_that_fails_ends_the_bench(card: ModelCard) -> None:
    job = drawn(card, math.inf, 1)[0]
    unknown = Timed(0.0, job.request.model_copy(update={"model": "other"}))
    with pytest.raises(Exception, match="other"):
        play(make_engine(), ByRequests(1, 0.0, alike), [unknown])


def test_clients_post_the_same_work_to_all(card: ModelCard) -> None:
    job = next(job for job in drawn(card, 1.0, 20) if job.request.kind == "inpaint")
    path, ours = for_latentd(job.request)
    assert path == "/v1/inpaint"
    where, theirs = for_peer(job.request)
    assert where == "/predict"
    same = ("prompt", "seed", "steps", "guidance_scale", "image", "mask")
    assert [ours[name] for name in same] == [theirs[name] for name in same]
    assert (theirs["width"], theirs["height"]) == (SIDE, SIDE)
    assert "width" not in ours  # the picture says it


def test_a_peer_s_command_line_says_all_of_its_options() -> None:
    options = Options(Path("a"), 1, "cpu", "float32", 2, 8, 0.05)
    assert options.arguments()[:4] == ["--folder", "a", "--port", "1"]
    assert len(options.arguments()) == 14


def test_a_missing_diffusers_is_found_out_before_anything_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("latentd.bench.serve.environment.find_spec", lambda _name: None)
    with pytest.raises(ConfigurationError, match="diffusers"):
        python_of(tmp_path / "peers")
    assert not (tmp_path / "peers").exists()


def test_a_peer_answers_a_mixed_batch_in_its_order(tmp_path: Path, card: ModelCard) -> None:
    from latentd.bench.peers.painter import Painter
    from models.checkpoints.layouts.diffusers.writer import save_diffusers
    from models.checkpoints.layouts.native import load_native

    folder = write_tiny_inpaint(tmp_path / "native")
    native = load_native(folder)
    unet = replace(native.config.unet, res_down=(False, False), res_up=(False, False))
    save_diffusers(replace(native, config=replace(native.config, unet=unet)), tmp_path / "theirs")
    painter = Painter.load(tmp_path / "theirs", "cpu", "float32", 1)
    bodies = [for_peer(job.request)[1] | {"steps": 1 + i % 2} for i, job in enumerate(drawn(card, 1.0, 4))]
    pictures = painter.paint(bodies)
    assert [Image.open(io.BytesIO(picture)).size for picture in pictures] == [(SIDE, SIDE)] * 4
    assert pictures[2] == painter.paint([bodies[2]])[0] or levels(pictures[2], painter.paint([bodies[2]])[0]) <= 1


def levels(a: bytes, b: bytes) -> int:
    import numpy as np

    first, second = (np.asarray(Image.open(io.BytesIO(data)), np.int16) for data in (a, b))
    return int(np.abs(first - second).max())


def test_a_server_is_stopped_with_all_that_it_started_and_one_that_ends_is_told_of(tmp_path: Path) -> None:
    told = tmp_path / "child"
    script = (
        "import subprocess, sys, time, pathlib\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"pathlib.Path({str(told)!r}).write_text(str(child.pid))\n"
        "time.sleep(600)\n"
    )
    command = [sys.executable, "-c", script]
    with Server(
        "theirs", command, 1, tmp_path / "log", lambda _port: told.exists() and bool(told.read_text()), dict(os.environ)
    ):
        child = int(told.read_text())
        os.kill(child, 0)
    ends = time.monotonic() + 10
    while is_alive(child):
        assert time.monotonic() < ends
        time.sleep(0.01)
    broken = Server(
        "theirs", [sys.executable, "-c", "raise SystemExit('no')"], 1, tmp_path / "log", lambda _port: False, {}
    )
    with pytest.raises(ServerFailed, match="theirs doesn't serve: no"), broken:
        pass


def is_alive(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_our_side_joins_no_service_that_the_environment_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would draw that one's jobs, and delete their pictures with its own at the end."""
    monkeypatch.setenv("REDIS_URL", "redis://production:6379")
    monkeypatch.setenv("LATENTD_STORAGE_URL", "s3://production")
    monkeypatch.chdir(tmp_path)
    Path(".env").write_text("REDIS_URL=redis://production:6379\n", "utf-8")
    server = ours(tmp_path / "models", Path("bench"), "cpu", "float32", 1, 4)
    assert server.env["LATENTD_DATA_DIR"] == str(tmp_path / "bench" / "data")
    assert {"REDIS_URL", "LATENTD_STORAGE_URL"}.isdisjoint(server.env)
    assert server.cwd == tmp_path / "bench"  # where no .env is

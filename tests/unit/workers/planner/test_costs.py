from __future__ import annotations

import json
from pathlib import Path

import pytest

from contract.measurements import ShapeTimes, StepTimes
from core.errors import ConfigurationError
from tests.unit.workers.planner.planning import make_class, make_costs, make_table
from workers.planner.costs import price
from workers.planner.files import read_mix, read_report
from workers.planner.mix import arrivals


def test_calls_are_interpolated_by_rows() -> None:
    costs = make_costs()
    seconds = [costs.call_s("m", (4, 32, 32), rows) for rows in (1, 3, 8, 12, 16, 32)]
    assert seconds == pytest.approx([0.02, 0.021, 0.028, 0.034, 0.04, 0.08])
    assert costs.assumed == ()


def test_a_job_is_priced_as_the_contract_counts_it() -> None:
    (job,) = make_costs(make_class(kind="img2img", steps=20, strength=0.5, num_images=3)).jobs
    assert (job.steps, job.rows, job.images, job.shape) == (10, 2, 3, (4, 32, 32))
    (job,) = make_costs(make_class(guidance_scale=1.0)).jobs
    assert job.rows == 1


def test_a_padded_size_has_the_measured_shape() -> None:
    (job,) = make_costs(make_class(width=250, height=200)).jobs
    assert job.shape == (4, 32, 32)


def test_a_size_that_was_not_measured_is_scaled_and_said_to_be() -> None:
    costs = make_costs(make_class(width=512, height=512))
    assert costs.jobs[0].shape == (4, 64, 64)
    assert costs.call_s("m", (4, 64, 64), 1) == pytest.approx(0.08)
    assert costs.jobs[0].decode_s == pytest.approx(0.048)
    assert "scaled by 4.00" in costs.assumed[0]


def test_what_only_another_size_has_is_taken_from_it_and_said_to_be() -> None:
    small = make_table().shapes[0]
    large = ShapeTimes(shape=(4, 64, 64), calls={2: 0.1}, encode_s={"txt2img": 0.04}, decode_s=None)
    costs = make_costs(make_class(width=512, height=512), shapes=(small, large))
    assert costs.jobs[0].decode_s == pytest.approx(0.048)
    assert costs.assumed[0].endswith("decoding is that of the measured 32×32, scaled by 4.00")


def test_a_table_without_overheads_gets_measured_ones_and_says_so() -> None:
    assert "a round takes 1 ms" in make_costs(round_s=None).assumed[0]


def test_what_was_not_measured_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="model other has no step-time table"):
        price((make_class(model="other"),), {"m": make_table()})
    with pytest.raises(ConfigurationError, match="lacks an encoding time"):
        make_costs(make_class(kind="inpaint"))
    with pytest.raises(ConfigurationError, match="lacks a storing time"):
        make_costs(store_s=None)
    empty: StepTimes = make_table(shapes=())
    with pytest.raises(ConfigurationError, match="no step-time table"):
        price((make_class(),), {"m": empty})


def test_arrivals_are_poisson_and_repeat() -> None:
    mix = (make_class(weight=3), make_class(priority="bulk"))
    stream = arrivals(mix, 5.0, 4000, seed=1)
    assert stream == arrivals(mix, 5.0, 4000, seed=1)
    assert stream != arrivals(mix, 5.0, 4000, seed=2)
    assert stream[-1].time == pytest.approx(800, rel=0.05)
    assert sum(one.index for one in stream) == pytest.approx(1000, rel=0.1)
    assert [one.time for one in arrivals(mix, 10.0, 9, 1)] == pytest.approx([one.time / 2 for one in stream[:9]])
    with pytest.raises(ValueError, match="rate is 0"):
        arrivals(mix, 0, 1, seed=0)


def test_a_wrong_mix_file_names_the_entry(tmp_path: Path) -> None:
    file = tmp_path / "mix.json"
    file.write_text(json.dumps([make_class().model_dump(), {**make_class().model_dump(), "steps": 0}]))
    with pytest.raises(ConfigurationError, match=r"1\.steps: .*greater than or equal to 1"):
        read_mix(file)
    for wrong in ('"weight": Infinity', '"guidance_scale": NaN', '"guidance_scale": 51'):
        file.write_text('[{"kind": "txt2img", "model": "m", "width": 64, "height": 64, ' + wrong + "}]")
        with pytest.raises(ConfigurationError, match=r"0\.(weight|guidance_scale): "):
            read_mix(file)
    file.write_text("[]")
    with pytest.raises(ConfigurationError, match="at least one class"):
        read_mix(file)
    with pytest.raises(ConfigurationError, match="No such file"):
        read_mix(tmp_path / "none.json")
    with pytest.raises(ConfigurationError, match="--table"):
        read_report(file)


def test_a_second_pass_is_priced_at_its_size() -> None:
    one = make_costs(make_class()).jobs[0]
    two = make_costs(make_class(hires={"scale": 2.0, "strength": 0.5}))
    assert (two.jobs[0].shape, two.jobs[0].steps) == ((4, 64, 64), round(5 + 10 / 4))
    assert two.jobs[0].decode_s == pytest.approx(4 * one.decode_s)
    assert "256×256 and ×2, 10 steps" in two.jobs[0].name

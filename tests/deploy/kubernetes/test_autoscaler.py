"""The numbers that KEDA is given, computed by promtool from made-up series."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.files import KUBERNETES, documents

SCALED = documents(KUBERNETES / "overlays" / "autoscale" / "worker-scaling.yaml")[0]
INTERACTIVE, BULK = (trigger["metadata"]["query"] for trigger in SCALED["spec"]["triggers"])


def series(name: str, value: str, **labels: str) -> dict[str, str]:
    """As a gateway tells it, and another one the same."""
    text = ",".join(f'{label}="{each}"' for label, each in labels.items())
    return {"series": f"{name}{{{text}}}", "values": value}


def told(oldest: dict[tuple[str, str], str], workers: dict[str, str]) -> list[dict[str, str]]:
    found = []
    for gateway in ("g", "h"):
        for (model, lane), value in oldest.items():
            found.append(series("latentd_queue_oldest_seconds", value, model=model, lane=lane, instance=gateway))
        found += [series("latentd_workers", value, model=model, instance=gateway) for model, value in workers.items()]
    return found


@pytest.mark.parametrize(
    ("oldest", "workers", "interactive", "bulk"),
    [
        ({("a", "interactive"): "60", ("a", "bulk"): "0"}, {"a": "2"}, 60, 0),
        ({("a", "interactive"): "60", ("a", "bulk"): "7"}, {"a": "0"}, 0, 0),
        (
            {("a", "interactive"): "60", ("a", "bulk"): "0", ("b", "interactive"): "20", ("b", "bulk"): "900"},
            {"a": "0", "b": "1"},
            20,
            900,
        ),
        ({}, {}, None, None),  # Redis or every gateway is away
    ],
)
def test_only_jobs_that_more_workers_would_serve_count(
    tmp_path: Path,
    oldest: dict[tuple[str, str], str],
    workers: dict[str, str],
    interactive: float | None,
    bulk: float | None,
) -> None:
    expected = [(INTERACTIVE, interactive), (BULK, bulk)]
    asked = [{"expr": expr, "eval_time": "0m", "exp_samples": sample(value)} for expr, value in expected]
    test = {"interval": "1m", "input_series": told(oldest, workers), "promql_expr_test": asked}
    (tmp_path / "test.yml").write_text(yaml.safe_dump({"tests": [test]}), "utf-8")
    done = subprocess.run(
        ["promtool", "test", "rules", "test.yml"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def sample(value: float | None) -> list[dict[str, Any]]:
    return [] if value is None else [{"labels": "{}", "value": value}]


def test_no_answer_is_told_from_nothing_waits() -> None:
    assert {trigger["metadata"]["ignoreNullValues"] for trigger in SCALED["spec"]["triggers"]} == {"false"}
    assert SCALED["spec"]["fallback"]["replicas"] >= SCALED["spec"]["minReplicaCount"]

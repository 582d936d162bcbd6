"""The committed dashboards are what the code writes; alerts pass their own tests; both name metrics that exist."""

from __future__ import annotations

import json
import re
import subprocess
import time
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from deploy.grafana.boards import BOARDS
from deploy.grafana.build import to_json
from deploy.grafana.panel import Board
from service.metrics.families import Metrics
from tests.deploy.files import DASHBOARDS, DEPLOY, PROMETHEUS, ROOT, documents, services
from tests.deploy.prometheus import Prometheus
from workers.metrics.families import WorkerMetrics

SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}
NAME = re.compile(r"\blatentd_[a-z_]+\b")


def exported() -> set[str]:
    """Every name that a gateway or worker may show."""
    registries: list[CollectorRegistry] = [Metrics().registry, WorkerMetrics().registry]
    families = [family for registry in registries for family in registry.collect()]
    return {family.name + suffix for family in families for suffix in SUFFIXES[family.type]}


def rules() -> list[dict[str, Any]]:
    return [rule for group in documents(PROMETHEUS / "alerts.yml")[0]["groups"] for rule in group["rules"]]


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.name)
def test_committed_dashboards_are_current(board: Board) -> None:
    file = DASHBOARDS / f"{board.name}.json"
    assert file.read_text("utf-8") == to_json(board), "run: python -m deploy.grafana"


def test_no_dashboard_is_left_over() -> None:
    assert {file.stem for file in DASHBOARDS.iterdir()} == {board.name for board in BOARDS}


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.name)
def test_dashboards_ask_for_metrics_that_there_are(board: Board) -> None:
    for panel in json.loads((DASHBOARDS / f"{board.name}.json").read_text("utf-8"))["panels"]:
        for target in panel["targets"]:
            assert set(NAME.findall(target["expr"])) <= exported(), panel["title"]


def test_every_metric_is_shown_somewhere() -> None:
    shown = {
        name for file in DASHBOARDS.iterdir() for name in NAME.findall(file.read_text("utf-8").replace("\\n", " "))
    }
    families = {re.sub("_(total|bucket|sum|count)$", "", name) for name in exported()}
    assert families <= {re.sub("_(total|bucket|sum|count)$", "", name) for name in shown}


def test_alerts_ask_for_metrics_that_there_are() -> None:
    for rule in rules():
        assert set(NAME.findall(rule["expr"])) <= exported(), rule["alert"]


def test_alerts_pass_their_tests() -> None:
    for command in (["check", "config", "prometheus.yml"], ["test", "rules", "alerts_test.yml"]):
        done = subprocess.run(
            ["promtool", *command], cwd=PROMETHEUS, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tested_and_has_a_page_in_the_runbook() -> None:
    tests = documents(PROMETHEUS / "alerts_test.yml")[0]["tests"]
    fired = {each["alertname"] for test in tests for each in test["alert_rule_test"] if each.get("exp_alerts")}
    assert fired == {rule["alert"] for rule in rules()}
    headings = re.findall(r"^#+ (.+)$", (ROOT / "docs" / "operations.md").read_text("utf-8"), re.MULTILINE)
    for rule in rules():
        page, anchor = rule["annotations"]["runbook"].split("#")
        assert page == "docs/operations.md"
        assert anchor in {heading.lower() for heading in headings}, rule["alert"]


def test_prometheus_scrapes_what_compose_runs() -> None:
    """Names are services or their aliases, ports those that their commands and settings open."""
    jobs = documents(PROMETHEUS / "prometheus.yml")[0]["scrape_configs"]
    asked = {(name, found["port"]) for job in jobs for found in job["dns_sd_configs"] for name in found["names"]}
    gateway, worker = services()["gateway"], services()["worker"]
    assert asked == {
        ("gateway", int(gateway["environment"]["LATENTD_METRICS_PORT"])),
        ("worker", int(worker["command"][-1])),
    }
    assert services()["worker-cpu"]["networks"]["latentd"]["aliases"] == ["worker"]
    assert services()["worker-cpu"]["command"][-2:] == worker["command"][-2:]


def test_grafana_finds_prometheus_and_the_boards() -> None:
    provisioning = DEPLOY / "grafana" / "provisioning"
    source = documents(provisioning / "datasources" / "prometheus.yml")[0]["datasources"][0]
    assert source["url"].removeprefix("http://").split(":")[0] in services()
    provider = documents(provisioning / "dashboards" / "latentd.yml")[0]["providers"][0]
    mounts = dict(volume.split(":")[:2] for volume in services()["grafana"]["volumes"])
    assert mounts["./deploy/grafana/dashboards"] == provider["options"]["path"]


def test_prometheus_on_kubernetes_takes_running_pods_by_their_metrics_port() -> None:
    """Debian's build knows no Kubernetes: what that would find is given as it would be told."""
    config = documents(PROMETHEUS / "kubernetes.yml")[0]
    about = {"phase": "Running", "container_port_name": "metrics", "name": "a"}
    others = [about | {"container_port_name": "http"}, about | {"phase": "Pending"}, about | {"phase": "Failed"}]
    for job in config["scrape_configs"]:
        del job["kubernetes_sd_configs"]
        pods = [{f"__meta_kubernetes_pod_{name}": each for name, each in pod.items()} for pod in [about, *others]]
        job["static_configs"] = [{"targets": [f"127.0.0.1:{n + 1}"], "labels": pod} for n, pod in enumerate(pods)]
    with Prometheus(config) as started:
        until = time.monotonic() + 10
        while len(found := started.ask("targets", state="active")["activeTargets"]) < 2:
            assert time.monotonic() < until, found
            time.sleep(0.1)
    assert sorted(target["labels"]["job"] for target in found) == ["latentd-gateway", "latentd-worker"]
    assert {(target["labels"]["pod"], target["labels"]["instance"]) for target in found} == {("a", "127.0.0.1:1")}

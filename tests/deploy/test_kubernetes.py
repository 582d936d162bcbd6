"""The manifests, offline: every kind against its schema, strictly; names, ports and times against each other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest

from latentd.settings import Settings
from tests.deploy.files import KUBERNETES, documents

SCHEMAS = Path(__file__).parent / "schemas"
BASE = KUBERNETES / "base"
AUTOSCALE = KUBERNETES / "overlays" / "autoscale"
ALL = [(file, one) for file in sorted(KUBERNETES.rglob("*.yaml")) for one in documents(file)]
BASES = [one for file, one in ALL if file.parent == BASE and one["kind"] != "Kustomization"]


def find(kind: str, name: str) -> dict[str, Any]:
    return next(one for one in BASES if (one["kind"], one["metadata"]["name"]) == (kind, name))


def pods() -> dict[str, dict[str, Any]]:
    kinds = ("Deployment", "StatefulSet")
    return {one["metadata"]["name"]: one["spec"]["template"]["spec"] for one in BASES if one["kind"] in kinds}


@pytest.mark.parametrize(("file", "one"), ALL, ids=lambda value: value.name if isinstance(value, Path) else "")
def test_every_resource_fits_its_schema(file: Path, one: dict[str, Any]) -> None:  # noqa: ARG001 (shown by pytest)
    ours = SCHEMAS / f"{one['kind'].lower()}.json"
    if ours.is_file():
        jsonschema.validate(one, json.loads(ours.read_text("utf-8")))
    else:  # raises for a kind that it has no schema for
        kubernetes_validate.validate(one, kubernetes_validate.latest_version(), strict=True)


@pytest.mark.parametrize("folder", [BASE, AUTOSCALE], ids=lambda folder: folder.name)
def test_kustomizations_name_every_file(folder: Path) -> None:
    named = documents(folder / "kustomization.yaml")[0]["resources"]
    there = {file.name for file in folder.glob("*.yaml")} - {"kustomization.yaml"}
    assert {name for name in named if not name.startswith("..")} == there
    assert all((folder / name).exists() for name in named)


def test_overlays_only_add_resources() -> None:
    for file in (KUBERNETES / "overlays").glob("*/kustomization.yaml"):
        assert set(documents(file)[0]) == {"apiVersion", "kind", "resources"}


@pytest.mark.parametrize("name", ["gateway", "worker", "redis"])
def test_pods_run_without_rights(name: str) -> None:
    pod = pods()[name]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] >= 999
    for container in pod["containers"]:
        rights = container["securityContext"]
        assert rights["readOnlyRootFilesystem"] is True
        assert rights["allowPrivilegeEscalation"] is False
        assert rights["capabilities"] == {"drop": ["ALL"]}


def test_a_worker_outlives_its_drain() -> None:
    drain = float(find("ConfigMap", "latentd")["data"]["LATENTD_DRAIN_S"])
    assert pods()["worker"]["terminationGracePeriodSeconds"] > drain + 10


def test_a_worker_has_a_gpu() -> None:
    assert pods()["worker"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"


def test_settings_exist() -> None:
    known = {f"LATENTD_{name.upper()}" for name in Settings.model_fields}
    assert set(find("ConfigMap", "latentd")["data"]) <= known


@pytest.mark.parametrize("name", ["gateway", "worker"])
def test_what_is_scraped_is_what_the_command_listens_on(name: str) -> None:
    template = find("Deployment", name)["spec"]["template"]
    port = template["metadata"]["annotations"]["prometheus.io/port"]
    container = template["spec"]["containers"][0]
    assert container["command"] == ["latentd", name, "--metrics-port", port]
    assert {"name": "metrics", "containerPort": int(port)} in container["ports"]


@pytest.mark.parametrize("name", ["gateway", "worker"])
def test_redis_comes_from_the_secret(name: str) -> None:
    variables = {each["name"]: each["valueFrom"] for each in pods()[name]["containers"][0]["env"]}
    assert variables == {"REDIS_URL": {"secretKeyRef": {"name": "latentd-redis", "key": "url"}}}


def test_disruption_budgets_and_services_select_pods_that_there_are() -> None:
    labels = [one["spec"]["template"]["metadata"]["labels"] for one in BASES if "template" in one.get("spec", {})]
    selectors = [one["spec"]["selector"] for one in BASES if one["kind"] in ("Service", "PodDisruptionBudget")]
    assert len(selectors) == 4
    for selector in selectors:
        wanted = selector.get("matchLabels", selector).items()
        assert any(wanted <= each.items() for each in labels)


def test_the_autoscaler_scales_the_workers() -> None:
    scaled = documents(AUTOSCALE / "worker-scaling.yaml")[0]
    target = find("Deployment", scaled["spec"]["scaleTargetRef"]["name"])
    assert target["metadata"]["name"] == "worker"
    assert "replicas" not in target["spec"]
    assert scaled["metadata"]["namespace"] == documents(BASE / "kustomization.yaml")[0]["namespace"]

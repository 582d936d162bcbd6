"""The manifests, offline: every kind against its schema, strictly; names, ports and times against each other."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest

from core.settings import Settings
from tests.deploy.files import KUBERNETES, PROMETHEUS, documents, services

SCHEMAS = Path(__file__).parent / "schemas"
BASE = KUBERNETES / "base"
AUTOSCALE = KUBERNETES / "overlays" / "autoscale"
ALL = [(file, one) for file in sorted(KUBERNETES.rglob("*.yaml")) for one in documents(file)]
BASES = [one for file, one in ALL if file.parent == BASE and one["kind"] != "Kustomization"]


def find(kind: str, name: str) -> dict[str, Any]:
    return next(one for one in BASES if (one["kind"], one["metadata"]["name"]) == (kind, name))


def pods() -> dict[str, dict[str, Any]]:
    """Of everything that makes pods, by name."""
    return {one["metadata"]["name"]: template["spec"] for one, template in templates()}


def templates() -> list[tuple[dict[str, Any], dict[str, Any]]]:
    found = []
    for one in BASES:
        spec = one.get("spec", {})
        spec = spec["jobTemplate"]["spec"] if "jobTemplate" in spec else spec
        found += [(one, spec["template"])] if "template" in spec else []
    return found


def policy(name: str) -> list[dict[str, Any]]:
    """What may enter the pods of a name."""
    found = find("NetworkPolicy", name)["spec"]
    assert found["podSelector"] == {"matchLabels": {"app.kubernetes.io/name": name}}
    assert found["policyTypes"] == ["Ingress"]
    ingress: list[dict[str, Any]] = found["ingress"]
    return ingress


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


@pytest.mark.parametrize("name", ["gateway", "worker", "redis", "first-key"])
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


def test_who_restores_has_redis_volume_and_no_more_rights() -> None:
    """The namespace starts no pod with others; what it unpacks is Redis's user's."""
    pod, redis = documents(KUBERNETES / "restore.yaml")[0]["spec"], pods()["redis"]
    assert pod["securityContext"] == redis["securityContext"]
    assert pod["automountServiceAccountToken"] is False
    for each in ("image", "securityContext", "volumeMounts"):
        assert pod["containers"][0][each] == redis["containers"][0][each]
    claim = find("StatefulSet", "redis")["spec"]["volumeClaimTemplates"][0]["metadata"]["name"]
    assert [volume["name"] for volume in pod["volumes"]] == [claim]
    assert pod["volumes"][0]["persistentVolumeClaim"]["claimName"] == f"{claim}-redis-0"


def test_a_worker_outlives_its_drain() -> None:
    drain = float(find("ConfigMap", "latentd")["data"]["LATENTD_DRAIN_S"])
    assert pods()["worker"]["terminationGracePeriodSeconds"] > drain + 10


def test_a_worker_has_one_gpu_and_does_not_start_without_it() -> None:
    container = pods()["worker"]["containers"][0]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert container["command"][2:4] == ["--device", "cuda"]


def test_a_worker_may_load_for_half_an_hour() -> None:
    """It answers no probe before: a large checkpoint over a network takes long, and a killed load begins anew."""
    waits, deployment = pods()["worker"]["containers"][0]["startupProbe"], find("Deployment", "worker")
    seconds = waits["periodSeconds"] * waits["failureThreshold"]
    assert 1800 <= seconds < deployment["spec"]["progressDeadlineSeconds"]
    assert services()["worker"]["healthcheck"]["start_period"] == "30m"


def test_settings_exist() -> None:
    known = {f"LATENTD_{name.upper()}" for name in Settings.model_fields}
    assert set(find("ConfigMap", "latentd")["data"]) <= known


@pytest.mark.parametrize("name", ["gateway", "worker"])
def test_what_is_scraped_is_what_the_command_listens_on(name: str) -> None:
    template = find("Deployment", name)["spec"]["template"]
    ports = {port["name"]: port["containerPort"] for port in template["spec"]["containers"][0]["ports"]}
    command = template["spec"]["containers"][0]["command"]
    assert (command[:2], command[-2:]) == (["latentd", name], ["--metrics-port", str(ports["metrics"])])
    jobs = {job["job_name"]: job for job in documents(PROMETHEUS / "kubernetes.yml")[0]["scrape_configs"]}
    (found,) = jobs[f"latentd-{name}"]["kubernetes_sd_configs"]
    assert (found["role"], found["namespaces"]) == (
        "pod",
        {"names": [find("Namespace", "latentd")["metadata"]["name"]]},
    )
    (selector,) = found["selectors"]
    wanted = dict(pair.split("=") for pair in selector["label"].split(","))
    assert wanted.items() <= template["metadata"]["labels"].items()


@pytest.mark.parametrize("name", ["gateway", "worker"])
def test_metrics_are_for_prometheus_namespace_alone(name: str) -> None:
    from_monitoring = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]
    entries = [entry for entry in policy(name) if {"port": "metrics"} in entry["ports"]]
    assert entries == [{"from": from_monitoring, "ports": [{"port": "metrics"}]}]
    assert all("ports" in entry for entry in policy(name))
    asked = documents(AUTOSCALE / "worker-scaling.yaml")[0]["spec"]["triggers"][0]["metadata"]["serverAddress"]
    assert ".monitoring." in asked


def test_redis_is_for_those_who_have_its_url() -> None:
    (entry,) = policy("redis")
    (chosen,) = entry["from"][0]["podSelector"]["matchExpressions"]
    users = {
        template["metadata"]["labels"]["app.kubernetes.io/name"]
        for _, template in templates()
        if any(each["name"] == "REDIS_URL" for each in template["spec"]["containers"][0].get("env", []))
    }
    assert (chosen["operator"], set(chosen["values"])) == ("In", users)


def test_redis_refuses_writes_before_it_is_killed() -> None:
    container = pods()["redis"]["containers"][0]
    options = dict(zip(container["args"][::2], container["args"][1::2], strict=True))
    assert options["--maxmemory-policy"] == "noeviction"
    limit = container["resources"]["limits"]["memory"]
    assert 2 * gib(options["--maxmemory"], "gb") <= gib(limit, "Gi"), "a rewrite of the file may double what is used"


def gib(text: str, unit: str) -> int:
    number = re.fullmatch(rf"(\d+){unit}", text)
    assert number, text
    return int(number[1])


def test_the_first_key_is_made_only_when_asked_for_and_its_log_goes() -> None:
    job = find("CronJob", "first-key")["spec"]
    assert job["suspend"] is True
    assert job["jobTemplate"]["spec"]["ttlSecondsAfterFinished"] <= 3600


def test_disruption_budgets_and_services_select_pods_that_there_are() -> None:
    labels = [one["spec"]["template"]["metadata"]["labels"] for one in BASES if "template" in one.get("spec", {})]
    selectors = [one["spec"]["selector"] for one in BASES if one["kind"] in ("Service", "PodDisruptionBudget")]
    assert selectors
    for selector in selectors:
        wanted = selector.get("matchLabels", selector).items()
        assert any(wanted <= each.items() for each in labels)


def test_the_autoscaler_scales_the_workers() -> None:
    scaled = documents(AUTOSCALE / "worker-scaling.yaml")[0]
    target = find("Deployment", scaled["spec"]["scaleTargetRef"]["name"])
    assert target["metadata"]["name"] == "worker"
    assert "replicas" not in target["spec"]
    assert scaled["metadata"]["namespace"] == documents(BASE / "kustomization.yaml")[0]["namespace"]

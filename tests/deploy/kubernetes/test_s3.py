"""Kubernetes with S3: the component leaves no shared volume, and nothing starts without a bucket."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.deploy.files import KUBERNETES, ROOT
from tests.deploy.kubernetes.kustomize import with_component

S3 = KUBERNETES / "components" / "s3"
FOLDERS = [KUBERNETES / "base", KUBERNETES / "overlays" / "autoscale"]


def deployments(found: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {one["metadata"]["name"]: one["spec"]["template"]["spec"] for one in found if one["kind"] == "Deployment"}


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_no_shared_volume_is_left(folder: Path) -> None:
    found = with_component(folder, S3)
    assert not any(one["kind"] == "PersistentVolumeClaim" for one in found)
    assert set(deployments(found)) == {"gateway", "worker"}
    for pod in deployments(found).values():
        assert not any("persistentVolumeClaim" in volume for volume in pod["volumes"])
        mounted = {mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}


def test_pods_wait_for_the_bucket() -> None:
    """A key of a Secret that isn't `optional` holds the container back until it is there."""
    for pod in deployments(with_component(FOLDERS[0], S3)).values():
        variables = {each["name"]: each["valueFrom"] for each in pod["containers"][0]["env"]}
        assert variables["LATENTD_STORAGE_URL"] == {
            "secretKeyRef": {"name": "latentd-s3", "key": "LATENTD_STORAGE_URL"}
        }


def test_what_comes_out_fits_the_schemas() -> None:
    for one in with_component(FOLDERS[0], S3):
        kubernetes_validate.validate(one, kubernetes_validate.latest_version(), strict=True)


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="there is no kubectl")
def test_kubectl_makes_the_same_of_the_kustomization_that_the_docs_show(tmp_path: Path) -> None:
    shown = re.search(
        r"```yaml\n(apiVersion: kustomize.*?)```", (ROOT / "docs" / "operations.md").read_text(), re.DOTALL
    )
    assert shown
    (tmp_path / "kustomization.yaml").write_text(shown[1], "utf-8")
    (tmp_path / "latentd").symlink_to(ROOT)
    done = subprocess.run(["kubectl", "kustomize", tmp_path], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    made, ours = [one for one in yaml.safe_load_all(done.stdout) if one], with_component(FOLDERS[0], S3)
    assert names(made) == names(ours)
    for name, pod in deployments(made).items():
        assert pod["volumes"] == deployments(ours)[name]["volumes"]
        assert pod["containers"][0]["env"] == deployments(ours)[name]["containers"][0]["env"]
        assert pod["containers"][0]["image"] == f"registry.example.org/latentd-{name}:0.1.0"
    (config,) = (one for one in made if one["kind"] == "ConfigMap")
    assert "draw.example.org" in config["data"]["LATENTD_ALLOWED_HOSTS"].split(",")


def names(found: list[dict[str, Any]]) -> set[tuple[str, str]]:
    return {(one["kind"], one["metadata"]["name"]) for one in found}

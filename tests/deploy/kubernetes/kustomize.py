"""What `kubectl kustomize` makes of our folders, in Python: resources and the patches of components."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import yaml

from tests.deploy.files import documents


def resources(folder: Path) -> list[dict[str, Any]]:
    """Resources that a kustomization names, those of other folders included."""
    found = []
    for name in documents(folder / "kustomization.yaml")[0]["resources"]:
        found += resources(folder / name) if (folder / name).is_dir() else documents(folder / name)
    return found


def with_component(folder: Path, component: Path) -> list[dict[str, Any]]:
    """Resources of a kustomization with a component's patches on them."""
    found = copy.deepcopy(resources(folder))
    for entry in documents(component / "kustomization.yaml")[0]["patches"]:
        patch, targets = yaml.safe_load(entry["patch"]), [one for one in found if _chosen(one, entry["target"])]
        assert targets, entry["target"]
        for one in targets:
            if isinstance(patch, dict):
                assert patch["$patch"] == "delete"
                found.remove(one)
            else:
                _apply(patch, one)
    return found


def _chosen(one: dict[str, Any], target: dict[str, str]) -> bool:
    return one["kind"] == target["kind"] and target.get("name") in (None, one["metadata"]["name"])


def _apply(patch: list[dict[str, Any]], one: dict[str, Any]) -> None:
    """RFC 6902, as much of it as is used."""
    for step in patch:
        *way, last = [int(part) if part.isdigit() else part for part in step["path"].split("/")[1:]]
        place: Any = one
        for part in way:
            place = place[part]
        if step["op"] == "test":
            assert place[last] == step["value"]
        elif step["op"] == "add" and last == "-":
            place.append(step["value"])
        else:
            assert step["op"] == "replace"
            assert place[last] is not None
            place[last] = step["value"]

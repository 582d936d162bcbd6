"""Where the deployment's files are, and YAML read into plain values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
COMPOSE = ROOT / "docker-compose.yml"
DASHBOARDS = DEPLOY / "grafana" / "dashboards"
PROMETHEUS = DEPLOY / "prometheus"
KUBERNETES = DEPLOY / "kubernetes"


def documents(path: Path) -> list[dict[str, Any]]:
    """Every document of a YAML file."""
    return [document for document in yaml.safe_load_all(path.read_text("utf-8")) if document]


def services() -> dict[str, dict[str, Any]]:
    """docker-compose.yml's services, anchors resolved."""
    found: dict[str, dict[str, Any]] = documents(COMPOSE)[0]["services"]
    return found

"""The fixtures of the integration tests."""

from tests.integration.conftest import make_rig, rig, settings, tiny_models

__all__ = ["make_rig", "rig", "settings", "tiny_models"]

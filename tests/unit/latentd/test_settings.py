"""Settings come from the environment, and the embedded Redis' socket always fits the kernel's bound."""

from pathlib import Path

import pytest

from latentd.settings import SOCKET_PATH_MAX, Settings, without_password


def test_lists_are_comma_separated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATENTD_ALLOWED_HOSTS", "images.example, other.example")
    assert Settings().allowed_hosts == ("images.example", "other.example")


def test_redis_url_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://cache:6379/1")
    assert Settings().redis == "redis://cache:6379/1"


def test_a_deep_data_directory_gets_a_short_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REDIS_URL", raising=False)
    deep = tmp_path / ("x" * 120)
    settings = Settings(data_dir=deep)
    assert len(str(settings.redis_socket)) <= SOCKET_PATH_MAX
    assert settings.redis_socket == Settings(data_dir=deep).redis_socket
    assert settings.redis_socket != Settings(data_dir=deep / "other").redis_socket


def test_every_setting_is_documented() -> None:
    assert all(about.description for about in Settings.model_fields.values())


def test_passwords_are_not_shown() -> None:
    assert without_password("rediss://user:secret@cache:6379/1") == "rediss://***@cache:6379/1"
    assert without_password("unix:///data/redis/redis.sock") == "unix:///data/redis/redis.sock"

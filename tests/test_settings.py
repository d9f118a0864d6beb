"""The environment: defaults, and refusals that say what to do."""

from dataclasses import fields
from pathlib import Path

import pytest

from common.errors import StartError
from common.postgres import default_data_dir
from common.settings import Settings, read_settings

INTEGERS = [
    ("EXCHANGE_PORT", "port", 8000, 1, 65535),
    ("EXCHANGE_PROCESSES", "processes", 1, 1, 64),
    ("EXCHANGE_FLUSH_MS", "flush_ms", 30, 1, 10_000),
    ("EXCHANGE_FLUSH_PENDING_MAX", "flush_pending_max", 500_000, 1, 10**8),
    ("EXCHANGE_DRAIN_S", "drain_s", 30, 0, 3600),
    ("EXCHANGE_POOL_SIZE", "pool_size", 8, 1, 1000),
    ("EXCHANGE_POOL_WAIT_MS", "pool_wait_ms", 2000, 1, 60_000),
    ("EXCHANGE_CLOSED_AGE_S", "closed_age_s", 600, 0, 10**7),
    ("EXCHANGE_CLOSED_MAX", "closed_max", 1_000_000, 0, 10**8),
    ("EXCHANGE_CLIENT_PATIENCE_S", "client_patience_s", 10, 1, 3600),
    ("EXCHANGE_CONNECTIONS_MAX", "connections_max", 10_000, 1, 10**6),
    ("EXCHANGE_RETRY_WINDOW_S", "retry_window_s", 600, 1, 86_400),
    ("EXCHANGE_RETRY_MAX", "retry_max", 1_000_000, 1, 10**8),
    ("EXCHANGE_WEBHOOK_QUEUE_MAX", "webhook_queue_max", 10_000, 1, 10**7),
]
FLAGS = [
    ("EXCHANGE_DEBUG", "debug"),
    ("EXCHANGE_SHARE_PORT", "share_port"),
    ("EXCHANGE_WEBHOOK_PRIVATE", "webhook_private"),
]
TEXTS = [
    ("EXCHANGE_HOST", "host", "127.0.0.1"),
    ("EXCHANGE_DATABASE_URL", "database_url", None),
    ("EXCHANGE_ADMIN_API_KEY", "admin_api_key", None),
    ("EXCHANGE_DURABILITY", "durability", "flush"),
    ("EXCHANGE_DATA_DIR", "data_dir", default_data_dir()),
    ("EXCHANGE_WAL_DIR", "wal_dir", default_data_dir() / "wal"),
    ("EXCHANGE_WAL_LOST", "wal_lost", None),
]

NAMES = [*(row[0] for row in INTEGERS), *(row[0] for row in FLAGS), *(row[0] for row in TEXTS)]


def refusal(name: str, text: str) -> str:
    """What is said about a bad value: one line."""
    with pytest.raises(StartError) as caught:
        read_settings({name: text})
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


def test_an_empty_environment_gives_the_defaults() -> None:
    settings = read_settings({})
    expected = {field: default for _, field, default, _, _ in INTEGERS}
    expected |= {field: False for _, field in FLAGS}
    defaults = expected | {field: default for _, field, default in TEXTS}
    assert {field.name: getattr(settings, field.name) for field in fields(Settings)} == defaults


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_value_is_like_none(name: str) -> None:
    assert read_settings({name: ""}) == read_settings({})


def test_other_variables_are_left_alone() -> None:
    assert read_settings({"PATH": "/bin", "MY_EXCHANGE_PORT": "x"}) == read_settings({})


@pytest.mark.parametrize(("name", "field", "default", "least", "most"), INTEGERS)
def test_an_integer_is_read_up_to_its_bounds(
    name: str, field: str, default: int, least: int, most: int
) -> None:
    assert least <= default <= most
    for value in (least, most):
        assert getattr(read_settings({name: str(value)}), field) == value


@pytest.mark.parametrize(("name", "least", "most"), [(row[0], *row[3:]) for row in INTEGERS])
@pytest.mark.parametrize("text", ["x", "1.0", "1e3", "-1", "+1", " 1", "٣", "²", "1_0"])
def test_a_value_that_is_no_integer_is_refused(name: str, least: int, most: int, text: str) -> None:
    message = refusal(name, text)
    assert message.startswith(f"{name}=")
    assert f"an integer from {least} to {most}" in message


@pytest.mark.parametrize(("name", "field", "default", "least", "most"), INTEGERS)
def test_an_integer_out_of_its_bounds_is_refused(
    name: str, field: str, default: int, least: int, most: int
) -> None:
    for value in (least - 1, most + 1):
        assert f"from {least} to {most}" in refusal(name, str(value))


def test_an_integer_of_very_many_digits_is_refused_like_any_other() -> None:
    assert "from 1 to 65535" in refusal("EXCHANGE_PORT", "9" * 5_000)


def test_a_value_of_two_lines_is_refused_in_one() -> None:
    assert "from 1 to 65535" in refusal("EXCHANGE_PORT", "80\n81")


@pytest.mark.parametrize(("name", "field"), FLAGS)
def test_a_flag_is_0_or_1(name: str, field: str) -> None:
    assert getattr(read_settings({name: "1"}), field) is True
    assert getattr(read_settings({name: "0"}), field) is False
    for text in ("true", "yes", "2", "01", " 1"):
        assert refusal(name, text) == f"{name}={text!r}: expected 0 or 1"


def test_an_unknown_durability_is_refused_with_the_known() -> None:
    message = refusal("EXCHANGE_DURABILITY", "perhaps")
    assert message.startswith("EXCHANGE_DURABILITY='perhaps': expected ")
    assert "flush or wal" in message


def test_the_log_is_in_the_data_directory_unless_it_has_its_own() -> None:
    assert read_settings({"EXCHANGE_DATA_DIR": "/data"}).wal_dir == Path("/data/wal")
    named = {"EXCHANGE_DATA_DIR": "/data", "EXCHANGE_WAL_DIR": "/fast"}
    assert read_settings(named).wal_dir == Path("/fast")


@pytest.mark.parametrize("name", ["EXCHANGE_PROT", "EXCHANGE_", "EXCHANGE_port"])
def test_an_unknown_setting_is_refused_with_the_known(name: str) -> None:
    message = refusal(name, "1")
    assert message.startswith(f"{name}: no such setting")
    assert all(known in message for known in NAMES)


def test_texts_are_taken_as_they_are() -> None:
    settings = read_settings(
        {
            "EXCHANGE_HOST": "0.0.0.0",
            "EXCHANGE_DATABASE_URL": "postgresql://localhost/x",
            "EXCHANGE_ADMIN_API_KEY": " key ",
            "EXCHANGE_DATA_DIR": "some/where",
        }
    )
    assert settings.host == "0.0.0.0"
    assert settings.database_url == "postgresql://localhost/x"
    assert settings.admin_api_key == " key "
    assert settings.data_dir == Path("some/where")


def test_no_refusal_shows_the_admin_key() -> None:
    with pytest.raises(StartError) as caught:
        read_settings({"EXCHANGE_ADMIN_API_KEY": "hidden", "EXCHANGE_PORT": "x"})
    assert "hidden" not in str(caught.value)

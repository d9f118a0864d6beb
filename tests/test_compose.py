"""The compose files against the compose specification, and against what the services promise."""

import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import psycopg
import pytest
from client import ROOT
from conftest import CASES
from ruamel.yaml import YAML

from common.postgres import SETTINGS, EmbeddedPostgres
from common.server import CLOSE_PATIENCE_S, SHUTDOWN_PATIENCE_S
from common.settings import Settings, read_settings

ALL_TOGETHER = ROOT / "docker-compose.yml"
ALONE = {case: ROOT / case / "docker-compose.yml" for case in CASES}
FILES = [ALL_TOGETHER, *ALONE.values()]
IMAGE = (ROOT / "Dockerfile").read_text()
# What a container has anyway, or what concerns the socket and the log of the embedded server.
NOT_IN_CONTAINERS = {
    "listen_addresses",
    "unix_socket_permissions",
    "max_connections",
    "fsync",
    "synchronous_commit",
    "full_page_writes",
    "autovacuum",
    "log_timezone",
    "log_min_messages",
}

each_file = pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
Tree = dict[str, Any]


def violations(*files: Path) -> str:
    """What the schema of the specification finds wrong; nothing if all is well."""
    # The package carries the schema of github.com/compose-spec/compose-spec (Apache-2.0).
    words = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    command = [*words, *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stderr
    return done.stdout if done.returncode else ""


@cache
def load(file: Path) -> Tree:
    """A file with its anchors merged."""
    tree = YAML(typ="safe").load(file)
    assert isinstance(tree, dict)
    return tree


def exchanges(file: Path) -> dict[str, Tree]:
    """The services of a file that are built here, by name."""
    return {name: body for name, body in load(file)["services"].items() if "build" in body}


def databases(file: Path) -> dict[str, Tree]:
    """The other services of a file, by name."""
    return {name: body for name, body in load(file)["services"].items() if "build" not in body}


def with_defaults(value: str) -> str:
    """The value as it is when the user sets nothing: ``${NAME:-default}`` is the default."""
    return re.sub(r"\$\{\w+:-([^}]*)}", r"\1", value)


def settings_of(service: Tree) -> Settings:
    """What a case reads in its container. Raises StartError for what it does not know."""
    return read_settings(
        image_environment()
        | {name: with_defaults(value) for name, value in service["environment"].items()}
    )


def image_environment() -> dict[str, str]:
    """The settings that the image brings along."""
    return dict(re.findall(r"\b(EXCHANGE_\w+)=(\S+)", IMAGE))


def database_of(service: Tree) -> str:
    """The host in the URL of a service's database."""
    url = settings_of(service).database_url or ""
    found = re.fullmatch(r"postgresql://exchange:exchange@([\w-]+)/exchange", url)
    assert found, url
    return found[1]


# ---- the specification ----


def test_every_file_is_valid_by_the_compose_specification() -> None:
    assert violations(*FILES) == ""


@pytest.mark.parametrize(
    ("right", "wrong", "complaint"),
    [
        ('    ports:\n      - "127.0.0.1:8000:8000"', "    ports: 8000", "not of type 'array'"),
        ("stop_grace_period: 45s", "stop_grace_seconds: 45", "'stop_grace_seconds' was unexpected"),
        ("condition: service_healthy", "condition: healthy", "not one of"),
        ("services:", "service:", "'service' does not match"),
        ("    image: postgres:18", "    image: postgres:18\n    image: postgres:17", "duplicate"),
    ],
)
def test_a_broken_file_is_refused(tmp_path: Path, right: str, wrong: str, complaint: str) -> None:
    text = ALONE[CASES[0]].read_text()
    assert right in text
    broken = tmp_path / "docker-compose.yml"
    broken.write_text(text.replace(right, wrong, 1))
    assert complaint in violations(broken)


# ---- the exchanges ----


def test_the_file_of_a_case_starts_this_case_with_its_database_on_port_8000(case: str) -> None:
    file = ALONE[case]
    [service] = exchanges(file).values()
    assert service["build"]["args"] == {"CASE": case}
    assert service["ports"] == ["127.0.0.1:8000:8000"]
    assert list(databases(file)) == [database_of(service)]


def test_the_common_file_starts_every_case_with_a_database_of_its_own() -> None:
    services = exchanges(ALL_TOGETHER)
    assert list(services) == CASES
    for number, (case, service) in enumerate(services.items(), 1):
        assert service["build"]["args"] == {"CASE": case}
        assert service["ports"] == [f"127.0.0.1:{8000 + number}:8000"]
    assert [database_of(service) for service in services.values()] == list(databases(ALL_TOGETHER))


@each_file
def test_the_image_is_built_from_the_root(file: Path) -> None:
    for service in exchanges(file).values():
        assert (file.parent / service["build"]["context"]).resolve() == ROOT
        assert "dockerfile" not in service["build"]


@each_file
def test_nothing_is_published_beyond_this_machine(file: Path) -> None:
    for service in load(file)["services"].values():
        assert "network_mode" not in service
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))


@each_file
def test_an_exchange_knows_its_settings_and_serves_its_published_port(file: Path) -> None:
    for service in exchanges(file).values():
        settings = settings_of(service)
        assert (settings.host, settings.debug) == ("0.0.0.0", True)
        assert settings.admin_api_key
        [port] = service["ports"]
        assert port.endswith(f":{settings.port}")


@each_file
def test_an_exchange_has_time_to_store_everything_before_it_is_killed(file: Path) -> None:
    for service in exchanges(file).values():
        needed_s = settings_of(service).drain_s + SHUTDOWN_PATIENCE_S + CLOSE_PATIENCE_S
        assert int(service["stop_grace_period"].removesuffix("s")) > needed_s


@pytest.mark.parametrize("name", ["casev2", "casev3"])
@pytest.mark.parametrize("file", [ALL_TOGETHER, None], ids=["together", "alone"])
def test_a_log_that_is_asked_for_outlives_its_container(name: str, file: Path | None) -> None:
    file = file or ALONE[name]
    [service] = [each for each in exchanges(file).values() if each["build"]["args"]["CASE"] == name]
    assert service["environment"]["EXCHANGE_DURABILITY"] == "${EXCHANGE_DURABILITY:-flush}"
    place = settings_of(service).wal_dir
    [(volume, mounted)] = [each.split(":") for each in service["volumes"]]
    assert mounted == str(place)
    assert volume in load(file)["volumes"]
    assert f"install --directory --owner=exchange --mode=700 {place}\n" in IMAGE


@each_file
def test_an_exchange_starts_when_its_database_is_healthy(file: Path) -> None:
    for service in exchanges(file).values():
        assert service["depends_on"] == {database_of(service): {"condition": "service_healthy"}}
    for service in databases(file).values():
        # By TCP: while the image fills a new volume its server listens on a socket only.
        assert service["healthcheck"]["test"][:3] == ["CMD", "pg_isready", "--host=127.0.0.1"]


def test_the_image_asks_an_exchange_whether_it_is_healthy() -> None:
    port = image_environment()["EXCHANGE_PORT"]
    [check] = re.findall(r"^HEALTHCHECK .*\\\n(.*)$", IMAGE, re.M)
    assert f"http://127.0.0.1:{port}/health" in check


# ---- the databases ----


def test_every_database_is_set_up_the_same() -> None:
    bodies = [body for file in FILES for body in databases(file).values()]
    assert len(bodies) == 2 * len(CASES)
    for body in bodies:
        assert body | {"volumes": ...} == bodies[0] | {"volumes": ...}


def test_a_database_is_of_the_kind_of_the_embedded_server(postgres: EmbeddedPostgres) -> None:
    query = "SELECT pg_encoding_to_char(encoding), datcollate FROM pg_database"
    with psycopg.connect(postgres.url) as connection:
        kinds = set(connection.execute(query).fetchall())
    [(encoding, locale)] = kinds
    for body in databases(ALL_TOGETHER).values():
        assert body["image"] == f"postgres:{postgres.version.partition('.')[0]}"
        arguments = body["environment"]["POSTGRES_INITDB_ARGS"]
        assert arguments == f"--encoding={encoding} --locale={locale}"


def test_a_database_has_the_settings_of_the_embedded_server() -> None:
    expected = {name: value for name, value in SETTINGS.items() if name not in NOT_IN_CONTAINERS}
    for body in databases(ALL_TOGETHER).values():
        program, *words = body["command"].split()
        assert (program, set(words[::2])) == ("postgres", {"-c"})
        assert dict(word.split("=", 1) for word in words[1::2]) == expected


@each_file
def test_every_database_keeps_its_data_in_a_volume_of_its_own(file: Path) -> None:
    # Since 18 the image keeps the cluster in a directory of its version below this one.
    volumes = [volume for body in databases(file).values() for volume in body["volumes"]]
    names = [volume.removesuffix(":/var/lib/postgresql") for volume in volumes]
    assert names == [name for name in load(file)["volumes"] if name.startswith("data")]
    assert len(volumes) == len(set(names)) == len(databases(file))

"""deploy/: what can be said of the files without a Docker engine. That containers start is not said here."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from park.store import connect, migrate
from park.store.binaries import find_binaries
from park.store.embedded import EmbeddedPostgres
from symbiosis.cli import build_parser
from symbiosis.health import Health, new_registry, serving

DEPLOY = Path(__file__).parents[2] / "deploy"
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if service["image"] == "symbiosis:local"}
ONCE = {"migrate"}

# Compose specification, the keys that this project has use for; another one is looked up there first.
TOP = {"name", "services", "secrets", "volumes"}
KEYS = {"build", "command", "depends_on", "environment", "healthcheck", "image", "ports", "profiles", "read_only",
        "restart", "secrets", "shm_size", "stop_grace_period", "tmpfs", "volumes"}
HEALTH = {"test", "interval", "timeout", "retries", "start_period"}


def mounts(service: dict[str, Any]) -> list[list[str]]:
    return [entry.split(":") for entry in service.get("volumes", [])]


def text_of_grafana() -> str:
    return "\n".join(file.read_text() for file in (DEPLOY / "grafana/provisioning").rglob("*.yaml"))


def test_keys_are_those_of_the_specification() -> None:
    assert {key for key in COMPOSE if not key.startswith("x-")} <= TOP
    for service in SERVICES.values():
        assert service.keys() <= KEYS
        assert service.get("healthcheck", {}).keys() <= HEALTH


@pytest.mark.parametrize("name", SERVICES)
def test_service_refers_to_what_is_there(name: str) -> None:
    service = SERVICES[name]
    assert re.fullmatch(r"[\w./-]+:[\w.-]+", service["image"])
    assert not service["image"].endswith(":latest")
    assert set(service.get("secrets", [])) <= COMPOSE["secrets"].keys()
    for source, target, *_ in mounts(service):
        assert target.startswith("/")
        assert (DEPLOY / source).exists() if source.startswith(".") else source in COMPOSE["volumes"]
    for other, how in service.get("depends_on", {}).items():
        assert SERVICES[other].get("profiles", []) in ([], service.get("profiles", []))
        wanted = "service_completed_successfully" if other in ONCE else "service_healthy"
        assert how == {"condition": wanted}


@pytest.mark.parametrize("name", SERVICES)
def test_service_is_watched_and_closed(name: str) -> None:
    service = SERVICES[name]
    assert ("healthcheck" in service) == (name not in ONCE)
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    for variable, value in service.get("environment", {}).items():
        assert "PASSWORD" not in variable or str(value).startswith("/run/secrets/")
        for secret in re.findall(r"/run/secrets/(\w+)", str(value)):
            assert secret in service["secrets"]


def test_everything_declared_is_used() -> None:
    assert {s for service in SERVICES.values() for s in service.get("secrets", [])} == COMPOSE["secrets"].keys()
    sources = {mount[0] for service in SERVICES.values() for mount in mounts(service)}
    assert {source for source in sources if not source.startswith(".")} == COMPOSE["volumes"].keys()
    assert {name for name, service in SERVICES.items() if service.get("profiles")} == {"simulate"}


def test_grafana_has_what_its_files_ask_for() -> None:
    grafana = SERVICES["grafana"]
    assert set(re.findall(r"\$\{(\w+)\}", text_of_grafana())) <= grafana["environment"].keys()
    assert set(re.findall(r"\$__file\{/run/secrets/(\w+)\}", text_of_grafana())) <= set(grafana["secrets"])
    [provider] = yaml.safe_load((DEPLOY / "grafana/provisioning/dashboards/symbiosis.yaml").read_text())["providers"]
    targets = {target: DEPLOY / source for source, target, *_ in mounts(grafana)}
    home = Path(grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert (targets[provider["options"]["path"]] / home.name).exists()
    assert str(home.parent) == provider["options"]["path"]


@pytest.mark.parametrize("name", OURS)
def test_commands_are_those_of_the_program(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    command = OURS[name]["command"]
    assert command[0] == "symbiosis"
    assert build_parser().parse_args(command[1:]).work
    test = OURS[name].get("healthcheck", {}).get("test", [])
    if "symbiosis" in test:
        assert build_parser().parse_args(test[test.index("symbiosis") + 1:]).work


def test_variables_of_the_program_are_documented() -> None:
    known = (DEPLOY.parent / "docs/commands.md").read_text() + (DEPLOY / "README.md").read_text()
    used = {v for service in OURS.values() for v in service["environment"]} | set(
        re.findall(r"\$\{(SYMBIOSIS_\w+)", (DEPLOY / "compose.yaml").read_text()))
    assert {v for v in used if v != "PGPASSWORD_FILE"} <= set(re.findall(r"`(\w+)`", known))


@pytest.mark.parametrize("name", ["collect", "process"])
def test_health_checks_tell_ready_from_not_ready(name: str) -> None:
    """What runs in the container is run here, with the port that is free here in the place of the container's."""
    command = OURS[name]["command"]
    address = build_parser().parse_args(command[1:]).metrics
    _, program, *arguments = OURS[name]["healthcheck"]["test"]
    assert program == "python"
    health = Health(name)
    with serving(("127.0.0.1", 0), health, new_registry(health)) as url:
        here = [text.replace(f"http://127.0.0.1:{address[1]}", url) for text in arguments]
        assert here != arguments

        def is_healthy() -> bool:
            return subprocess.run([sys.executable, *here], stderr=subprocess.DEVNULL, check=False).returncode == 0

        assert not is_healthy()
        health.note({"collect": "armed", "process": "ready"}[name], {})
        assert is_healthy()
        health.note("waiting", {})
        assert not is_healthy()


def test_image_is_made_of_what_is_there() -> None:
    folder = DEPLOY / "images/symbiosis"
    ignored = (folder / "Dockerfile.dockerignore").read_text().splitlines()
    for line in re.findall(r"^COPY (?:--\S+ )?(.+)$", (folder / "Dockerfile").read_text(), re.MULTILINE):
        for source in line.split()[:-1]:
            assert (DEPLOY.parent / source).exists()
            assert any(f"!{parent}" in ignored for parent in (source, *map(str, Path(source).parents)))


def test_endpoints_of_the_reference_park_can_be_renamed() -> None:
    """The image puts the simulators' servers under the name of their service, by this very text."""
    table = (DEPLOY.parent / "simulators/kalundborg/meters.csv").read_text()
    assert "opc.tcp://127.0.0.1:" in table
    assert "127.0.0.1" not in table.replace("opc.tcp://127.0.0.1:", "opc.tcp://simulate:")
    assert "127.0.0.1" not in (DEPLOY.parent / "simulators/kalundborg/park.yaml").read_text()


@pytest.mark.parametrize("script", ["make-secrets.sh", "database/10-roles.sh", "images/symbiosis/entrypoint.sh"])
def test_script_is_one_that_sh_reads(script: str) -> None:
    assert subprocess.run(["sh", "-n", DEPLOY / script], check=False).returncode == 0
    assert os.access(DEPLOY / script, os.X_OK)


def test_secrets_are_made_once(tmp_path: Path) -> None:
    shutil.copy(DEPLOY / "make-secrets.sh", tmp_path)
    subprocess.run([tmp_path / "make-secrets.sh"], check=True)
    made = {file.name: file.read_text() for file in (tmp_path / "secrets").iterdir()}
    assert made.keys() == COMPOSE["secrets"].keys()
    assert all(re.fullmatch(r"[0-9a-f]{48}", text) for text in made.values())
    assert len(set(made.values())) == len(made)
    assert (tmp_path / "secrets").stat().st_mode & 0o777 == 0o700
    subprocess.run([tmp_path / "make-secrets.sh"], check=True)
    assert made == {file.name: file.read_text() for file in (tmp_path / "secrets").iterdir()}


def test_entrypoint_hands_the_password_on(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("hidden\n")
    done = subprocess.run(
        [DEPLOY / "images/symbiosis/entrypoint.sh", "sh", "-c", "echo $PGPASSWORD"], check=True, text=True,
        capture_output=True, env={**os.environ, "PGPASSWORD_FILE": str(tmp_path / "secret")})
    assert done.stdout == "hidden\n"


def test_roles_of_a_new_database_suit_the_migrations(tmp_path: Path) -> None:
    for name in ("db_password", "grafana_db_password"):
        (tmp_path / name).write_text(f"{name}'s")
    with EmbeddedPostgres(tmp_path / "postgres", settings={"fsync": "off"}) as server:
        place = conninfo_to_dict(server.dsn)
        admin = {"POSTGRES_USER": str(place["user"]), "POSTGRES_DB": str(place["dbname"]), "PGHOST": str(place["host"])}
        # the embedded server's superuser and database have the names that the script gives to the owner's
        script = (DEPLOY / "database/10-roles.sh").read_text()
        script = script.replace("role symbiosis ", "role plant_owner ").replace("owner symbiosis", "owner plant_owner")
        script = script.replace("create database symbiosis ", "create database plant ")
        subprocess.run(["sh", "-c", script], check=True, env={
            **os.environ, **admin, "SECRETS": str(tmp_path), "PATH": f"{find_binaries()}:{os.environ['PATH']}"})
        dsn = make_conninfo(server.dsn, dbname="plant", user="plant_owner")
        assert "0004_board_views" in migrate(dsn)
        with connect(make_conninfo(dsn, user="grafana"), autocommit=True) as reader:
            assert reader.execute("select count(*) from exchange_now").fetchone() == (0,)
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                reader.execute("select * from event")

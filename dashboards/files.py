"""Provisioning files: everything that Grafana reads at its start, as files that can be looked at and kept.

    <folder>/provisioning/datasources/symbiosis.yaml     the data source, read-only role
    <folder>/provisioning/dashboards/symbiosis.yaml      where the boards lie
    <folder>/provisioning/alerting/{rules,contact-points,policies}.yaml
    <folder>/dashboards/*.json                           the boards, classic JSON

Boards are classic JSON because file provisioning refuses schema v2 (grafana #127928). Files are the same for the same
park: nothing in them depends on when they are built. The main path enters at `build`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder

from dashboards import alerts, balances, cascade, exchange, house, meters, network, quality
from dashboards.house import Site
from dashboards.postgres import PLUGIN, UID
from park.model import Park

_BUILDERS = {
    "network": network,
    "exchange": exchange,
    "balances": balances,
    "quality": quality,
    "meters": meters,
    "cascade": cascade,
}
_RULES = Path("provisioning/alerting/rules.yaml")
_POLICIES = Path("provisioning/alerting/policies.yaml")

BOARDS_IN_GRAFANA = "/var/lib/grafana/dashboards/symbiosis"
"""Where deploy/compose.yaml mounts the boards."""

_HEAD = "# Built by `symbiosis dashboards build`; changes by hand are lost.\n"


def site_of(park: Park) -> Site:
    """Return what boards take from a park."""
    return Site(park.park.name, park.park.timezone, park.park.currency)


def boards(site: Site) -> dict[str, dict[str, Any]]:
    """Return the JSON model of every board, by name."""
    return {name: _model(name, site) for name in house.BOARDS}


def _model(name: str, site: Site) -> dict[str, Any]:
    built = _BUILDERS[name].build(site).build()
    model: dict[str, Any] = json.loads(JSONEncoder().encode(built))
    for number, panel in enumerate(model["panels"], start=1):  # links and alerts name panels by number
        panel["id"] = number
    return model


def data_source() -> dict[str, Any]:
    """Return the data source; host and password come from Grafana's environment and a secret file."""
    return {
        "name": "Symbiosis",
        "uid": UID,
        "type": PLUGIN,
        "access": "proxy",
        "url": "${SYMBIOSIS_DB_HOST}:5432",
        "user": "grafana",
        "isDefault": False,
        "editable": False,
        "jsonData": {
            "database": "${SYMBIOSIS_DB_NAME}",
            "sslmode": "${SYMBIOSIS_DB_SSLMODE}",
            "postgresVersion": 1500,
            "timescaledb": False,
            "maxOpenConns": 5,
        },
        "secureJsonData": {"password": "$__file{/run/secrets/grafana_db_password}"},
    }


def build(park: Park, folder: Path, runbooks: str = alerts.RUNBOOKS) -> list[Path]:
    """Write all files for a park into a folder, and return which of them changed.

    Parameters
    ----------
    park
        Its name, time zone and currency go into the boards.
    folder
        Where; what an earlier build wrote there tells which rules there were, so that Grafana is told to delete
        those that are no more.
    runbooks
        Address of the runbook pages.
    """
    changed = [path for path, text in _files(park, folder, runbooks) if _written(folder / path, text)]
    wanted = {f"{house.uid(name)}.json" for name in house.BOARDS}
    for stray in sorted((folder / "dashboards").glob("symbiosis-*.json")):
        if stray.name not in wanted:
            stray.unlink()
            changed.append(stray.relative_to(folder))
    return changed


def _files(park: Park, folder: Path, runbooks: str) -> Iterator[tuple[Path, str]]:
    for name, model in boards(site_of(park)).items():
        yield Path(f"dashboards/{house.uid(name)}.json"), json.dumps(model, indent=1, ensure_ascii=False) + "\n"
    provider = {
        "name": "symbiosis",
        "folder": house.FOLDER,
        "folderUid": house.FOLDER_UID,
        "type": "file",
        "disableDeletion": False,
        "allowUiUpdates": False,
        "options": {"path": BOARDS_IN_GRAFANA},
    }
    yield Path("provisioning/datasources/symbiosis.yaml"), _yaml({"apiVersion": 1, "datasources": [data_source()]})
    yield Path("provisioning/dashboards/symbiosis.yaml"), _yaml({"apiVersion": 1, "providers": [provider]})
    yield _RULES, _yaml(_rules(folder, runbooks))
    yield (
        Path("provisioning/alerting/contact-points.yaml"),
        _yaml(
            {
                "apiVersion": 1,
                "contactPoints": [
                    {
                        "orgId": 1,
                        "name": alerts.CONTACT,
                        "receivers": [alerts.contact_point("${SYMBIOSIS_ALERT_WEBHOOK}")],
                    }
                ],
            }
        ),
    )
    yield (
        _POLICIES,
        _yaml(
            {
                "apiVersion": 1,
                "policies": [
                    {"orgId": 1, "receiver": alerts.CONTACT, "group_by": ["alertname"], "routes": [alerts.route()]}
                ],
            }
        ),
    )


def _rules(folder: Path, runbooks: str) -> dict[str, Any]:
    group = {
        "orgId": 1,
        "name": alerts.GROUP,
        "folder": alerts.FOLDER,
        "interval": alerts.INTERVAL,
        "rules": alerts.rules(runbooks),
    }
    gone = alerts.deleted(_shipped(folder / _RULES))
    return {"apiVersion": 1, "groups": [group], "deleteRules": [{"orgId": 1, "uid": uid} for uid in gone]}


def _shipped(file: Path) -> set[str]:
    """Return the uids that an earlier build told Grafana of: its rules, and those that it had deleted."""
    if not file.exists():
        return set()
    earlier = yaml.safe_load(file.read_text("utf-8"))
    rules = [rule for group in earlier.get("groups", []) for rule in group["rules"]]
    return {str(entry["uid"]) for entry in [*rules, *earlier.get("deleteRules", [])]}


def _written(file: Path, text: str) -> bool:
    """Write a file unless it says so already; return whether it changed."""
    if file.exists() and file.read_text("utf-8") == text:
        return False
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, "utf-8")
    return True


class _Dumper(yaml.SafeDumper):
    """YAML without anchors, queries as blocks."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def _yaml(document: Mapping[str, Any]) -> str:
    return _HEAD + yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)

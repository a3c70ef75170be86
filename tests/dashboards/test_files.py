"""The built files: current, complete, the same each time; boards that people can use."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from dashboards import alerts, files, house
from park.load import load_park
from symbiosis.cli import main
from tests.dashboards.filled import KALUNDBORG

BUILT = Path(__file__).parents[2] / "deploy" / "grafana"
PARK = load_park(KALUNDBORG / "park.yaml")
BOARDS = files.boards(files.site_of(PARK))


def test_built_files_are_current(tmp_path: Path) -> None:
    shutil.copytree(BUILT, tmp_path, dirs_exist_ok=True)
    assert files.build(PARK, tmp_path) == [], "build them again, with --out deploy/grafana"


def test_a_rule_that_is_no_more_is_deleted_in_grafana_and_stays_so(tmp_path: Path) -> None:
    files.build(PARK, tmp_path)
    rules = tmp_path / "provisioning/alerting/rules.yaml"
    rules.write_text(rules.read_text().replace("uid: symbiosis-leak", "uid: symbiosis-of-old"))
    files.build(PARK, tmp_path)
    assert yaml.safe_load(rules.read_text())["deleteRules"] == [{"orgId": 1, "uid": "symbiosis-of-old"}]
    assert files.build(PARK, tmp_path) == []


def test_a_board_that_is_no_more_goes(tmp_path: Path) -> None:
    files.build(PARK, tmp_path)
    old, others = tmp_path / "dashboards/symbiosis-old.json", tmp_path / "dashboards/others.json"
    old.write_text("{}")
    others.write_text("{}")
    assert files.build(PARK, tmp_path) == [Path("dashboards/symbiosis-old.json")]
    assert others.exists()


def test_the_command_builds_for_any_park(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (KALUNDBORG / "park.yaml").read_text()
    text = text.replace("Europe/Copenhagen", "Asia/Tokyo").replace("currency: EUR", "currency: JPY")
    shutil.copy(KALUNDBORG / "meters.csv", tmp_path)
    (tmp_path / "park.yaml").write_text(text)
    assert main(["dashboards", "build", str(tmp_path / "park.yaml"), "--out", str(tmp_path / "out")]) == 0
    assert "symbiosis-network.json" in capsys.readouterr().err
    board = (tmp_path / "out/dashboards/symbiosis-network.json").read_text()
    assert '"timezone": "Asia/Tokyo"' in board
    assert "JPY/h" in board
    assert "EUR" not in board


@pytest.mark.parametrize("name", BOARDS)
def test_board_is_classic_and_complete(name: str) -> None:
    board = BOARDS[name]
    assert board["uid"] == f"symbiosis-{name}"
    assert board["timezone"] == PARK.park.timezone
    assert "apiVersion" not in board                                # schema v2 would be refused
    assert isinstance(board["panels"], list)
    numbers = [panel["id"] for panel in board["panels"]]
    assert numbers == list(range(1, len(numbers) + 1))
    others = {f"/d/{house.uid(other)}" for other in BOARDS if other != name}
    assert {link["url"] for link in board["links"]} == others | {f"/d/{board['uid']}?kiosk"}
    for panel in board["panels"]:
        assert panel["title"]
        assert panel["description"]
        assert panel["fieldConfig"]["defaults"]["noValue"]
        assert all(target["datasource"]["uid"] == "symbiosis-postgres" for target in panel["targets"])


@pytest.mark.parametrize("name", BOARDS)
def test_panels_lie_side_by_side(name: str) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in BOARDS[name]["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells = {(at["x"] + dx, at["y"] + dy) for dx in range(at["w"]) for dy in range(at["h"])}
        assert not cells & taken
        taken |= cells


@pytest.mark.parametrize("name", BOARDS)
def test_colours_are_those_that_everybody_tells_apart(name: str) -> None:
    known = {house.GOOD, house.BAD, house.WARN, house.NEUTRAL, house.LIGHT, "#CC79A7"}
    assert set(re.findall(r"#[0-9A-Fa-f]{6}", str(BOARDS[name]))) <= known


def test_every_query_is_used() -> None:
    used = {target["rawSql"] for board in BOARDS.values() for panel in board["panels"] for target in panel["targets"]}
    used |= {v["query"] for board in BOARDS.values() for v in board.get("templating", {}).get("list", [])}
    used |= {a["target"]["rawSql"] for board in BOARDS.values() for a in board.get("annotations", {}).get("list", [])}
    folder = Path(files.__file__).parent / "queries"
    unused = {file.stem for file in folder.glob("*.sql") if file.read_text().strip() not in used}
    assert unused == {"alert_events", "alert_data"}


def test_provisioning_says_where_things_are() -> None:
    def read(name: str) -> dict[str, Any]:
        return yaml.safe_load((BUILT / "provisioning" / name).read_text())

    [source] = read("datasources/symbiosis.yaml")["datasources"]
    assert (source["uid"], source["type"]) == ("symbiosis-postgres", "postgres")
    assert source["jsonData"]["timescaledb"] is False
    assert source["secureJsonData"] == {"password": "$__file{/run/secrets/grafana_db_password}"}
    [provider] = read("dashboards/symbiosis.yaml")["providers"]
    assert provider["options"]["path"] == files.BOARDS_IN_GRAFANA
    [group] = read("alerting/rules.yaml")["groups"]
    assert "folderUid" not in group                                 # alert files know none
    assert group["folder"] != provider["folder"]                    # else the title is taken before its uid
    [policy] = read("alerting/policies.yaml")["policies"]
    [point] = read("alerting/contact-points.yaml")["contactPoints"]
    assert policy["receiver"] == point["name"] == alerts.CONTACT

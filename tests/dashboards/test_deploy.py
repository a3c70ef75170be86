"""`symbiosis dashboards deploy` against a stand-in of Grafana that records the calls; no real Grafana is asked here."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dashboards import alerts, house
from dashboards.deploy import Grafana, deploy
from dashboards.postgres import UID
from park.errors import InputError, OperationError
from park.load import load_park
from symbiosis.cli import main
from tests.dashboards.filled import KALUNDBORG
from tests.dashboards.stand_in import TOKEN, StandIn, running

DSN = "host=db dbname=symbiosis user=grafana password=hidden"
GROUP = f"/api/v1/provisioning/folder/{alerts.FOLDER_UID}/rule-groups/{alerts.GROUP}"
POLICIES = "/api/v1/provisioning/policies"
PARK = load_park(KALUNDBORG / "park.yaml")


@pytest.fixture
def grafana() -> Iterator[StandIn]:
    with running() as stand_in:
        yield stand_in


def to(grafana: StandIn, **more: object) -> Grafana:
    return Grafana(grafana.url, TOKEN, **{"reader_dsn": DSN, "webhook": "https://plant/hook", **more})  # type: ignore[arg-type]


def test_first_time_creates_everything(grafana: StandIn) -> None:
    report = deploy(PARK, to(grafana))
    assert {done for _, done in report.lines} == {"created"}
    assert {f"/api/dashboards/uid/{house.uid(name)}" for name in house.BOARDS} <= grafana.held.keys()
    assert grafana.held[f"/api/datasources/{UID}"]["url"] == "db:5432"
    assert grafana.held[GROUP]["interval"] == 20


def test_second_time_changes_nothing(grafana: StandIn) -> None:
    deploy(PARK, to(grafana))
    grafana.writes.clear()
    report = deploy(PARK, to(grafana))
    assert grafana.writes == []
    assert report.changes == 0


def test_what_others_made_stays(grafana: StandIn) -> None:
    theirs = dict(grafana.held[POLICIES]["routes"][0])
    deploy(PARK, to(grafana))
    deploy(PARK, to(grafana, webhook="https://plant/other"))
    routes = grafana.held[POLICIES]["routes"]
    assert theirs in routes
    assert len(routes) == 2
    assert grafana.held[POLICIES]["receiver"] == "theirs"
    assert {p["uid"] for p in grafana.contact_points} == {"theirs", alerts.CONTACT_UID}
    assert all(
        path in (POLICIES, GROUP, "/api/folders", "/api/datasources", "/api/dashboards/db")
        or path.startswith("/api/v1/provisioning/contact-points")
        for _, path in grafana.writes
    )


def test_what_was_changed_by_hand_is_put_right(grafana: StandIn) -> None:
    deploy(PARK, to(grafana))
    grafana.held[GROUP]["rules"][0]["for"] = "1h"
    grafana.held[f"/api/dashboards/uid/{house.uid('quality')}"]["dashboard"]["title"] = "mine"
    grafana.writes.clear()
    changed = {what for what, done in deploy(PARK, to(grafana)).lines if done == "changed"}
    assert changed == {"11 alert rules", "board Quality · Kalundborg Symbiosis"}
    assert deploy(PARK, to(grafana)).changes == 0


def test_runbooks_are_linked_where_people_reach_them(grafana: StandIn) -> None:
    deploy(PARK, to(grafana, runbooks="https://plant/runbooks"))
    links = {rule["annotations"]["runbook_url"] for rule in grafana.held[GROUP]["rules"]}
    assert "https://plant/runbooks/leak.md" in links


def test_a_rule_that_is_no_more_goes(grafana: StandIn) -> None:
    deploy(PARK, to(grafana))
    grafana.held[GROUP]["rules"].append({"uid": "symbiosis-gone"})
    deploy(PARK, to(grafana))
    assert "symbiosis-gone" not in {rule["uid"] for rule in grafana.held[GROUP]["rules"]}


def test_a_new_password_is_written_by_force(grafana: StandIn) -> None:
    deploy(PARK, to(grafana))
    grafana.writes.clear()
    deploy(PARK, to(grafana, force=True))
    assert ("PUT", f"/api/datasources/uid/{UID}") in grafana.writes


def test_without_a_database_the_data_source_must_be_there(grafana: StandIn) -> None:
    with pytest.raises(InputError, match="has no data source symbiosis-postgres yet"):
        deploy(PARK, to(grafana, reader_dsn=None))
    deploy(PARK, to(grafana))
    assert deploy(PARK, to(grafana, reader_dsn=None, webhook=None)).changes == 0


def test_a_wrong_token_and_a_grafana_that_is_away(grafana: StandIn) -> None:
    with pytest.raises(OperationError, match=r"Grafana at 127.0.0.1 refused"):
        deploy(PARK, Grafana(grafana.url, "wrong", DSN))
    with pytest.raises(OperationError, match=r"cannot reach Grafana at 127.0.0.1"):
        deploy(PARK, Grafana("http://127.0.0.1:1", TOKEN, DSN))
    with pytest.raises(InputError, match="url: must be like"):
        deploy(PARK, Grafana("grafana.plant", TOKEN, DSN))


def test_the_command_says_what_changed(grafana: StandIn, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "dashboards",
        "deploy",
        str(KALUNDBORG / "park.yaml"),
        "--url",
        grafana.url,
        "--token",
        TOKEN,
        "--reader-dsn",
        DSN,
    ]
    assert main(arguments) == 0
    assert "created: 11 alert rules" in capsys.readouterr().out
    assert main(arguments) == 0
    assert "created" not in capsys.readouterr().out
    assert main([*arguments[:4], grafana.url, "--token", "wrong"]) == 1
    assert main([*arguments[:4], grafana.url]) == 2

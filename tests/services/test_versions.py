"""Park descriptions in a real database."""

from __future__ import annotations

import pytest

from park.errors import StoreError
from park.model import Park
from park.store import connect, load_stored_park, store_park
from park.store.versions import canonical_json


def park(name: str = "Hafen", loss: float = 1.0) -> Park:
    return Park.model_validate(
        {
            "park": {"name": name, "timezone": "Europe/Copenhagen"},
            "participants": [{"id": "p", "name": "Kraftværk"}],
            "nodes": [{"id": "p.header", "participant": "p", "conserves": ["mass", "energy"]}],
            "streams": [
                {
                    "id": "S1", "from": "environment", "to": "p.header", "carrier": "steam",
                    "mass_loss_percent": {"value": loss, "u95": 0.1}, "nominal": {"value": 40.0, "unit": "t/h"},
                }
            ],
            "meters": [
                {
                    "id": "p.FT1", "stream": "S1", "side": "receiver", "quantity": "mass_flow", "unit": "t/h",
                    "u95_percent_of_reading": 1.0, "stale_after_s": None, "valid_from": "2026-01-01T00:00:00Z",
                    "source": {"mqtt": {"topic": "t", "value": "$.value"}},
                }
            ],
        }
    )


def test_a_park_is_stored_once_and_comes_back_equal(postgres_dsn: str) -> None:
    with connect(postgres_dsn) as conn:
        version = store_park(conn, park())
        assert store_park(conn, park()) == version
        assert conn.execute("select count(*) from park_version").fetchone() == (1,)
        assert load_stored_park(conn, version) == park()
        assert load_stored_park(conn).meters[0].stale_after_s is None


def test_any_change_is_another_version(postgres_dsn: str) -> None:
    with connect(postgres_dsn) as conn:
        versions = [store_park(conn, p) for p in (park(), park(loss=1.5), park(name="Havn"), park())]
        assert versions[0] == versions[3]
        assert len(set(versions)) == 3
        assert load_stored_park(conn).park.name == "Havn"


def test_version_that_is_not_there(postgres_dsn: str) -> None:
    with connect(postgres_dsn) as conn:
        with pytest.raises(StoreError, match="no park is stored"):
            load_stored_park(conn)
        with pytest.raises(StoreError, match="park version 7 is not stored"):
            load_stored_park(conn, 7)


def test_canonical_json_does_not_depend_on_the_order_of_keys() -> None:
    document = park().model_dump(by_alias=True)
    turned = {key: document[key] for key in reversed(document)}
    assert canonical_json(Park.model_validate(turned)) == canonical_json(park())
    assert "Kraftværk" in canonical_json(park())

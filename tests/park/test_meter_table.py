"""meters.csv: cells, columns, and tables that are wrong."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from park.errors import ParkError
from park.load import load_park
from park.meter_table import COLUMNS, read_table
from park.wording import Speller

TABLE = Path(__file__).parents[1] / "cases" / "parks" / "table"


def read(text):
    return read_table(text, "meters.csv", Speller())


@pytest.mark.parametrize(
    "cell",
    ['"{S30: 1, S31: -1}"', '"S30: 1, S31: -1"', "S30:1 S31:-1", "S30:1;S31:-1", "S30: 1 S31: -1", "S30 : 1;S31:-1 "],
)
def test_signed_sets(cell):
    table = read(f"id,quantity,unit,streams,mqtt.topic\nm,heat_flow,kW,{cell},t\n")
    assert table.rows[0].data["streams"] == {"S30": 1, "S31": -1}
    assert table.faults == []


@pytest.mark.parametrize("cell", ['"[0, 60]"', '"0, 60"', "0;60", "0 60"])
def test_spans(cell):
    assert read(f"id,quantity,unit,span,mqtt.topic\nm,mass_flow,t/h,{cell},t\n").rows[0].data["span"] == [0, 60]


def test_texts_stay_texts_and_numbers_become_numbers():
    row = read("id,stream,quantity,unit,interval_s,never_suspect,stale_after_s,valid_from,mqtt.topic\n"
               "101,007,mass_flow,1,1e1,true,null,2026-01-01,no\n").rows[0].data
    assert row == {"id": "101", "stream": "007", "quantity": "mass_flow", "unit": "1", "interval_s": 10.0,
                   "never_suspect": True, "stale_after_s": None, "valid_from": "2026-01-01",
                   "source": {"mqtt": {"topic": "no"}}}


def test_lines_count_what_stands_in_the_file():
    rows = read('\n\nid,quantity,unit,mqtt.topic\n\na,"mass\nflow",t/h,t\n\nb,c,d,e\n').rows
    assert [row.line for row in rows] == [5, 8]


def test_every_column_is_known_with_and_without_its_prefix():
    assert read(",".join(COLUMNS) + "\n").faults == []
    assert read(",".join(f"source.{c}" if "." in c and "counter" not in c else c for c in COLUMNS) + "\n").faults == []


@pytest.mark.parametrize("mangle", range(150))
def test_a_mangled_table_gives_faults_and_nothing_else(tmp_path, mangle):
    rng = random.Random(mangle)
    text = (TABLE / "tables" / "meters.csv").read_bytes().decode("utf-8-sig")
    for _ in range(rng.randint(1, 4)):
        at, length = rng.randrange(len(text)), rng.randrange(1, 20)
        piece = rng.choice([*',"\n\r;{}[]: \x00', "", "null", "1e400", text[at:at + length] * 2])
        text = text[:at] + piece + text[at + length:]
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "meters.csv").write_text(text, encoding="utf-8", newline="")
    (tmp_path / "park.yaml").write_text((TABLE / "park.yaml").read_text())
    try:
        assert load_park(tmp_path / "park.yaml").park.name == "Meters in a table"
        faults = ()
    except ParkError as error:
        faults = error.faults
    assert all(1 <= fault.line <= text.count("\n") + text.count("\r") + 2 for fault in faults)

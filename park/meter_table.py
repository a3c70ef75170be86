"""meters.csv: one row a meter, the keys of park.yaml as columns.

Here is `read_table`, which turns the text of the file into the same mappings that a list of meters in park.yaml gives,
with the line of each row. Not here: what the keys mean.

A column may be a key inside a key, such as ``source.opcua.endpoint``; the word ``source`` may be left out. Cells of
texts are taken as they are; the others follow YAML's rules (``1e3``, ``true``, ``null``), lists and mappings with or
without their brackets (``0, 60``; ``S30: 1, S31: -1``). An empty cell is a key that is not there.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from park.entry import Entry
from park.errors import Fault
from park.model import Counter, Meter, MqttSource, OpcuaSource, SparkplugSource
from park.wording import Speller
from park.yaml12 import parse, scalar

PROTOCOLS: Mapping[str, type[Entry]] = {"opcua": OpcuaSource, "mqtt": MqttSource, "sparkplug": SparkplugSource}
SOURCES = tuple(f"{name}.{key}" for name, source in PROTOCOLS.items() for key in source.model_fields)
NUMBERS = frozenset(
    {
        "u95_percent_of_reading",
        "u95_percent_of_span",
        "u95_absolute",
        "systematic_share",
        "interval_s",
        "stale_after_s",
        "never_suspect",
        *(f"counter.{key}" for key in Counter.model_fields),
    }
)
LISTS, MAPPINGS = frozenset({"span"}), frozenset({"streams", "counter"})
KEYS = tuple(key for key in Meter.model_fields if key != "source")
COLUMNS = (*KEYS, *(f"counter.{key}" for key in Counter.model_fields), *SOURCES)
REQUIRED = ("id", "quantity", "unit")


@dataclass(frozen=True)
class Row:
    """One meter as its row gives it."""

    line: int
    data: dict[str, object]


@dataclass
class MeterTable:
    """The rows of a meters.csv, what is wrong with the table itself, and the keys that no row can have."""

    rows: list[Row] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    absent: frozenset[str] = frozenset()


def read_table(text: str, file: str, speller: Speller) -> MeterTable:
    """Return the meters in the CSV `text`; `file` is its name in messages. Never raises: see `MeterTable.faults`."""
    table = MeterTable()
    records = _records(text, file, table.faults)
    header_line, header = next(records, (1, []))
    if not header:
        table.faults.append(
            Fault(
                file,
                1,
                "",
                "the file has no header",
                f"the first row names the columns, {', '.join(REQUIRED)} among them",
            )
        )
        table.absent = frozenset(Meter.model_fields)
        return table
    columns = [name.strip().removeprefix("source.") for name in header]
    usable = _check_header(columns, Fault(file, header_line, "", ""), table, speller)
    if not usable:
        return table
    for line, cells in records:
        if len(cells) > len(columns) and any(cells[len(columns) :]):
            table.faults.append(
                Fault(
                    file,
                    line,
                    "",
                    f"row has {len(cells)} cells, the header has {len(columns)}",
                    "put a cell that holds a comma in double quotes",
                )
            )
        pairs = ((column, cells[i].strip()) for column, i in usable.items() if i < len(cells))
        table.rows.append(Row(line, _nested({column: _cell(column, cell) for column, cell in pairs if cell})))
    return table


def _records(text: str, file: str, faults: list[Fault]) -> Iterator[tuple[int, list[str]]]:
    """Yield each record that is not blank with the line on which it begins."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    line = 1
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield line, cells
            line = reader.line_num + 1
    except csv.Error as error:
        faults.append(Fault(file, line, "", f"not CSV: {error}", "double a quotation mark inside quotes"))


def _check_header(columns: list[str], place: Fault, table: MeterTable, speller: Speller) -> dict[str, int]:
    """Note what is wrong with the header; return where the columns are that can be used, of two alike the first."""

    def fault(message: str, hint: str) -> None:
        table.faults.append(Fault(place.file, place.line, "", message, hint))

    if len(columns) == 1 and (";" in columns[0] or "\t" in columns[0]):
        fault("the header has one column only", "columns are separated by commas")
        table.absent = frozenset(Meter.model_fields)
        return {}
    for i, column in enumerate(columns):
        if column not in COLUMNS:
            hint = speller.did_you_mean(column, COLUMNS) if column else "take the empty column away"
            fault(f"unknown column {column!r}", hint or f"known columns are {', '.join(COLUMNS)}")
        elif column in columns[:i]:
            fault(f"column {column!r} is there twice", "keep one of the two")
    absent = {key for key in REQUIRED if key not in columns}
    for key in (key for key in REQUIRED if key in absent):
        fault(f"column {key} is missing", f"the header must have {', '.join(REQUIRED)}")
    if not any(column in SOURCES for column in columns):
        absent.add("source")
        fault(
            "columns of a source are missing", "such as opcua.endpoint,opcua.node_id or mqtt.topic,mqtt.value,mqtt.time"
        )
    table.absent = frozenset(absent)
    return {column: columns.index(column) for column in dict.fromkeys(columns) if column in COLUMNS}


def _cell(column: str, cell: str) -> object:
    """Return the value of a cell that is not empty."""
    if column in NUMBERS:
        return scalar(cell)
    if column in LISTS:
        return _flow(cell, "[]")
    return _flow(cell, "{}") if column in MAPPINGS else cell


def _flow(cell: str, brackets: str) -> object:
    """Return the list or mapping that a cell holds; the cell itself where it holds none.

    Without brackets, entries may be separated by semicolons or spaces too, so that a cell needs no quotes.
    """
    if cell[0] == brackets[0]:
        text = cell
    else:
        tight = re.sub(r"\s*:\s*", ":", cell)
        entries = re.split(r"\s*[;,]\s*" if re.search("[;,]", tight) else r"\s+", tight)
        text = brackets[0] + ", ".join(_spaced(entry) for entry in entries if entry) + brackets[1]
    document = parse(text, "")
    return cell if document.faults else document.data


def _spaced(entry: str) -> str:
    """Return ``S30:1`` as YAML wants it: ``S30: 1``."""
    return re.sub(r":(?=[-+.0-9][^:]*$)", ": ", entry)


def _nested(flat: dict[str, object]) -> dict[str, object]:
    """Return a row with ``opcua.endpoint`` as source: {opcua: {endpoint: ...}} and ``counter.modulus`` alike."""
    row: dict[str, object] = {}
    for column, value in flat.items():
        head, _, key = column.partition(".")
        if head in PROTOCOLS:
            _inner(_inner(row, "source"), head)[key] = value
        elif key:
            _inner(row, head)[key] = value
        else:
            row[column] = value
    return row


def _inner(outer: dict[str, object], key: str) -> dict[str, object]:
    """Return the mapping at `key`, which begins empty."""
    inner = outer.setdefault(key, {})
    return inner if isinstance(inner, dict) else {}

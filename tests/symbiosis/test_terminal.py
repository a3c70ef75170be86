"""The views: what is shown where room is short, and that nothing is ever wider or higher than the terminal."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta

import pytest
from rich.cells import cell_len
from rich.console import Console

from park.clock import RunClock
from symbiosis.observe import EventRow, ExchangeRow, Look, NodeRow, Pace, RateRow, WindowRow
from symbiosis.terminal import PAGE_EVERY_S, Known, PlainScreen, decimals, draw, page

NOW = 1_767_225_600.0
START = datetime.fromtimestamp(NOW - 30, UTC)


def exchange(number: int, in_agreement: bool | None = True) -> ExchangeRow:
    return ExchangeRow(
        f"X{number:02d}", "Process steam to the pharmaceutical plant", "Asnæs power station", "Novo 製薬", "kg/s",
        10.0 + number, None if number % 3 else 10.0, 10.05 + number, 0.12, in_agreement,
    )


def event(number: int, *, lasts: bool = True) -> EventRow:
    return EventRow(number, "volume_mismatch", "X07", START, None if lasts else START, "high", "the ends differ by 3 %")


def a_look(exchanges: int = 36, out: tuple[int, ...] = (7, 19), away: str = "") -> Look:
    return Look(
        window=WindowRow(START, START + timedelta(seconds=20), START + timedelta(seconds=22), "complete", 1e-13, 42),
        exchanges=[exchange(n, n not in out) for n in range(exchanges)],
        nodes=[NodeRow(name, name, "mass", "kg/s", value, 0.5) for name, value in (("power.header", 3.0), ("b", 0.1))],
        events=[event(2), event(1, lasts=False)], rate=RateRow(START, 30.0), away=away,
    )


def picture(known: Known, width: int, height: int) -> list[str]:
    console = Console(width=width, height=height, file=io.StringIO(), color_system=None, legacy_windows=False)
    console.print(draw(known, width, height, NOW))
    return console.file.getvalue().rstrip("\n").split("\n")


def a_known(look: Look) -> Known:
    return Known("Kalundborg", states=lambda: {"simulate": "serving", "collect": "armed"},
                 clock=RunClock(NOW - 100, NOW - 2000, 20.0), look=look)


@pytest.mark.parametrize(("width", "height"), [(80, 24), (60, 15), (100, 30), (120, 40), (200, 60), (320, 100)])
def test_the_view_fits(width, height):
    lines = picture(a_known(a_look()), width, height)
    assert len(lines) <= height
    assert max(cell_len(line) for line in lines) <= width
    text = "\n".join(lines)
    assert "X07" in text
    assert "X19" in text
    assert "OUT" in text
    assert "volume_mismatch" in text


def test_a_wall_shows_every_exchange_and_both_its_ends():
    text = "\n".join(picture(a_known(a_look()), 240, 70))
    assert all(f"X{n:02d}" in text for n in range(36))
    assert "Asnæs power station" in text
    assert "power.header" in text
    assert "more" not in text


def test_flows_are_shown_in_the_units_of_the_trade_with_two_digits_of_their_uncertainty():
    line = next(line for line in picture(a_known(a_look()), 120, 40) if " X07 " in line)
    assert " 61.20 " in line            # 17 kg/s
    assert "0.43" in line               # 0.12 kg/s
    assert "t/h" in line


def test_a_database_that_is_away_is_said_and_the_last_look_stays():
    lines = picture(a_known(a_look(away="connection refused")), 80, 24)
    assert "the database is away" in lines[1]
    assert any("X07" in line for line in lines)


def test_the_latest_note_is_shown_even_where_room_is_short():
    known = a_known(a_look())
    known.notes = ["12:00:00 an old one", "12:00:01 stopping"]
    lines = picture(known, 80, 24)
    assert len(lines) <= 24
    assert "stopping" in lines[2]
    assert not any("an old one" in line for line in lines)


def test_the_start_shows_its_steps():
    known = Known("Kalundborg", steps={"database": (0.0, 1.2, "ready"), "broker": (0.0, None, "")}, notes=["a note"])
    text = "\n".join(picture(known, 80, 24))
    assert "✓ database" in text
    assert "1.2 s" in text
    assert "… broker" in text
    assert "a note" in text


def test_pages_keep_what_is_out_of_agreement_and_show_every_other_in_turn():
    rows = [exchange(n, n != 5) for n in range(12)]
    seen = set()
    for turn in range(4):
        shown, hidden = page(rows, 4, turn * PAGE_EVERY_S)
        assert shown[0].exchange == "X05"
        assert len(shown) + hidden == 12
        assert len(shown) <= 4
        seen |= {row.exchange for row in shown}
    assert len(seen) == 12


def test_more_out_of_agreement_than_room_are_cut():
    shown, hidden = page([exchange(n, False) for n in range(9)], 4, NOW)
    assert (len(shown), hidden) == (4, 5)


@pytest.mark.parametrize(("u95", "value", "digits"), [
    (0.12, 40.0, 2), (1.2, 40.0, 1), (12.0, 400.0, 0), (0.0031, 1.0, 4), (None, 12.5, 2), (None, None, 1), (0, 0, 1),
])
def test_decimals_follow_the_uncertainty(u95, value, digits):
    assert decimals(u95, value) == digits


def test_pace_is_told_in_wall_seconds():
    clock = RunClock(NOW - 100, NOW - 2100, 20.0)       # run time is NOW - 100 now
    window = WindowRow(
        datetime.fromtimestamp(NOW - 150, UTC), datetime.fromtimestamp(NOW - 130, UTC),
        datetime.fromtimestamp(NOW - 110, UTC), "complete", None, 1,
    )
    pace = Pace.of(Look(window=window, rate=RateRow(datetime.fromtimestamp(NOW - 104, UTC), 30.0)), clock, NOW)
    assert pace.lag_s == pytest.approx(1.0)
    assert pace.result_age_s == pytest.approx(0.5)
    assert pace.reading_age_s == pytest.approx(0.2)
    assert pace.values_per_s == pytest.approx(600.0)


def test_plain_lines_tell_each_event_once_when_it_begins_and_once_when_it_ends(capsys):
    screen = PlainScreen(summary_every_s=1e9)
    screen.begin(RunClock(), dict)
    for look in (Look(events=[event(1)]), Look(events=[event(1)]), Look(events=[event(2), event(1, lasts=False)])):
        screen.show(look)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(" ", 1)[1].split(":")[0] for line in lines] == [
        "event volume_mismatch since 23", "event volume_mismatch X07 ended at 23", "event volume_mismatch since 23",
    ]


def test_plain_lines_sum_up_and_tell_once_that_the_database_is_away(capsys):
    screen = PlainScreen(summary_every_s=1e9)
    screen.begin(RunClock(), dict)
    for look in (a_look(), a_look(away="gone"), a_look(away="gone"), a_look()):
        screen.show(look)
    lines = capsys.readouterr().err.splitlines()
    assert sum("36 exchanges reconciled, 2 out of agreement" in line for line in lines) == 1
    assert sum("the database is away: gone" in line for line in lines) == 1
    assert sum("the database answers again" in line for line in lines) == 1

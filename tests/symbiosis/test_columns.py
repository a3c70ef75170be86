"""Plain tables and lists: alignment by the cells of a terminal, lines that keep to a width."""

from __future__ import annotations

from rich.cells import cell_len

from symbiosis import columns

ROWS = [("stream", "u95", "meters"), ("蒸気", "1.5", "a b"), ("e\u0301t\u00e9", "10", "a much longer list of meters")]


def test_cells_are_counted_not_characters():
    head, wide, accents = columns.table(ROWS, {"u95"})
    assert head == "stream  u95  meters"
    assert wide == "蒸気    1.5  a b"  # two characters of two cells each
    assert accents == "e\u0301t\u00e9      10  a much longer list of meters"  # a combining accent takes no cell


def test_a_last_cell_that_does_not_fit_stands_below():
    lines = list(columns.table(ROWS, {"u95"}, 24))
    assert lines[:2] == ["stream  u95  meters", "蒸気    1.5  a b"]
    assert lines[2:] == ["e\u0301t\u00e9      10", "    a much longer list", "    of meters"]


def test_lists_and_sentences_break_between_words():
    assert list(columns.listed("in no balance", ["a", "b", "c"], 18)) == ["in no balance: a,", "    b, c"]
    assert list(columns.listed("none", ["a"])) == ["none: a"]
    assert list(columns.sentence("one two three", 9, 2)) == ["  one two", "      three"]
    assert list(columns.sentence("x" * 20, 9)) == ["x" * 20]  # a word that is longer stays whole


def test_wide_words_count_for_what_they_take():
    lines = list(columns.sentence("工業団地 工業団地 工業団地", 20))
    assert lines == ["工業団地 工業団地", "    工業団地"]
    assert max(map(cell_len, lines)) <= 20


def test_a_pipe_has_no_width_and_a_terminal_has(monkeypatch, capsys):
    monkeypatch.delenv("COLUMNS", raising=False)
    assert columns.width_of_output() is None
    monkeypatch.setenv("COLUMNS", "72")
    assert columns.width_of_output() == 72

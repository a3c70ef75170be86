"""Since when the meters of a run owe readings: kept over a kill, and for one run alone."""

from __future__ import annotations

import pytest

from collector.begun import FILE_NAME, read_begun, write_begun


def test_what_was_written_is_read_by_the_next_collector_of_the_run(tmp_path):
    assert read_begun(tmp_path, 5) == {}
    write_begun(tmp_path, 5, {"Zähler 1": 7, "B": 8})
    assert read_begun(tmp_path, 5) == {"Zähler 1": 7, "B": 8}
    write_begun(tmp_path, 5, {"B": 9})
    assert read_begun(tmp_path, 5) == {"B": 9}


def test_another_run_owes_nothing(tmp_path):
    write_begun(tmp_path, 5, {"B": 8})
    assert read_begun(tmp_path, 6) == {}


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"run_us": 5}', '{"run_us": 5, "meters": 1}',
                                  '{"run_us": 5, "meters": {"B": "x"}}'])
def test_a_file_that_is_none_says_nothing(tmp_path, text):
    (tmp_path / FILE_NAME).write_text(text)
    assert read_begun(tmp_path, 5) == {}


def test_a_folder_that_takes_nothing_is_an_error_and_leaves_the_file(tmp_path):
    write_begun(tmp_path, 5, {"B": 8})
    (tmp_path / f"{FILE_NAME}.new").mkdir()
    with pytest.raises(OSError, match="directory"):
        write_begun(tmp_path, 5, {"B": 9})
    assert read_begun(tmp_path, 5) == {"B": 8}

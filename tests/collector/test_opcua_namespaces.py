"""What stood behind the namespace indexes of a server, over restarts of either side."""

from __future__ import annotations

import pytest

from collector.opcua.namespaces import FOLDER, Namespaces

SOURCE = "opcua:opc.tcp://plc:4840"
BEFORE, AFTER = ["ua", "urn:s", "urn:a", "urn:b"], ["ua", "urn:s", "urn:b", "urn:a"]


async def known(folder, uris=BEFORE, indexes=(0, 2)):
    namespaces = Namespaces(folder, SOURCE)
    await namespaces.learn(set(indexes), uris)
    return namespaces


@pytest.mark.parametrize("over_a_restart", [False, True])
async def test_another_order_is_noticed_by_its_index(tmp_path, over_a_restart):
    namespaces = await known(tmp_path)
    if over_a_restart:
        namespaces = await known(tmp_path, AFTER)
    [file] = (tmp_path / FOLDER).iterdir()
    assert namespaces.change_of(2, BEFORE) is None
    assert namespaces.change_of(2, AFTER) == (
        "namespace 2 was 'urn:a' and is 'urn:b' now (hint: write nsu=urn:a;... in park.yaml; "
        f"or delete {file}, and the new order holds)")
    assert "is not on the server now" in namespaces.change_of(2, ["ua", "urn:s"])


async def test_what_no_meter_names_and_the_standard_namespace_may_be_anything(tmp_path):
    namespaces = await known(tmp_path)
    assert namespaces.change_of(3, AFTER) is None
    assert namespaces.change_of(0, ["other"]) is None


async def test_an_index_that_is_named_later_is_learnt_beside_the_others(tmp_path):
    await known(tmp_path)
    namespaces = await known(tmp_path, BEFORE, [2, 3])
    assert namespaces.change_of(3, AFTER) is not None
    assert namespaces.change_of(2, AFTER) is not None


async def test_who_deletes_the_file_accepts_the_new_order(tmp_path):
    namespaces = await known(tmp_path)
    for file in (tmp_path / FOLDER).iterdir():
        file.unlink()
    await namespaces.learn({2}, AFTER)
    assert namespaces.change_of(2, AFTER) is None
    assert namespaces.change_of(2, BEFORE) is not None


async def test_a_disk_that_takes_nothing_is_said_once_and_the_process_still_knows(tmp_path, caplog):
    (tmp_path / FOLDER).write_text("no folder")
    namespaces = await known(tmp_path)
    await namespaces.learn({2, 3}, AFTER)
    assert namespaces.change_of(2, AFTER) is not None
    assert caplog.text.count(f"{SOURCE}: cannot ") == 1


async def test_a_file_that_cannot_be_read_is_said(tmp_path, caplog):
    await known(tmp_path)
    [file] = (tmp_path / FOLDER).iterdir()
    file.write_text('{"namespaces": [')
    await known(tmp_path, AFTER)
    assert f"cannot read {file}" in caplog.text


async def test_without_a_folder_it_is_known_while_the_process_lives():
    namespaces = await known(None)
    await namespaces.learn({2}, AFTER)
    assert "or start the collector again" in namespaces.change_of(2, AFTER)

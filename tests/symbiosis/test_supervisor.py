"""Services as processes: real ones, small stand-ins for ours."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from park.errors import InputError, OperationError
from symbiosis import supervisor
from symbiosis.supervisor import Interrupted, Interrupts, Service, ServiceCommand, stop_in_order

STAND_IN = Path(__file__).with_name("stand_in_service.py")


@pytest.fixture(autouse=True)
def _short_back_off(monkeypatch):
    monkeypatch.setattr(supervisor, "BACK_OFF_S", (0.01, 0.05))


@asynccontextmanager
async def running(behaviour: str, folder: Path, name: str = "collect", **more):
    told: list[str] = []
    command = ServiceCommand(name, [sys.executable, "-S", str(STAND_IN), behaviour, str(folder), name], **more)
    service = Service(command, told.append)
    service.launch()
    try:
        yield service, told
    finally:
        service.kill()
        await service.stop(5)


async def test_orders_reach_the_service_and_its_states_come_back(tmp_path):
    async with running("obedient", tmp_path) as (service, told):
        await service.reached("loaded")
        service.order("start")
        detail = await service.reached("serving")
        assert detail == {"servers": 3}
        assert await service.stop(5)
        assert service.state == "stopped"
        assert service.pid is None
        assert told == []


async def test_services_stop_one_after_the_other(tmp_path):
    async with (
        running("obedient", tmp_path, "simulate") as (first, _),
        running("obedient", tmp_path, "collect") as (second, _),
        running("obedient", tmp_path, "process") as (third, _),
    ):
        for service in (first, second, third):
            service.order("start")
            await service.reached("serving")
        told: list[str] = []
        await stop_in_order([first, second, third], 5.0, told.append)
        assert (tmp_path / "order").read_text().split() == [
            "simulate:stop", "simulate:end", "collect:stop", "collect:end", "process:stop", "process:end",
        ]
        assert told == []


async def test_a_service_that_does_not_finish_is_ended_and_named(tmp_path):
    async with running("deaf", tmp_path) as (service, _):
        service.order("start")
        await service.reached("serving")
        told: list[str] = []
        await stop_in_order([service], 0.2, told.append)
        assert service.pid is None
        assert told == ["collect did not finish within 0.2 s and was ended"]


async def test_a_service_that_has_not_begun_has_nothing_to_finish(tmp_path):
    async with running("deaf", tmp_path) as (service, _):
        await service.reached("loaded")
        async with asyncio.timeout(2):
            assert await service.stop(60)
        assert service.pid is None


async def test_a_service_that_still_loads_is_waited_for_where_there_is_time(tmp_path):
    async with running("slow", tmp_path) as (service, told):
        service.order("start")
        while service.pid is None:      # noqa: ASYNC110  (no state says so)
            await asyncio.sleep(0.01)
        assert await service.finish(60)
        assert (tmp_path / "order").read_text().splitlines() == ["collect:stop", "collect:end"]
    assert told == []


async def test_a_process_that_is_being_made_when_all_ends_is_ended_too(tmp_path):
    async with running("deaf", tmp_path) as (service, _):
        while service.starts == 0:      # noqa: ASYNC110
            await asyncio.sleep(0)
        assert service.pid is None
        async with asyncio.timeout(2):
            assert await service.stop(7)


async def test_a_crashed_service_is_started_again_with_its_orders_and_that_is_said_once(tmp_path):
    async with running("obedient", tmp_path) as (service, told):
        service.order("start")
        await service.reached("serving")
        first = service.pid
        os.kill(first, signal.SIGKILL)
        await service.reached("restarting")
        await service.reached("serving")
        assert service.pid != first
        assert service.starts == 2
        os.kill(service.pid, signal.SIGKILL)
        while service.starts < 3:
            await service.reached("loaded")
            await asyncio.sleep(0.01)
        assert told == ["collect ended unexpectedly (killed by SIGKILL); starting it again"]


async def test_a_service_that_never_comes_up_is_given_up_with_the_end_of_its_log(tmp_path):
    log = tmp_path / "logs" / "collect.log"
    async with running("broken", tmp_path, log=log) as (service, _):
        with pytest.raises(OperationError, match=r"collect does not start \(exit code 1\):\n    no such thing"):
            await service.reached("serving")
        assert service.starts == supervisor.STARTS


async def test_a_service_that_finds_its_input_wrong_is_not_tried_again(tmp_path):
    async with running("wrong-input", tmp_path) as (service, _):
        with pytest.raises(InputError, match="exit code 2"):
            await service.reached("serving")
        assert service.starts == 1


async def test_a_service_whose_input_turns_out_wrong_after_it_came_up_is_not_tried_again(tmp_path):
    async with running("wrong-later", tmp_path, log=tmp_path / "log") as (service, told):
        await service.reached("loaded")
        service.order("start")
        async with asyncio.timeout(5):
            failure = await service.failed()
        assert isinstance(failure, InputError)
        assert str(failure) == (
            "collect finds its input wrong and is not started again (exit code 2):\n    park.yaml:2: wrong")
        with pytest.raises(InputError, match="not started again"):
            await service.reached("serving")
        assert (service.starts, service.state, told) == (1, "failed", [])


async def test_a_service_is_there_before_what_blocks_the_event_loop(tmp_path):
    async with running("obedient", tmp_path) as (service, _):
        assert service.pid is None
        await service.spawned()
        assert service.pid is not None


async def test_a_library_that_prints_is_passed_on(tmp_path):
    async with running("chatty", tmp_path) as (service, told):
        await service.reached("loaded")
        assert told == ["collect: hello", "collect: [1]"]


async def test_the_first_signal_ends_what_is_awaited_and_the_second_cancels(tmp_path):
    async def conduct() -> int:
        interrupts = Interrupts(asyncio.current_task())
        assert await interrupts.unless(asyncio.sleep(0, 7)) == 7
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Interrupted):
            await interrupts.unless(asyncio.Event().wait())
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.Event().wait()
        return 0

    with pytest.raises(asyncio.CancelledError):
        await asyncio.create_task(conduct())
    _forget_signals()


async def test_a_signal_ends_a_block_that_blocks_the_event_loop():
    interrupts = Interrupts(asyncio.current_task())
    with pytest.raises(Interrupted), interrupts.raised():
        signal.raise_signal(signal.SIGTERM)
    await interrupts.came.wait()
    assert interrupts.number == signal.SIGTERM
    _forget_signals()


def _forget_signals():
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().remove_signal_handler(number)

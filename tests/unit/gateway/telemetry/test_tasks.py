"""Background tasks survive, are told of, and end."""

import asyncio
import logging

import pytest

from gateway.errors import Unavailable
from gateway.telemetry import tasks as module
from gateway.telemetry.tasks import Tasks


async def test_a_brief_task_may_finish_before_the_end() -> None:
    tasks = Tasks()
    done: list[bool] = []

    async def work() -> None:
        await asyncio.sleep(0)
        done.append(True)

    tasks.spawn("brief", work())
    await tasks.close(1)
    assert done == [True]


async def test_patience_has_an_end() -> None:
    tasks = Tasks()
    tasks.spawn("stuck", asyncio.Event().wait())  # type: ignore[arg-type]
    async with asyncio.timeout(1):
        await tasks.close(0.01)


async def test_a_failure_is_logged_by_name(caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        raise RuntimeError("bug")

    tasks = Tasks()
    tasks.spawn("fragile", work())
    await tasks.close(1)
    (record,) = caplog.records
    assert "fragile" in record.getMessage()
    assert record.exc_info


async def test_a_lasting_task_runs_again_after_failures(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "FIRST_BACK_OFF_S", 0.0)
    tasks, enough = Tasks(), asyncio.Event()
    runs: list[int] = []

    async def work() -> None:
        runs.append(len(runs))
        if len(runs) == 1:
            raise RuntimeError("bug")
        if len(runs) == 2:
            raise Unavailable("away")
        enough.set()
        await asyncio.Event().wait()

    tasks.keep("lasting", work)
    async with asyncio.timeout(1):
        await enough.wait()
        await tasks.close(0)
    assert runs == [0, 1, 2]
    assert [record.levelno for record in caplog.records] == [logging.ERROR, logging.WARNING]

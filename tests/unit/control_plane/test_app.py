"""The HTTP face on a real server, and the process."""

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from html.parser import HTMLParser

import aiohttp
import pytest
from aiohttp import web
from redis.asyncio import Redis

from control_plane import page
from control_plane.app import make_app
from control_plane.rollouts import state
from control_plane.rollouts.commands import Commands
from control_plane.rollouts.store import Store
from control_plane.routing import RoutingDocument
from control_plane.settings import ControlSettings
from tests.unit.control_plane.making import NEW, QUICK, rollout

QUICKLY = {"every_s": 0.02, "lease_s": 2.0}


@pytest.fixture
async def commands(redis: Redis) -> Commands:
    return Commands(Store(redis), RoutingDocument(redis), "ann")


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


class Served:
    def __init__(self, settings: ControlSettings) -> None:
        self._runner = web.AppRunner(make_app(settings))

    async def __aenter__(self) -> str:
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        return f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()


async def until(session: aiohttp.ClientSession, url: str, text: str) -> str:
    """The page, once it says so."""
    async with asyncio.timeout(10):
        while True:
            async with session.get(url) as response:
                found = await response.text()
            if text in found:
                return found
            await asyncio.sleep(0.02)


async def test_a_rollout_is_followed_shown_and_counted(
    commands: Commands, session: aiohttp.ClientSession, redis: Redis, valkey_url: str
) -> None:
    async with Served(ControlSettings(valkey_url=valkey_url, **QUICKLY)) as url:
        one = await commands.start("boats", NEW, QUICK, 1000.0)
        shown = await until(session, f"{url}/", one.id)
        assert "boats: new for stable" in shown
        await until(session, f"{url}/metrics", 'trireme_rollout_share{model="boats"} 0.01')
        assert '"leading": true' in await until(session, f"{url}/health/ready", "ready")
        assert [arm.weight for route in (await RoutingDocument(redis).read()).models for arm in route.arms] == [1, 99]
    assert not await redis.exists("trireme:{control}:lease")  # given back at the end


async def test_without_valkey_it_is_alive_and_not_ready(session: aiohttp.ClientSession) -> None:
    async with Served(ControlSettings(valkey_url="redis://127.0.0.1:1/0", **QUICKLY)) as url:
        for path, status in (("/health/live", 200), ("/health/ready", 503), ("/", 200)):
            async with session.get(url + path) as response:
                assert response.status == status


class Addresses(HTMLParser):
    """What a browser would load."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.found += [str(value) for name, value in attrs if name in ("src", "href")]


def test_the_page_loads_nothing_and_quotes_what_people_wrote() -> None:
    one = state.abort(rollout(model="<script>"), "<b>ann", 1.0, "<img src=x>")
    text = page.render([one], leading=True, worked_at=1.0)
    parser = Addresses()
    parser.feed(text)
    assert parser.found == []
    assert parser.tags.isdisjoint({"script", "img", "b", "link"})
    assert "&lt;script&gt;: new for old" in text
    assert "1970-01-01 00:00:01 UTC" in text


def test_the_page_says_who_acts() -> None:
    assert "stands by" in page.render([], leading=False, worked_at=None)
    assert "There are no rollouts" in page.render([], leading=True, worked_at=None)


async def started(**environ: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "control_plane", env={**os.environ, **environ}, stderr=asyncio.subprocess.PIPE
    )


async def test_the_process_ends_cleanly_when_asked(valkey_url: str) -> None:
    process = await started(TRIREME_VALKEY_URL=valkey_url, TRIREME_CONTROL_PORT="0")
    assert process.stderr is not None
    async with asyncio.timeout(30):
        while b"listening on" not in await process.stderr.readline():
            pass
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0
        assert b"Traceback" not in await process.stderr.read()


async def test_wrong_settings_and_a_taken_port_are_told_by_the_exit_code(valkey_url: str) -> None:
    wrong = await started(TRIREME_CONTROL_PORT="http")
    _, complaint = await wrong.communicate()
    assert (wrong.returncode, b"TRIREME_CONTROL_PORT: Expected `int`, got `str`" in complaint) == (2, True)
    async with await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        taken = await started(TRIREME_VALKEY_URL=valkey_url, TRIREME_CONTROL_PORT=str(port))
        _, complaint = await taken.communicate()
    assert (taken.returncode, bool(re.search(rb"cannot start: .*address already in use", complaint))) == (1, True)

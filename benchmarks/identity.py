"""What identity, limits and the ledger cost a request, and what the same costs in LiteLLM's proxy.

Both proxies stand before one upstream process, keep their counters in one Valkey, and are one process each. All ways to
an answer take turns in blocks of requests, in another order each round; differences are taken within a round.
"""

import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import aiohttp
import psutil
import uvloop
from redis.asyncio import Redis

from benchmarks.chats import Client, Way, direct_to_ensemble, openai_chat
from benchmarks.identity_report import LEVELS, Blocks, Peer, report
from benchmarks.litellm_proxy import Keys, litellm_server, prepared, version_in
from benchmarks.report import publish
from benchmarks.servers import serving
from trireme.settings import LOOPBACK
from trireme.stack import EmbeddedStack, isolated_settings

ROUNDS: Final = 10
LISTEN_S: Final = 5.0
UPSTREAM_SECONDS: Final = 20.0
TIGHT: Final = 3
# Checked on every request, and out of reach.
LIMITS: Final = {"requests_per_minute": 1_000_000, "tokens_per_minute": 1_000_000_000, "concurrent_requests": 1000}
QUOTAS: Final = {
    "tokens_per_day": 1_000_000_000_000,
    "tokens_per_month": 1_000_000_000_000,
    "cost_per_day": 1_000_000.0,
    "cost_per_month": 1_000_000.0,
}
REQUESTS: Final = 1280
PRICES: Final = {"prompt_price": 0.1, "completion_price": 0.4}
TRIREME_KEYS: Final[Keys] = {
    "no limits": {},
    "limits": {"limits": LIMITS, "quotas": QUOTAS},
    "tight": {"limits": {"requests_per_minute": TIGHT}},
}
LITELLM_KEYS: Final[Keys] = {
    "sk-plain": {"team_id": "plain"},
    "sk-limited": {
        "team_id": "limited",
        "rpm_limit": LIMITS["requests_per_minute"],
        "tpm_limit": LIMITS["tokens_per_minute"],
        "max_parallel_requests": LIMITS["concurrent_requests"],
        "team_rpm_limit": LIMITS["requests_per_minute"],
        "team_tpm_limit": LIMITS["tokens_per_minute"],
    },
    "sk-tight": {"team_id": "tight", "rpm_limit": TIGHT},
}


def run(requests: int, *, write: bool, litellm: Path | None = None) -> bool:
    """Measure, print and (with `write`) record; returns whether Trireme's goals were met.

    `requests`: of each way at each level. `litellm`: a virtual environment that has it, or shall have it.
    """
    place = prepared(litellm)
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch, systems(Path(scratch), place) as (stack, url, pid):
        peers, blocks = uvloop.run(compare(stack, url, pid, requests))
    text, met = report(peers, blocks, requests, ROUNDS, version_in(place))
    publish("identity", text, write=write)
    return met


@contextmanager
def systems(scratch: Path, litellm: Path) -> Iterator[tuple[EmbeddedStack, str, int]]:
    """The stack with `benchmarks.upstream` for its tritonserver, and LiteLLM's URL and process id."""
    settings = isolated_settings(scratch, gateway={"accounting": PRICES})
    command = [sys.executable, "-m", "benchmarks.upstream", str(settings.ports.triton_http)]
    upstream = f"http://{LOOPBACK}:{settings.ports.triton_http}"
    with (
        serving(command, f"{upstream}/v2/health/ready", scratch / "upstream.log", within=UPSTREAM_SECONDS),
        EmbeddedStack(settings, parts={"valkey", "gateway"}) as stack,
        litellm_server(
            litellm,
            scratch,
            keys=LITELLM_KEYS,
            model=settings.model.name,
            upstream=upstream,
            valkey=stack.valkey_url,
        ) as (url, process),
    ):
        yield stack, url, process


async def compare(stack: EmbeddedStack, url: str, process: int, requests: int) -> tuple[list[Peer], Blocks]:
    """All blocks of all ways. Raises RuntimeError when a proxy does not check its limits, or not in Valkey."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        peers = [await trireme(session, stack), litellm(stack, url, process)]
        async with Redis.from_url(stack.valkey_url) as valkey:
            client = Client(session, valkey)
            for peer in peers:
                await check_limit(client, peer)
            await client.listen(LISTEN_S)
            blocks = await measure(client, [way for peer in peers for way in peer.ways], requests)
    for peer in peers:
        check_valkey(peer, blocks)
    return peers, blocks


async def trireme(session: aiohttp.ClientSession, stack: EmbeddedStack) -> Peer:
    """Made with the admin API: a tenant without limits, one with all of them, and one with a tight one."""
    model = stack.settings.model.name
    gateway = psutil.Process(stack.child("gateway").pid)
    plain, limited, few = [
        openai_chat(name, stack.gateway_url, model, await new_key(session, stack, name, allowed), gateway)
        for name, allowed in TRIREME_KEYS.items()
    ]
    direct = direct_to_ensemble("direct", stack.triton_url)
    return Peer("Trireme", direct, plain, limited, few)


async def new_key(session: aiohttp.ClientSession, stack: EmbeddedStack, name: str, allowed: Mapping[str, Any]) -> str:
    """The secret of a key with these limits, in a tenant with the same."""
    tenant = name.replace(" ", "-")
    await _admin(session, stack, "tenants", {"id": tenant, "name": name, **allowed})
    made = await _admin(session, stack, "keys", {"tenant": tenant, "name": name, "scopes": ["inference"], **allowed})
    return str(made["secret"])


async def _admin(session: aiohttp.ClientSession, stack: EmbeddedStack, kind: str, body: Mapping[str, Any]) -> Any:
    headers = {"Authorization": f"Bearer {stack.dev_key}"}
    async with session.post(f"{stack.gateway_url}/admin/v1/{kind}", json=body, headers=headers) as response:
        if not response.ok:
            raise RuntimeError(f"POST /admin/v1/{kind} answered {response.status}: {await response.text()}")
        return await response.json()


def litellm(stack: EmbeddedStack, url: str, process: int) -> Peer:
    model, proxy = stack.settings.model.name, psutil.Process(process)
    plain, limited, few = [
        openai_chat(name, url, model, key, proxy)
        for name, key in (("no limits", "sk-plain"), ("limits", "sk-limited"), ("tight", "sk-tight"))
    ]
    return Peer("LiteLLM", openai_chat("direct", stack.triton_url, model), plain, limited, few)


async def check_limit(client: Client, peer: Peer) -> None:
    """What is measured must be at work: the request beyond the limit is refused. Raises RuntimeError."""
    answers = [(await client.ask(peer.tight))[0] for _ in range(TIGHT + 1)]
    if answers != [200] * TIGHT + [429]:
        raise RuntimeError(f"{peer.name} answered {answers} to {TIGHT + 1} requests at {TIGHT} a minute")


def check_valkey(peer: Peer, blocks: Blocks) -> None:
    """A proxy that has lost Valkey limits by itself, which is quicker and not what is measured. Raises RuntimeError."""
    for block in blocks[LEVELS[0], peer.limited]:
        if block.costs.round_trips < len(block.latencies) / 2:
            raise RuntimeError(f"{peer.name} checked some limits without Valkey: {block.costs}")


async def measure(client: Client, ways: list[Way], requests: int) -> Blocks:
    """One round to warm up, and `ROUNDS`; the order of the ways rotates and turns round."""
    blocks: Blocks = {(level, way): [] for level in LEVELS for way in ways}
    for number in range(ROUNDS + 1):
        start = number % len(ways)
        order = [*ways[start:], *ways[:start]][:: 1 if number % 2 else -1]
        for level in LEVELS:
            for way in order:
                block = await client.block(way, level, requests // ROUNDS)
                if number:
                    blocks[level, way].append(block)
        sys.stderr.write(f"round {number} of {ROUNDS}\n")
    return blocks

"""Who may call: keys, tenants, and tokens of an identity provider."""

import time
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import aiohttp
from aiohttp import web

from gateway.api.keys import AUTHENTICATOR, KEY_STORE, METRICS, TENANT_STORE
from gateway.assembly.key_set import key_set_reader
from gateway.assembly.keys import REDIS, SETTINGS, TASKS, TOKEN_CHECKER
from gateway.auth.authenticator import Authenticator
from gateway.auth.follower import Follower
from gateway.auth.memory import Failures
from gateway.auth.oidc import KeySet, TokenChecker, file_reader
from gateway.auth.secret import digest_of
from gateway.auth.snapshot import Snapshot
from gateway.auth.storage import Storage
from gateway.auth.store import KeyStore
from gateway.auth.tenants import TenantStore
from gateway.config import read_pepper


async def tokens(app: web.Application) -> AsyncIterator[None]:
    """Bearer tokens of an identity provider, if there is one."""
    settings = app[SETTINGS].oidc
    if settings.jwks is None:
        yield
        return
    timeout = aiohttp.ClientTimeout(total=settings.timeout_s)
    async with aiohttp.ClientSession(timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()) as session:
        read = key_set_reader(session, settings.jwks) if settings.remote else file_reader(Path(settings.jwks))
        app[TOKEN_CHECKER] = TokenChecker(settings, KeySet(read))
        app[TASKS].keep("follow the identity provider's keys", app[TOKEN_CHECKER].follow)
        yield


async def keys(app: web.Application) -> AsyncIterator[None]:
    settings, redis, metrics = app[SETTINGS].auth, app[REDIS], app[METRICS]
    pepper, snapshot, storage = read_pepper(settings), Snapshot(), Storage(redis)
    app[KEY_STORE], app[TENANT_STORE] = KeyStore(redis, pepper), TenantStore(redis)
    app[AUTHENTICATOR] = Authenticator(
        snapshot,
        storage,
        partial(digest_of, pepper=pepper),
        failures=metrics.auth_failures,
        attempts=Failures(settings.failed_attempts_per_minute, time.monotonic),
        tokens=app.get(TOKEN_CHECKER),
        timeout_s=settings.valkey_timeout_s,
    )
    follower = Follower(
        snapshot,
        storage,
        synced=metrics.keys_synced,
        restored=metrics.keys_restored,
        used=app[AUTHENTICATOR].take_used,
        timeout_s=settings.valkey_timeout_s,
    )
    app[TASKS].keep("follow keys", lambda: follower.follow(redis, settings.snapshot_ttl_s))
    yield

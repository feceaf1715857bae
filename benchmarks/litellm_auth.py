"""Runs inside LiteLLM's proxy, as its `custom_auth`: keys and their limits from a variable instead of from Postgres.

LiteLLM's own table of keys needs Prisma and Postgres. What follows authentication is the same either way: the limits
of the returned key and team are checked in Redis by the proxy's own limiter.
"""

import json
import os

from fastapi import Request
from litellm.proxy._types import UserAPIKeyAuth  # type: ignore[import-not-found]

KEYS = json.loads(os.environ["BENCHMARK_KEYS"])


async def authenticate(request: Request, api_key: str) -> UserAPIKeyAuth:
    if api_key not in KEYS:
        raise PermissionError("unknown key")
    return UserAPIKeyAuth(api_key=api_key, **KEYS[api_key])

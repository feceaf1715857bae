"""An identity provider's keys, read from its own address."""

import aiohttp

from gateway.auth.oidc import Read
from gateway.errors import KeysUnavailable

MAX_KEY_SET_BYTES = 1_000_000


def key_set_reader(session: aiohttp.ClientSession, url: str) -> Read:
    """Raises KeysUnavailable. No redirects: what an identity provider signs with is at its own address."""

    async def read() -> bytes:
        try:
            async with session.get(url, allow_redirects=False, raise_for_status=True) as response:
                document = bytearray()
                async for part in response.content.iter_any():
                    document += part
                    if len(document) > MAX_KEY_SET_BYTES:
                        raise KeysUnavailable("the identity provider publishes too much", retry_after=1.0)
                return bytes(document)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise KeysUnavailable("the identity provider's keys cannot be read", retry_after=1.0) from error

    return read

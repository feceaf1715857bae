"""The text of an API key: `trk_`, 256 random bits, a checksum. In base 62: a double click selects it."""

import hmac
import secrets
import string
import zlib
from hashlib import sha256

PREFIX = "trk_"
_ALPHABET = string.digits + string.ascii_letters
_RANDOM_BYTES = 32
_RANDOM_DIGITS = 43
_CHECKSUM_DIGITS = 6


def new_secret() -> str:
    body = PREFIX + _base62(int.from_bytes(secrets.token_bytes(_RANDOM_BYTES)), _RANDOM_DIGITS)
    return body + _checksum(body)


def well_formed(secret: str) -> bool:
    """Whether this can be a key at all; typing errors and strangers' keys are told apart without asking anybody."""
    body, checksum = secret[:-_CHECKSUM_DIGITS], secret[-_CHECKSUM_DIGITS:]
    return (
        len(body) == len(PREFIX) + _RANDOM_DIGITS
        and secret.isascii()
        and body.startswith(PREFIX)
        and hmac.compare_digest(checksum, _checksum(body))
    )


def digest_of(secret: str, pepper: bytes) -> str:
    """What is stored in the key's place: useless to who has the store without the pepper."""
    return hmac.digest(pepper, secret.encode(), sha256).hex()


def _checksum(body: str) -> str:
    return _base62(zlib.crc32(body.encode()), _CHECKSUM_DIGITS)


def _base62(number: int, digits: int) -> str:
    text = ""
    for _ in range(digits):
        number, digit = divmod(number, len(_ALPHABET))
        text = _ALPHABET[digit] + text
    return text

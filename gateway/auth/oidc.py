"""Bearer tokens of an identity provider (OpenID Connect): checked against its published keys, never asked for there."""

import asyncio
import hashlib
import json
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

import jwt
import msgspec

from gateway.auth.memory import Recent
from gateway.auth.records import TENANT_ID
from gateway.core.identity import SCOPES
from gateway.core.settings import Setting
from gateway.errors import KeysUnavailable

Positive = Annotated[float, msgspec.Meta(gt=0)]
Read = Callable[[], Awaitable[bytes]]

# With a public key nobody can make what these verify.
ASYMMETRIC: Final = frozenset(
    {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
)
# A token may name a key that was published just now; wrong names must not make us ask again and again.
ASK_AGAIN_S = 10.0
REMEMBERED = 4096
_OPTIONS: Final[Any] = {
    "require": ["exp", "sub", "iss", "aud"],
    "verify_exp": False,
    "verify_nbf": False,
    "verify_iat": False,
}
_SUBJECT: Final = re.compile(r"[A-Za-z0-9._@|-]{1,64}")
_TENANT: Final = re.compile(TENANT_ID)
_LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})


@dataclass(frozen=True, kw_only=True)
class OidcSettings:
    """Off unless `jwks` is set."""

    jwks: Annotated[
        str | None,
        Setting("The provider's keys (a JSON Web Key Set): https URL, or path of a file.", env="OIDC_JWKS"),
    ] = None
    issuer: Annotated[str | None, Setting("What `iss` must be.", env="OIDC_ISSUER")] = None
    audience: Annotated[str | None, Setting("What `aud` must have.", env="OIDC_AUDIENCE")] = None
    tenant_claim: Annotated[str, Setting("Claim with the tenant's id.", env="OIDC_TENANT_CLAIM")] = "tenant"
    scope_claim: Annotated[
        str,
        Setting(
            "Claim with the scopes: words in one text, or a list; others than ours mean nothing.",
            env="OIDC_SCOPE_CLAIM",
        ),
    ] = "scope"
    algorithms: Annotated[str, Setting("Signatures that are taken, separated by commas.", env="OIDC_ALGORITHMS")] = (
        "RS256,ES256"
    )
    leeway_s: Annotated[
        float,
        msgspec.Meta(ge=0, le=300),
        Setting("How far the clocks may differ.", env="OIDC_LEEWAY_S", unit="s"),
    ] = 30.0
    refresh_s: Annotated[
        Positive, Setting("How often the provider's keys are read again.", env="OIDC_REFRESH_S", unit="s")
    ] = 300.0
    timeout_s: Annotated[Positive, Setting("Longest wait for the provider's keys.", env="OIDC_TIMEOUT_S", unit="s")] = (
        5.0
    )

    @property
    def accepted(self) -> list[str]:
        return [name.strip() for name in self.algorithms.split(",") if name.strip()]

    @property
    def remote(self) -> bool:
        return self.jwks is not None and "://" in self.jwks

    def problems(self) -> list[str]:
        """Contradictions, a sentence for each."""
        together = (self.jwks, self.issuer, self.audience)
        if all(one is None for one in together):
            return []
        if any(one is None for one in together):
            return ["oidc.jwks, oidc.issuer and oidc.audience go together: set all or none"]
        found = [
            f"oidc.algorithms: {name!r} is not accepted; choose among {', '.join(sorted(ASYMMETRIC))}"
            for name in self.accepted
            if name not in ASYMMETRIC
        ]
        if not self.accepted:
            found.append("oidc.algorithms: name at least one")
        return [*found, *self._source_problems(str(self.jwks))]

    def _source_problems(self, jwks: str) -> list[str]:
        if not self.remote:
            return [] if Path(jwks).is_file() else [f"oidc.jwks: there is no file {jwks}"]
        url = urlsplit(jwks)
        if url.scheme == "https" or (url.scheme == "http" and url.hostname in _LOOPBACK):
            return []
        return [f"oidc.jwks: {jwks} must be an https URL"]


class TokenError(Exception):
    """A token that is not taken. `reason`: one of a few words, for the log; `message`: for the client."""

    def __init__(self, reason: str, message: str = "this token is not valid") -> None:
        super().__init__(reason)
        self.reason = reason
        self.message = message


@dataclass(frozen=True, slots=True)
class Bearer:
    """What a good token says. `tenant`: None if the claim is missing or no tenant id."""

    key_id: str
    tenant: str | None
    scopes: frozenset[str]


class KeySet:
    """The provider's keys; the last good ones stay while it is away. `clock`: monotonic seconds."""

    def __init__(self, read: Read, clock: Callable[[], float] = time.monotonic) -> None:
        self._read = read
        self._clock = clock
        self._published: dict[str | None, dict[str, Any]] = {}
        self._ready: dict[tuple[str | None, str], jwt.PyJWK] = {}
        self._asked_at: float | None = None
        self._failed = True
        self._loading = asyncio.Lock()
        self.version = 0

    async def load(self) -> None:
        """Raises KeysUnavailable; the keys stay as they were then."""
        async with self._loading:
            self._asked_at = self._clock()
            self._failed = True
            published = _published(await self._read())
            self._failed = False
            if published != self._published:
                self._published, self._ready = published, {}
                self.version += 1

    async def find(self, kid: str | None, algorithm: str) -> jwt.PyJWK | None:
        """The key for a token's header, published just now perhaps. Raises KeysUnavailable."""
        found = self._find(kid, algorithm)
        if found is None and (self._asked_at is None or self._clock() - self._asked_at >= ASK_AGAIN_S):
            await self.load()
            found = self._find(kid, algorithm)
        if found is None and self._failed:
            raise KeysUnavailable("the identity provider's keys cannot be read right now", retry_after=1.0)
        return found

    def _find(self, kid: str | None, algorithm: str) -> jwt.PyJWK | None:
        if (found := self._ready.get((kid, algorithm))) is not None:
            return found
        chosen = self._published.get(kid)
        if chosen is None and kid is None and len(self._published) == 1:
            (chosen,) = self._published.values()
        if chosen is None or chosen.get("alg", algorithm) != algorithm:
            return None
        try:
            found = jwt.PyJWK(chosen, algorithm)
        except jwt.PyJWTError:
            return None
        self._ready[kid, algorithm] = found
        return found


class TokenChecker:
    """`clock`: Unix seconds."""

    def __init__(self, settings: OidcSettings, keys: KeySet, clock: Callable[[], float] = time.time) -> None:
        self._settings = settings
        self._keys = keys
        self._clock = clock
        self._good: Recent[Bearer] = Recent(REMEMBERED, clock)
        self._version = keys.version

    @property
    def tenant_claim(self) -> str:
        return self._settings.tenant_claim

    async def follow(self) -> None:
        """Read the keys each `refresh_s`. Raises KeysUnavailable."""
        while True:
            await self._keys.load()
            await asyncio.sleep(self._settings.refresh_s)

    @staticmethod
    def looks_like_token(secret: str) -> bool:
        return secret.count(".") == 2  # noqa: PLR2004 - header.claims.signature; our own keys have no dot

    async def check(self, token: str, digest: str) -> Bearer:
        """`digest`: of the token; a good one is remembered by it until it expires, or the keys change.

        Raises TokenError, KeysUnavailable.
        """
        self._forget_what_other_keys_signed()
        remembered = self._good.get(digest)
        if remembered is not None:
            return remembered
        key = await self._key(token)
        self._forget_what_other_keys_signed()
        claims = self._claims(token, key)
        expires = self._check_times(claims)
        bearer = Bearer(
            _key_id(claims["sub"]),
            _tenant(claims.get(self.tenant_claim)),
            _scopes(claims.get(self._settings.scope_claim)),
        )
        self._good.put(digest, bearer, expires)
        return bearer

    def _forget_what_other_keys_signed(self) -> None:
        if self._version != self._keys.version:
            self._good.clear()
            self._version = self._keys.version

    async def _key(self, token: str) -> jwt.PyJWK:
        try:
            header = jwt.get_unverified_header(token)
        except jwt.PyJWTError as error:
            raise TokenError("malformed") from error
        algorithm, kid = header.get("alg"), header.get("kid")
        if algorithm not in self._settings.accepted:
            raise TokenError("algorithm")
        key = await self._keys.find(kid, algorithm)
        if key is None:
            raise TokenError("unknown_key")
        return key

    def _claims(self, token: str, key: jwt.PyJWK) -> dict[str, Any]:
        """The signature is checked first, so that a message tells a stranger nothing."""
        settings = self._settings
        try:
            return jwt.decode(
                token,
                key,
                algorithms=settings.accepted,
                issuer=settings.issuer,
                audience=settings.audience,
                options=_OPTIONS,
            )
        except jwt.InvalidAudienceError as error:
            raise TokenError("audience", f"this token is not for the audience {settings.audience}") from error
        except jwt.InvalidIssuerError as error:
            raise TokenError("issuer", f"this token is not of the issuer {settings.issuer}") from error
        except jwt.MissingRequiredClaimError as error:
            raise TokenError("claims", f"this token has no claim {error.claim}") from error
        except jwt.PyJWTError as error:
            raise TokenError("signature") from error

    def _check_times(self, claims: Mapping[str, Any]) -> float:
        """When it ends, the leeway included (Unix seconds)."""
        now, leeway = self._clock(), self._settings.leeway_s
        for name in ("exp", "nbf", "iat"):
            value = claims.get(name, 0)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise TokenError("claims", f"the claim {name} of this token is not a number")
        if now >= claims["exp"] + leeway:
            raise TokenError("expired", "this token has expired: get another one")
        if now < max(claims.get("nbf", 0), claims.get("iat", 0)) - leeway:
            raise TokenError("too_early", "this token is not valid yet: are the clocks right?")
        return float(claims["exp"] + leeway)


def file_reader(path: Path) -> Read:
    """Raises KeysUnavailable."""

    async def read() -> bytes:
        try:
            return await asyncio.to_thread(path.read_bytes)
        except OSError as error:
            raise KeysUnavailable(f"the identity provider's keys cannot be read: {error.strerror}") from error

    return read


def _published(document: bytes) -> dict[str | None, dict[str, Any]]:
    """Keys for signatures by their names. Raises KeysUnavailable."""
    try:
        keys = json.loads(document)["keys"]
        return {key.get("kid"): key for key in keys if key.get("use", "sig") == "sig" and key.get("kty") != "oct"}
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise KeysUnavailable("what the identity provider publishes is no JSON Web Key Set") from error


def _key_id(subject: str) -> str:
    """Bounded, and safe wherever the ids of keys go: logs, metrics, names in Valkey."""
    if _SUBJECT.fullmatch(subject):
        return f"oidc:{subject}"
    return f"oidc:#{hashlib.sha256(subject.encode()).hexdigest()[:32]}"


def _tenant(claim: object) -> str | None:
    return claim if isinstance(claim, str) and _TENANT.match(claim) else None


def _scopes(claim: object) -> frozenset[str]:
    words = claim.split() if isinstance(claim, str) else claim
    return SCOPES & {word for word in words if isinstance(word, str)} if isinstance(words, list) else frozenset()

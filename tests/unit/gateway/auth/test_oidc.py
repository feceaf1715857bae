"""Tokens of an identity provider, with real keys."""

import asyncio
import base64
import hmac
import json
import logging
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gateway.auth.oidc import ASK_AGAIN_S, KeySet, OidcSettings, TokenChecker, TokenError, file_reader
from gateway.auth.records import TenantRecord
from gateway.auth.secret import new_secret
from gateway.core.identity import Limits
from gateway.errors import InvalidKey, KeysUnavailable, UnknownTenant
from gateway.telemetry.logs import FIELDS
from tests.unit.gateway.auth.conftest import NOW, Clock, CountingDirectory, authenticator, digest, snapshot_of

SETTINGS = OidcSettings(jwks="https://idp/keys", issuer="https://idp", audience="trireme", leeway_s=30)
ANY: frozenset[str] = frozenset()
RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER_RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC = ec.generate_private_key(ec.SECP256R1())
CLAIMS: dict[str, Any] = {
    "iss": "https://idp",
    "aud": "trireme",
    "sub": "ada",
    "exp": NOW + 60,
    "iat": NOW,
    "tenant": "acme",
    "scope": "openid inference embeddings superuser",
}


def jwk(key: Any, kid: str, **members: str) -> dict[str, Any]:
    kind = jwt.algorithms.RSAAlgorithm if isinstance(key, rsa.RSAPrivateKey) else jwt.algorithms.ECAlgorithm
    return {**kind.to_jwk(key.public_key(), as_dict=True), "kid": kid, **members}


def token(key: Any = RSA, kid: str | None = "r1", algorithm: str = "RS256", **changes: Any) -> str:
    """Changes to the claims; None leaves one out."""
    claims = {name: value for name, value in {**CLAIMS, **changes}.items() if value is not None}
    return jwt.encode(claims, key, algorithm=algorithm, headers={} if kid is None else {"kid": kid})


@dataclass
class Provider:
    """Fake of the port: what it publishes, and how often it was asked."""

    keys: list[dict[str, Any]] = field(default_factory=lambda: [jwk(RSA, "r1", alg="RS256"), jwk(EC, "e1", use="sig")])
    away: bool = False
    asked: int = 0

    async def read(self) -> bytes:
        self.asked += 1
        if self.away:
            raise KeysUnavailable("away")
        return json.dumps({"keys": self.keys}).encode()


@pytest.fixture
def provider() -> Provider:
    return Provider()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def checker(provider: Provider, clock: Clock) -> TokenChecker:
    return TokenChecker(SETTINGS, KeySet(provider.read, clock), clock)


async def check(checker: TokenChecker, text: str) -> Any:
    return await checker.check(text, digest(text))


@pytest.mark.parametrize(("key", "kid", "algorithm"), [(RSA, "r1", "RS256"), (EC, "e1", "ES256")])
async def test_a_good_token_tells_who_is_calling(checker: TokenChecker, key: Any, kid: str, algorithm: str) -> None:
    bearer = await check(checker, token(key, kid, algorithm))
    assert (bearer.key_id, bearer.tenant, bearer.scopes) == ("oidc:ada", "acme", {"inference", "embeddings"})


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"exp": NOW - 30}, "expired"),
        ({"exp": None}, "claims"),
        ({"exp": True}, "claims"),
        ({"exp": "soon"}, "claims"),
        ({"nbf": NOW + 31}, "too_early"),
        ({"iat": NOW + 31}, "too_early"),
        ({"aud": "somebody else"}, "audience"),
        ({"aud": None}, "claims"),
        ({"iss": "https://evil"}, "issuer"),
        ({"iss": None}, "claims"),
        ({"sub": None}, "claims"),
        ({"kid": "r1", "key": OTHER_RSA}, "signature"),
        ({"kid": "unknown"}, "unknown_key"),
        ({"kid": None}, "unknown_key"),
        ({"kid": "e1"}, "unknown_key"),
        ({"algorithm": "RS512"}, "algorithm"),
        ({"algorithm": "PS256"}, "algorithm"),
    ],
)
async def test_a_wrong_token_is_refused(checker: TokenChecker, changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(TokenError) as raised:
        await check(checker, token(**changes))
    assert raised.value.reason == reason


async def test_times_have_a_leeway(checker: TokenChecker) -> None:
    await check(checker, token(exp=NOW - 29, nbf=NOW + 29, iat=NOW + 29))


def part(members: dict[str, str]) -> str:
    return base64.urlsafe_b64encode(json.dumps(members).encode()).decode().rstrip("=")


async def test_nothing_unsigned_and_nothing_signed_with_a_public_key_is_taken(checker: TokenChecker) -> None:
    """The two classic forgeries."""
    pem = RSA.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    forged = [jwt.encode(CLAIMS, None, algorithm="none", headers={"kid": "r1"})]
    head, claims, signature = token().split(".")
    symmetric = f"{part({'alg': 'HS256', 'kid': 'r1'})}.{claims}"
    mac = hmac.digest(pem, symmetric.encode(), "sha256")
    forged.append(f"{symmetric}.{base64.urlsafe_b64encode(mac).decode().rstrip('=')}")
    relabelled = part({"alg": "ES256", "kid": "r1"})
    forged += [f"{relabelled}.{claims}.{signature}", f"{head}.{claims}.", f"{head}..{signature}", "a.b.c", ".."]
    for one in forged:
        with pytest.raises(TokenError):
            await check(checker, one)


async def test_a_secret_key_among_the_published_ones_is_not_used(provider: Provider, checker: TokenChecker) -> None:
    secret = b"x" * 64
    provider.keys.append({"kty": "oct", "kid": "s1", "k": base64.urlsafe_b64encode(secret).decode()})
    with pytest.raises(TokenError):
        await check(checker, jwt.encode(CLAIMS, secret, algorithm="HS256", headers={"kid": "s1"}))


async def test_a_token_without_a_key_name_is_taken_when_there_is_one_key(clock: Clock) -> None:
    provider = Provider([jwk(RSA, "only")])
    checker = TokenChecker(SETTINGS, KeySet(provider.read, clock), clock)
    assert (await check(checker, token(kid=None))).key_id == "oidc:ada"


async def test_a_good_token_is_checked_once_and_ends_in_memory_too(
    provider: Provider, checker: TokenChecker, clock: Clock
) -> None:
    text = token()
    first = await check(checker, text)
    assert await check(checker, text) is first
    clock.now += 89.9
    assert await check(checker, text) is first
    clock.now += 0.1
    with pytest.raises(TokenError) as raised:
        await check(checker, text)
    assert raised.value.reason == "expired"
    assert provider.asked == 1


async def test_a_key_that_was_published_just_now_is_found(
    provider: Provider, checker: TokenChecker, clock: Clock
) -> None:
    await check(checker, token())
    provider.keys = [jwk(OTHER_RSA, "r2")]
    clock.now += ASK_AGAIN_S
    assert (await check(checker, token(OTHER_RSA, "r2"))).key_id == "oidc:ada"
    assert provider.asked == 2


async def test_when_a_key_is_withdrawn_its_tokens_are_no_longer_remembered(
    provider: Provider, checker: TokenChecker, clock: Clock
) -> None:
    old = token()
    await check(checker, old)
    provider.keys = [jwk(OTHER_RSA, "r2")]
    clock.now += ASK_AGAIN_S
    await check(checker, token(OTHER_RSA, "r2"))
    with pytest.raises(TokenError):
        await check(checker, old)


async def test_unknown_keys_do_not_make_us_ask_again_and_again(
    provider: Provider, checker: TokenChecker, clock: Clock
) -> None:
    for number in range(20):
        with pytest.raises(TokenError):
            await check(checker, token(kid=f"k{number}"))
    assert provider.asked == 1
    clock.now += ASK_AGAIN_S
    with pytest.raises(TokenError):
        await check(checker, token(kid="other"))
    assert provider.asked == 2


async def test_while_the_provider_is_away_its_last_keys_stay(
    provider: Provider, checker: TokenChecker, clock: Clock
) -> None:
    await check(checker, token())
    provider.away = True
    clock.now += ASK_AGAIN_S
    with pytest.raises(KeysUnavailable):
        await check(checker, token(OTHER_RSA, "r2"))
    assert (await check(checker, token(sub="bob"))).key_id == "oidc:bob"


async def test_before_the_first_keys_came_nobody_is_called_wrong(provider: Provider, checker: TokenChecker) -> None:
    provider.away = True
    for _ in range(2):
        with pytest.raises(KeysUnavailable):
            await check(checker, token())


@pytest.mark.parametrize("document", [b"", b"[]", b"{}", b'{"keys": 1}', b'{"keys": ["x"]}', b"\xff"])
async def test_what_is_no_key_set_leaves_the_keys_as_they_were(document: bytes, clock: Clock) -> None:
    documents = [json.dumps({"keys": [jwk(RSA, "r1")]}).encode(), document]

    async def read() -> bytes:
        return documents.pop(0)

    keys = KeySet(read, clock)
    await keys.load()
    with pytest.raises(KeysUnavailable):
        await keys.load()
    assert await keys.find("r1", "RS256") is not None


async def test_keys_are_read_from_a_file(tmp_path: Path, clock: Clock) -> None:
    file = tmp_path / "keys.json"
    keys = KeySet(file_reader(file), clock)
    with pytest.raises(KeysUnavailable):
        await keys.load()
    file.write_text(json.dumps({"keys": [jwk(RSA, "r1")]}))
    await keys.load()
    assert await keys.find("r1", "RS256") is not None


async def test_keys_are_read_again_in_the_background(provider: Provider, clock: Clock) -> None:
    checker = TokenChecker(replace(SETTINGS, refresh_s=0.001), KeySet(provider.read, clock), clock)
    task = asyncio.create_task(checker.follow())
    async with asyncio.timeout(2):
        while provider.asked < 3:  # noqa: ASYNC110 - the code under test should not carry events for its tests
            await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize(
    ("subject", "key_id"),
    [("ada", "oidc:ada"), ("auth0|12.a@x-y", "oidc:auth0|12.a@x-y"), ("a" * 64, f"oidc:{'a' * 64}")],
)
async def test_a_harmless_subject_stands_in_the_id(checker: TokenChecker, subject: str, key_id: str) -> None:
    assert (await check(checker, token(sub=subject))).key_id == key_id


@pytest.mark.parametrize("subject", ["", "a" * 65, "a b", "{x}", "ä", "a\n", "trireme:*"])
async def test_any_other_subject_is_hashed(checker: TokenChecker, subject: str) -> None:
    key_id = (await check(checker, token(sub=subject))).key_id
    assert key_id.startswith("oidc:#")
    assert len(key_id) == len("oidc:#") + 32
    assert key_id[6:].isalnum()


@pytest.mark.parametrize(
    ("claim", "scopes"),
    [
        (["inference", 3, "root"], {"inference"}),
        ("admin  metrics", {"admin", "metrics"}),
        ("", set()),
        (None, set()),
        (7, set()),
        ({"inference": True}, set()),
    ],
)
async def test_only_scopes_of_ours_count(checker: TokenChecker, claim: Any, scopes: set[str]) -> None:
    assert (await check(checker, token(scope=claim))).scopes == scopes


async def test_claims_may_have_other_names(provider: Provider, clock: Clock) -> None:
    settings = replace(SETTINGS, tenant_claim="org", scope_claim="roles")
    checker = TokenChecker(settings, KeySet(provider.read, clock), clock)
    bearer = await check(checker, token(org="beta", roles=["admin"]))
    assert (bearer.tenant, bearer.scopes) == ("beta", {"admin"})


async def test_the_limits_of_the_tenant_apply(checker: TokenChecker, clock: Clock) -> None:
    tenant = TenantRecord(id="acme", revision=1, created_at=0, limits=Limits(requests_per_minute=5), weight=2)
    one = authenticator(snapshot_of(tenants=[tenant]), CountingDirectory(), clock=clock, tokens=checker)
    caller = await one.authenticate(token(), frozenset({"inference"}))
    assert (caller.key_id, caller.tenant, caller.tenant_limits, caller.weight) == ("oidc:ada", "acme", tenant.limits, 2)
    assert one.take_used() == {}


@pytest.mark.parametrize("tenant", [None, "nobody", "gone", 3, "acme\n", ["acme"]])
async def test_a_tenant_must_exist(checker: TokenChecker, clock: Clock, tenant: Any) -> None:
    acme = TenantRecord(id="acme", revision=1, created_at=0)
    gone = TenantRecord(id="gone", revision=1, created_at=0, deleted_at=1)
    one = authenticator(snapshot_of(tenants=[acme, gone]), CountingDirectory(), clock=clock, tokens=checker)
    with pytest.raises(UnknownTenant, match="'tenant'"):
        await one.authenticate(token(tenant=tenant), ANY)


async def test_a_wrong_token_is_401_and_written_down_without_it(
    checker: TokenChecker, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    one = authenticator(snapshot_of(), CountingDirectory(), clock=clock, tokens=checker)
    text = token(exp=NOW - 100)
    with pytest.raises(InvalidKey, match="expired"):
        await one.authenticate(text, ANY, "192.0.2.7")
    (line,) = [getattr(record, FIELDS) for record in caplog.records]
    assert line["reason"] == "token_expired"
    assert text not in str(line)


def settings(**values: Any) -> OidcSettings:
    return OidcSettings(**{"jwks": "https://idp/keys", "issuer": "i", "audience": "a", **values})


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        (settings(issuer=None), "together"),
        (settings(jwks=None), "together"),
        (settings(audience=None), "together"),
        (settings(algorithms="none"), "'none'"),
        (settings(algorithms="RS256, HS256"), "'HS256'"),
        (settings(algorithms=" , "), "at least one"),
        (settings(jwks="http://idp/keys"), "https"),
        (settings(jwks="/no/such/file"), "no file"),
    ],
)
def test_settings_that_make_no_sense_are_told(wrong: OidcSettings, word: str) -> None:
    (problem,) = wrong.problems()
    assert problem.startswith("oidc.")
    assert word in problem


def test_settings_that_make_sense(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("{}")
    for good in (
        OidcSettings(),
        settings(),
        settings(jwks=str(tmp_path / "keys")),
        settings(jwks="http://127.0.0.1:1/k"),
    ):
        assert good.problems() == []


def test_our_own_keys_do_not_look_like_tokens() -> None:
    assert not TokenChecker.looks_like_token(new_secret())
    assert TokenChecker.looks_like_token(token())

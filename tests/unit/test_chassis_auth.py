"""Who gets in: every way to be refused, and keys that come and go."""

import base64
import json
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from ecom_common.auth import (
    LEEWAY_S,
    REFRESH_EVERY_S,
    RELOAD_EVERY_S,
    REMEMBERED_S,
    Authenticator,
    Principal,
)
from ecom_common.errors import ConfigurationError, Problem
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.tokens import AUDIENCE, ISSUER, Issuer, an_issuer, rsa_key


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now

    def pass_(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def issuer(tmp_path: Path) -> Issuer:
    return an_issuer(tmp_path)


def authenticator(issuer: Issuer, **changes: Any) -> Authenticator:
    values: dict[str, Any] = {
        "jwks": str(issuer.jwks),
        "issuer": ISSUER,
        "audience": AUDIENCE,
        "environment": "production",
    }
    return Authenticator(**(values | changes))


def test_a_good_token_says_who_asks_and_what_they_may_do(issuer: Issuer) -> None:
    principal = authenticator(issuer).verify(issuer.token())
    assert principal == Principal("alice", frozenset({"orders:read", "orders:write"}))
    assert principal.may("orders:read")
    assert not principal.may("orders:admin")


def test_rs256_is_as_good_as_eddsa(issuer: Issuer) -> None:
    token = issuer.token(key_id="rsa", key=rsa_key(), algorithm="RS256")
    assert authenticator(issuer).verify(token).subject == "alice"


def test_a_token_without_scopes_may_nothing(issuer: Issuer) -> None:
    assert authenticator(issuer).verify(issuer.token(without=("scope",))).scopes == frozenset()


@pytest.mark.parametrize("claim", ["sub", "exp", "iss", "aud"])
def test_a_token_without_a_required_claim_is_refused(issuer: Issuer, claim: str) -> None:
    assert_refused(authenticator(issuer), issuer.token(without=(claim,)))


@pytest.mark.parametrize(
    "claims",
    [
        {"exp": time.time() - LEEWAY_S - 5},
        {"nbf": time.time() + 86_400},
        {"iat": time.time() + 86_400},
        {"aud": "another"},
        {"aud": ["another", "third"]},
        {"iss": "https://evil.example"},
        {"sub": ""},
        {"sub": "a" * 256},
        {"sub": "alice\n"},
        {"sub": "al\0ice"},
        {"sub": 7},
        {"exp": "soon"},
        {"scope": ["orders:read"]},
        {"scope": None},
    ],
    ids=lambda claims: next(iter(claims)),
)
def test_a_token_with_a_wrong_claim_is_refused(issuer: Issuer, claims: dict[str, Any]) -> None:
    assert_refused(authenticator(issuer), issuer.token(**claims))


def test_clocks_may_differ_by_the_leeway(issuer: Issuer) -> None:
    late = issuer.token(exp=time.time() - LEEWAY_S + 20)
    early = issuer.token(nbf=time.time() + LEEWAY_S - 20, iat=time.time() + LEEWAY_S - 20)
    verifier = authenticator(issuer)
    assert verifier.verify(late).subject == verifier.verify(early).subject == "alice"


def test_a_token_signed_by_another_key_is_refused(issuer: Issuer) -> None:
    assert_refused(authenticator(issuer), issuer.token(key=Ed25519PrivateKey.generate()))


def test_a_token_without_a_signature_is_refused(issuer: Issuer) -> None:
    unsigned = jwt.encode({"sub": "alice"}, key="", algorithm="none", headers={"kid": "one"})
    assert_refused(authenticator(issuer), unsigned)
    header, claims, _ = issuer.token().split(".")
    assert_refused(authenticator(issuer), f"{header}.{claims}.")
    assert_refused(authenticator(issuer), f"{_part({'alg': 'none', 'kid': 'one'})}.{claims}.")


@pytest.mark.parametrize("form", ["PEM", "JWK"])
def test_a_token_signed_with_the_public_key_as_a_secret_is_refused(
    issuer: Issuer, form: str
) -> None:
    public = rsa_key().public_key()
    secret = (
        public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        if form == "PEM"
        else json.dumps(json.loads(issuer.jwks.read_text())["keys"][0]).encode()
    )
    # PyJWT would not sign with such a secret; an attacker does.
    head = f"{_part({'alg': 'HS256', 'kid': 'rsa'})}.{issuer.token().split('.')[1]}"
    mac = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256).sign(
        head.encode(), secret
    )
    assert_refused(authenticator(issuer), f"{head}.{_encoded(mac)}")


def test_the_header_cannot_choose_another_algorithm_for_a_key(issuer: Issuer) -> None:
    claims = issuer.token().split(".")[1]
    signature = issuer.token().split(".")[2]
    for algorithm in ("RS256", "ES256", "PS256", "HS512", "nonsense", None):
        assert_refused(
            authenticator(issuer), f"{_part({'alg': algorithm, 'kid': 'one'})}.{claims}.{signature}"
        )


@pytest.mark.parametrize("key_id", ["unknown", "", None])
def test_a_token_of_an_unknown_key_is_refused(issuer: Issuer, key_id: str | None) -> None:
    assert_refused(authenticator(issuer), issuer.token(key_id=key_id, key=issuer.keys["one"]))


@settings(max_examples=200)
@given(
    token=st.text(max_size=60)
    | st.lists(st.binary(max_size=30), min_size=3, max_size=3).map(
        lambda parts: ".".join(map(_encoded, parts))
    )
    | st.dictionaries(
        st.sampled_from(["alg", "kid", "typ", "b64", "crit"]),
        st.none() | st.integers() | st.text(max_size=5) | st.lists(st.text(max_size=3)),
    ).map(lambda header: f"{_part(header)}.e30.AAAA")
)
def test_garbage_is_refused_and_never_an_error(token: str, verifier: Authenticator) -> None:
    with suppress(Problem):
        verifier.verify(token)
        pytest.fail("garbage was taken for a token")


@pytest.fixture(scope="module")
def verifier(tmp_path_factory: pytest.TempPathFactory) -> Authenticator:
    return authenticator(an_issuer(tmp_path_factory.mktemp("issuer")))


def test_a_refusal_repeats_nothing_of_the_token(issuer: Issuer) -> None:
    with pytest.raises(Problem) as refused:
        authenticator(issuer).verify(issuer.token(sub="4111111111111111" * 20))
    assert "4111" not in str(refused.value)


def test_a_token_that_was_just_verified_is_not_looked_at_again_but_expires_in_time(
    issuer: Issuer,
) -> None:
    clock = Clock()
    verifier = authenticator(issuer, clock=clock)
    token = issuer.token(exp=time.time() - LEEWAY_S + 10)
    assert verifier.remembered(token) is None
    verifier.verify(token)
    assert verifier.remembered(token) is not None
    clock.pass_(9)
    assert verifier.remembered(token) is not None
    clock.pass_(2)
    assert verifier.remembered(token) is None


def test_a_new_key_in_the_file_is_picked_up_when_a_token_asks_for_it(issuer: Issuer) -> None:
    clock = Clock()
    verifier = authenticator(issuer, clock=clock)
    issuer.publish("one", "two")
    token = issuer.token(key_id="two")
    assert_refused(verifier, token)  # the file is not read for each made-up key id
    clock.pass_(RELOAD_EVERY_S)
    assert verifier.verify(token).subject == "alice"


def test_a_withdrawn_key_is_good_no_longer_than_the_key_set_is_kept(issuer: Issuer) -> None:
    clock = Clock()
    verifier = authenticator(issuer, clock=clock)
    token = issuer.token()
    issuer.publish("two")
    verifier.verify(token)
    clock.pass_(REFRESH_EVERY_S + REMEMBERED_S)
    assert_refused(verifier, token)
    assert verifier.verify(issuer.token(key_id="two")).subject == "alice"


@pytest.mark.parametrize("content", [None, "", "{", "[]", "{}", '{"keys": []}'])
def test_a_key_set_that_cannot_be_read_again_leaves_the_old_one_in_force(
    issuer: Issuer, content: str | None
) -> None:
    clock = Clock()
    verifier = authenticator(issuer, clock=clock)
    if content is None:
        issuer.jwks.unlink()
    else:
        issuer.jwks.write_text(content)
    clock.pass_(REFRESH_EVERY_S)
    assert_refused(verifier, issuer.token(key_id="two", key=issuer.keys["one"]))
    assert verifier.verify(issuer.token()).subject == "alice"


@pytest.mark.parametrize("content", [None, "", "{", "[]", "{}", '{"keys": []}', '{"keys": [{}]}'])
def test_a_process_does_not_start_without_a_key_set(issuer: Issuer, content: str | None) -> None:
    if content is None:
        issuer.jwks.unlink()
    else:
        issuer.jwks.write_text(content)
    with pytest.raises(ConfigurationError, match="JWT_JWKS"):
        authenticator(issuer)


def test_the_development_key_is_refused_in_production(tmp_path: Path) -> None:
    issuer = an_issuer(tmp_path, "development")
    with pytest.raises(ConfigurationError, match="development key"):
        authenticator(issuer)
    in_development = authenticator(issuer, environment="development")
    assert in_development.verify(issuer.token(key_id="development")).subject == "alice"


def test_the_development_key_cannot_slip_into_production_later(issuer: Issuer) -> None:
    clock = Clock()
    verifier = authenticator(issuer, clock=clock)
    issuer.publish("one", "development")
    clock.pass_(REFRESH_EVERY_S)
    assert_refused(verifier, issuer.token(key_id="development"))
    assert verifier.verify(issuer.token()).subject == "alice"


def test_an_unencrypted_address_of_keys_is_refused_in_production() -> None:
    with pytest.raises(ConfigurationError, match="http://"):
        Authenticator(
            jwks="http://issuer.example/jwks.json",
            issuer=ISSUER,
            audience=AUDIENCE,
            environment="production",
        )


def assert_refused(verifier: Authenticator, token: str) -> None:
    with pytest.raises(Problem) as refused:
        verifier.verify(token)
    assert refused.value.code == "unauthenticated"
    assert refused.value.kind.status == 401


def _part(content: dict[str, Any]) -> str:
    return _encoded(json.dumps(content).encode())


def _encoded(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode().rstrip("=")

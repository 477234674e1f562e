"""Key sets and tokens of an issuer that tests can bend as they like."""

import json
import time
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from jwt.algorithms import OKPAlgorithm, RSAAlgorithm

ISSUER = "https://issuer.example"
AUDIENCE = "ecom"


@cache
def rsa_key() -> RSAPrivateKey:
    """Made once: finding primes takes a while."""
    return generate_private_key(public_exponent=65537, key_size=2048)


@dataclass
class Issuer:
    """Signs tokens with Ed25519 unless told otherwise, and publishes its keys in a file."""

    jwks: Path
    keys: dict[str, Ed25519PrivateKey] = field(default_factory=dict)

    def publish(self, *key_ids: str) -> None:
        """Replace the key set by one with these keys, made if they are new, and the RSA key `rsa`."""
        documents = [
            json.loads(RSAAlgorithm.to_jwk(rsa_key().public_key()))
            | {"kid": "rsa", "alg": "RS256", "use": "sig"}
        ]
        for key_id in key_ids:
            key = self.keys.setdefault(key_id, Ed25519PrivateKey.generate())
            documents.append(
                json.loads(OKPAlgorithm.to_jwk(key.public_key())) | {"kid": key_id, "alg": "EdDSA"}
            )
        self.jwks.write_text(json.dumps({"keys": documents}))

    def token(
        self,
        *,
        key_id: str | None = "one",
        key: Any = None,
        algorithm: str = "EdDSA",
        without: tuple[str, ...] = (),
        **claims: Any,
    ) -> str:
        """A token that is good unless `claims`, `without` or another key say otherwise."""
        now = time.time()
        content: dict[str, Any] = {
            "sub": "alice",
            "iss": ISSUER,
            "aud": AUDIENCE,
            "iat": now,
            "exp": now + 600,
            "scope": "orders:read orders:write",
        } | claims
        for name in without:
            del content[name]
        headers = {} if key_id is None else {"kid": key_id}
        return jwt.encode(
            content, key or self.keys.get(key_id or "", ""), algorithm=algorithm, headers=headers
        )

    def rsa_token(self, *, sub: str, scope: str, lifetime_s: int) -> str:
        """A token as most issuers sign theirs."""
        expires = time.time() + lifetime_s
        return self.token(
            key_id="rsa", key=rsa_key(), algorithm="RS256", sub=sub, scope=scope, exp=expires
        )


def an_issuer(folder: Path, *key_ids: str) -> Issuer:
    issuer = Issuer(folder / "jwks.json")
    issuer.publish(*(key_ids or ("one",)))
    return issuer

"""The development key and the tokens signed with it.

The key is made at an instance's first start and never leaves its home; services refuse its id outside
development. RS256, because checking a signature, which is what services do all day, costs a third of
what EdDSA's check does.
"""

from __future__ import annotations

import json
import time
import uuid
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from ecom_local.errors import LocalError
from ecom_local.passwords import write_private
from ecom_local.paths import Layout, default_home

ISSUER = "ecom-development"
AUDIENCE = "ecom"
KEY_ID = "development"

_KEY_BITS = 2048


def jwks_path(layout: Layout) -> Path:
    return layout.keys / "jwks.json"


def ensure_key(layout: Layout) -> None:
    private = _private_path(layout)
    if private.exists() and jwks_path(layout).exists():
        return
    key = rsa.generate_private_key(public_exponent=65537, key_size=_KEY_BITS)
    public: dict[str, Any] = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key()))
    public |= {"kid": KEY_ID, "use": "sig", "alg": "RS256"}
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    write_private(private, pem.decode())
    write_private(jwks_path(layout), json.dumps({"keys": [public]}, indent=2))
    # Public, and read by whatever user a container runs as.
    jwks_path(layout).chmod(0o644)


def mint(
    *,
    sub: str,
    scope: str,
    lifetime_s: int = 3600,
    home: Path | None = None,
    claims: dict[str, Any] | None = None,
) -> str:
    """A signed token. `scope` is a space-separated list; `claims` overrides and adds, for tests."""
    private = _private_path(Layout(home or default_home()))
    if not private.exists():
        raise LocalError(
            "There is no development key yet; `scripts/up` makes it at the first start."
        )
    now = int(time.time())
    payload = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": sub,
        "scope": scope,
        "iat": now,
        "exp": now + lifetime_s,
        "jti": str(uuid.uuid4()),
    }
    headers = {"kid": KEY_ID}
    return jwt.encode(
        payload | (claims or {}), private.read_text(), algorithm="RS256", headers=headers
    )


def _private_path(layout: Layout) -> Path:
    return layout.keys / "private.pem"


if __name__ == "__main__":
    # For the containers, which share the key: `python -m ecom_local.tokens` makes it where it is missing.
    layout = Layout(default_home())
    layout.keys.mkdir(mode=0o700, parents=True, exist_ok=True)
    ensure_key(layout)

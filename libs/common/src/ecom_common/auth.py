"""Who asks: bearer JWTs, verified against a JWKS (RFC 7519, RFC 7517), and their scopes.

RS256 and EdDSA only: a list of allowed algorithms, never what the token says, or `alg=none` and
HMAC-with-the-public-key would pass. Each endpoint names the scope it needs; who owns an object is decided
by the use case.
"""

import json
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import jwt
from fastapi import Request
from fastapi.security import HTTPBearer
from starlette.concurrency import run_in_threadpool

from ecom_common.errors import ConfigurationError, Problem

ALGORITHMS: Final = ("RS256", "EdDSA")
LEEWAY_S: Final = 60
DEVELOPMENT_KEY_ID: Final = "development"
RELOAD_EVERY_S: Final = 10.0
"""A key id we do not know makes us read the key set again, at most this often."""
REFRESH_EVERY_S: Final = 60.0
"""The key set is read again this often in any case: how long a withdrawn key stays good, and then
REMEMBERED_S for the tokens that were just verified."""
REMEMBERED_TOKENS: Final = 10_000
REMEMBERED_S: Final = 30.0
"""How long a verified token is trusted without looking again."""
MAX_SUBJECT_CHARS: Final = 255

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Principal:
    """The caller: a stable id and what they may do."""

    subject: str
    scopes: frozenset[str]

    def may(self, scope: str) -> bool:
        return scope in self.scopes


class Authenticator:
    """Verifies tokens. Thread-safe; remembers recently verified ones, since a signature costs 0.1 ms."""

    def __init__(
        self,
        *,
        jwks: str,
        issuer: str,
        audience: str,
        environment: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._jwks = jwks
        self._issuer = issuer
        self._audience = audience
        self._environment = environment
        self._clock = clock
        self._lock = threading.Lock()
        self._loaded_at = clock()
        self._keys = self._load()
        self._verified: OrderedDict[str, tuple[Principal, float]] = OrderedDict()

    def verify(self, token: str) -> Principal:
        """The token's bearer; raises the `unauthenticated` problem. May read the key set again."""
        if (principal := self.remembered(token)) is not None:
            return principal
        principal, expires_in_s = self._verify(token)
        self._remember(token, principal, min(REMEMBERED_S, expires_in_s))
        return principal

    def remembered(self, token: str) -> Principal | None:
        """The bearer of a token that was verified a moment ago; waits for nothing."""
        known = self._verified.get(token)
        return known[0] if known is not None and self._clock() < known[1] else None

    def _verify(self, token: str) -> tuple[Principal, float]:
        try:
            key = self._key(jwt.get_unverified_header(token).get("kid"))
            claims = jwt.decode(
                token,
                key,
                algorithms=list(ALGORITHMS),
                audience=self._audience,
                issuer=self._issuer,
                leeway=LEEWAY_S,
                options={"require": ["exp", "sub", "iss", "aud"]},
            )
        except jwt.PyJWTError as error:
            raise _unauthenticated(type(error).__name__) from None
        subject, scope = claims["sub"], claims.get("scope", "")
        if not subject or len(subject) > MAX_SUBJECT_CHARS or not subject.isprintable():
            raise _unauthenticated("sub")
        if not isinstance(scope, str):
            raise _unauthenticated("scope")
        expires_in_s = float(claims["exp"]) + LEEWAY_S - time.time()
        return Principal(subject, frozenset(scope.split())), expires_in_s

    def _remember(self, token: str, principal: Principal, seconds: float) -> None:
        with self._lock:
            self._verified[token] = (principal, self._clock() + seconds)
            while len(self._verified) > REMEMBERED_TOKENS:
                self._verified.popitem(last=False)

    def _key(self, key_id: str | None) -> Any:
        self._reload(REFRESH_EVERY_S if key_id in self._keys else RELOAD_EVERY_S)
        key = self._keys.get(key_id) if key_id is not None else None
        if key is None:
            raise _unauthenticated("kid")
        return key

    def _reload(self, every_s: float) -> None:
        with self._lock:
            if self._clock() - self._loaded_at < every_s:
                return
            self._loaded_at = self._clock()
        # Without the lock: meanwhile the others go on with the keys we have.
        try:
            self._keys = self._load()
        except ConfigurationError as error:
            # A file that is being replaced, an issuer that is away for a moment.
            log.error("the key set is not renewed: %s", error)

    def _load(self) -> dict[str, Any]:
        if self._environment == "production" and self._jwks.startswith("http://"):
            raise ConfigurationError("JWT_JWKS: an http:// address is refused in production")
        try:
            document = _fetch(self._jwks)
            keys = {key.key_id: key for key in jwt.PyJWKSet.from_dict(document).keys if key.key_id}
        except (OSError, ValueError, jwt.PyJWTError) as error:
            raise ConfigurationError(
                f"JWT_JWKS: the key set cannot be read ({type(error).__name__}): "
                "give the path or https URL of a JWKS document"
            ) from error
        if not keys:
            raise ConfigurationError(
                "JWT_JWKS: the key set has no key with a `kid` that we can use"
            )
        if self._environment == "production" and DEVELOPMENT_KEY_ID in keys:
            raise ConfigurationError("JWT_JWKS: the development key is refused in production")
        return keys


def _fetch(source: str) -> dict[str, Any]:
    if source.startswith(("https://", "http://")):
        document = jwt.PyJWKClient(source, cache_jwk_set=False, timeout=5).fetch_data()
    else:
        document = json.loads(Path(source).read_bytes())
    if not isinstance(document, dict):
        raise ValueError("not a JSON object")
    return document


def _unauthenticated(why: str) -> Problem:
    # The kind of fault helps whoever integrates, and tells an attacker nothing the standard does not.
    return Problem("unauthenticated", f"Send a valid bearer token ({why}).")


class _Requires(HTTPBearer):
    """A dependency: the caller, who has at least one of some scopes, or else is anybody with a valid token.

    One object that is the documented scheme, the check of the token and the check of its scopes: as three
    dependencies, each inside the other, they took 70 µs more
    (`tests/load/micro.py`, a POST of an order: 383 and 310).
    """

    def __init__(self, scopes: Collection[str] = ()) -> None:
        super().__init__(
            scheme_name="HTTPBearer",
            auto_error=False,
            description="A JWT; `scripts/token` makes one for development.",
        )
        self._scopes = tuple(scopes)

    async def __call__(self, request: Request) -> Principal:  # type: ignore[override] # the dependency's result
        credentials = await super().__call__(request)
        if credentials is None:
            raise _unauthenticated("none was sent")
        principal = await _authenticate(request, credentials.credentials)
        if self._scopes and not principal.scopes.intersection(self._scopes):
            raise Problem("forbidden", f"This needs the scope {' or '.join(self._scopes)}.")
        return principal


async def _authenticate(request: Request, token: str) -> Principal:
    authenticator: Authenticator = request.app.state.authenticator
    if (known := authenticator.remembered(token)) is not None:
        return known
    # On a thread: it may have to read the key set, over the network.
    return await run_in_threadpool(authenticator.verify, token)


def requires(*scopes: str) -> Callable[[Request], Coroutine[Any, Any, Principal]]:
    """A dependency: the caller, who has at least one of `scopes`; else the `forbidden` problem."""
    return _Requires(scopes)


authenticated: Final = _Requires()
"""A dependency: the caller of this request, whatever their scopes."""

"""A small service on the chassis' HTTP side, with one endpoint for each thing that can happen.

    python -m tests.support.small_app PORT JWKS

serves it as a service's `main` would.
"""

import asyncio
import logging
import sys
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Annotated, Any, Literal

from ecom_common.auth import Principal, authenticated, requires
from ecom_common.cards import NoCardNumber
from ecom_common.errors import Problem
from ecom_common.health import Check
from ecom_common.http import (
    etag,
    idempotency_key,
    if_match_version,
    make_app,
    optional_idempotency_key,
    serve,
)
from ecom_common.logs import configure_logging
from ecom_common.pagination import CursorParameter, Limit, decode_int
from ecom_common.problems import problem_responses
from ecom_common.settings import ServiceSettings
from fastapi import APIRouter, Depends, FastAPI, Header, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from tests.support.tokens import AUDIENCE, ISSUER

log = logging.getLogger(__name__)
router = APIRouter()


class Tea(BaseModel):
    model_config = ConfigDict(extra="forbid")
    kind: Literal["tea"] = "tea"
    name: Annotated[str, NoCardNumber, Field(max_length=100)]
    leaves: Annotated[int, Field(strict=True, ge=1, le=1000)]


class Mug(BaseModel):
    kind: Literal["mug"]


class Basket(BaseModel):
    things: list[Annotated[Tea | Mug, Field(discriminator="kind")]]


@router.post("/v1/teas", status_code=201, responses=problem_responses("validation_failed"))
async def make_tea(
    tea: Tea, key: Annotated[str, Depends(idempotency_key)], response: Response
) -> dict[str, Any]:
    response.headers["ETag"] = etag(1)
    return {"leaves": tea.leaves, "key_length": len(key)}


@router.put("/v1/teas/{tea_id}")
async def change_tea(
    tea_id: int,
    tea: Tea,
    key: Annotated[str | None, Depends(optional_idempotency_key)],
    if_match: Annotated[str | None, Header()] = None,
) -> dict[str, Any]:
    return {"id": tea_id, "version": if_match_version(if_match), "has_key": key is not None}


@router.get("/v1/teas")
async def teas(cursor: CursorParameter = None, limit: Limit = 50) -> dict[str, Any]:
    return {"after": decode_int(cursor), "limit": limit}


@router.post("/v1/baskets")
async def fill(basket: Basket) -> int:
    return len(basket.things)


@router.get("/v1/me")
async def me(principal: Annotated[Principal, Depends(authenticated)]) -> str:
    return principal.subject


@router.get("/v1/admin")
async def admin(principal: Annotated[Principal, Depends(requires("a:admin", "b:admin"))]) -> str:
    return principal.subject


@router.post("/v1/bug")
async def bug(request: Request) -> None:
    raise ValueError(f"cannot handle {(await request.body()).decode()}\nsecond line")


@router.get("/v1/overload")
async def overload() -> None:
    raise Problem("overloaded", "Later.", retry_after_s=7, members={"open_orders": 3})


@router.get("/v1/wait")
async def wait(request: Request, seconds: float = 30) -> dict[str, bool]:
    log.info("waiting")
    return {"drained": await request.app.state.draining.wait(seconds)}


@router.get("/v1/slow")
async def slow(request: Request) -> dict[str, bool]:
    """Work that has begun and does not look at the clock."""
    log.info("waiting")
    await request.app.state.draining.wait(30)
    await request.app.state.closing.wait(0.3)
    return {"done": True}


@router.get("/v1/hang")
async def hang(request: Request) -> None:
    """Have the end wait for a thread that does not return, as from a call into a database that is silent."""
    request.app.state.hangs = True


def an_app(settings: ServiceSettings, checks: Mapping[str, Check] | None = None) -> FastAPI:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        from ecom_common.http import Draining

        app.state.closing = Draining()
        app.state.hangs = False
        log.info("opened")
        yield
        if app.state.hangs:
            await asyncio.to_thread(threading.Event().wait)
        log.info("closed")

    return make_app(
        title="Teas",
        summary="For tests.",
        settings=settings,
        routers=[router],
        lifespan=lifespan,
        checks=lambda _: checks or {},
    )


def app_settings(*, jwks: str, port: int = 1, **changes: Any) -> ServiceSettings:
    values: dict[str, Any] = {
        "environment": "development",
        "database_url": "postgresql://nobody@127.0.0.1/none",
        "jwt_jwks": jwks,
        "jwt_issuer": ISSUER,
        "jwt_audience": AUDIENCE,
        "http_port": port,
    }
    return ServiceSettings(**(values | changes))


def main(port: str, jwks: str) -> None:
    configure_logging(service="teas", process="api", level="INFO")
    settings = app_settings(jwks=jwks, port=int(port))
    serve(an_app(settings), settings)


if __name__ == "__main__":
    main(*sys.argv[1:])

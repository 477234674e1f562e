"""The order service's api process: builds its parts and serves. Nothing happens at import."""

import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from ecom_common.batch import Batcher
from ecom_common.database import make_engine, make_sessions
from ecom_common.errors import ConfigurationError
from ecom_common.health import Check, check_database
from ecom_common.http import make_app, serve
from ecom_common.logs import configure_logging
from ecom_common.reading import Reader
from ecom_common.settings import load
from fastapi import FastAPI

from order_service import api, repository
from order_service.api import Desk
from order_service.commands import Command, Result
from order_service.flow import FlowControl
from order_service.models import SCHEMA_VERSION, SERVICE
from order_service.service import OrderDesk
from order_service.settings import Settings
from order_service.watch import Watch


def create_app(settings: Settings) -> FastAPI:
    """The app; it opens its connections when it starts serving."""
    engine = make_engine(
        settings.database_url.get_secret_value(),
        application_name=f"{SERVICE}-api",
        pool_size=settings.database_pool_size,
    )
    sessions = make_sessions(engine)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        # Two connections are the batchers'.
        reader = Reader(sessions, threads=max(1, settings.database_pool_size - 2))
        batcher: Batcher[Command, Result] = Batcher(
            sessions,
            OrderDesk(settings).handle_commands,
            name="commands",
            max_batch=settings.max_batch,
        )
        lookups = Batcher(
            sessions, repository.find_orders, name="lookups", max_batch=settings.max_batch
        )
        app.state.desk = Desk(
            batcher=batcher,
            lookups=lookups,
            reader=reader,
            watch=Watch(reader, app.state.draining),
            flow=FlowControl(reader, limit=settings.max_open_orders),
            draining=app.state.draining,
        )
        yield
        await batcher.close()
        await lookups.close()
        reader.close()
        engine.dispose()

    def checks(_: FastAPI) -> Mapping[str, Check]:
        return {"database": check_database(sessions, schema_version=SCHEMA_VERSION)}

    return make_app(
        title="Orders",
        summary="Takes orders and drives each to confirmed, rejected or cancelled.",
        settings=settings,
        routers=[api.router],
        lifespan=lifespan,
        checks=checks,
    )


def main() -> int:
    """Serve until told to stop; 2 when the environment is not usable."""
    try:
        settings = load(Settings)
        configure_logging(service=SERVICE, process="api", level=settings.log_level)
        app = create_app(settings)
    except ConfigurationError as error:
        print(f"{SERVICE}: {error}", file=sys.stderr)  # noqa: T201 - before there is a log
        return 2
    serve(app, settings)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The api process: `python -m inventory_service.app`."""

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

from inventory_service.api import router
from inventory_service.models import SCHEMA_VERSION, SERVICE
from inventory_service.service import handle_commands
from inventory_service.settings import Settings


def create_app(settings: Settings) -> FastAPI:
    """The app; it connects to nothing before its first request."""
    engine = make_engine(
        settings.database_url.get_secret_value(),
        application_name=f"{SERVICE}-api",
        pool_size=settings.database_pool_size,
    )
    sessions = make_sessions(engine)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        # One connection is the batcher's.
        app.state.reader = Reader(sessions, threads=max(1, settings.database_pool_size - 1))
        app.state.commands = Batcher(
            sessions, handle_commands, name="commands", max_batch=settings.max_batch
        )
        yield
        await app.state.commands.close()
        app.state.reader.close()
        engine.dispose()

    def checks(_: FastAPI) -> Mapping[str, Check]:
        return {"database": check_database(sessions, schema_version=SCHEMA_VERSION)}

    return make_app(
        title="Inventory",
        summary="Items, stock levels, reservations and the ledger of movements.",
        settings=settings,
        routers=[router],
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

"""The api process: puts the HTTP side together."""

import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from ecom_common.database import make_engine, make_sessions
from ecom_common.errors import ConfigurationError
from ecom_common.health import Check, check_database
from ecom_common.http import make_app, serve
from ecom_common.logs import configure_logging
from ecom_common.reading import Reader
from ecom_common.settings import load
from fastapi import FastAPI

from payment_service.api import router
from payment_service.models import SCHEMA_VERSION, SERVICE
from payment_service.settings import Settings


def create_app(settings: Settings) -> FastAPI:
    """The app; connections are opened when it starts, and closed when it ends."""
    engine = make_engine(
        settings.database_url.get_secret_value(),
        application_name=f"{SERVICE}-api",
        pool_size=settings.database_pool_size,
    )
    sessions = make_sessions(engine)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.reader = Reader(sessions, threads=settings.database_pool_size)
        try:
            yield
        finally:
            app.state.reader.close()
            engine.dispose()

    def checks(_: FastAPI) -> Mapping[str, Check]:
        return {"database": check_database(sessions, schema_version=SCHEMA_VERSION)}

    return make_app(
        title="ecom payments",
        summary="Payments of orders: what was asked of the provider, and what is booked.",
        settings=settings,
        routers=[router],
        lifespan=lifespan,
        checks=checks,
    )


def main() -> int:
    """Serve until told to stop; 2 when the settings are not usable."""
    try:
        settings = load(Settings)
        configure_logging(service=SERVICE, process="api", level=settings.log_level)
        app = create_app(settings)
    except ConfigurationError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201 - there is no log to write to yet
        return 2
    serve(app, settings)
    return 0


if __name__ == "__main__":
    sys.exit(main())

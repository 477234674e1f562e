"""The services' settings in a run: times short and mostly sensible, drawn by the seed."""

from random import Random
from typing import Any, Final

from inventory_service.settings import Settings as InventorySettings
from order_service.settings import Settings as OrderSettings
from payment_service.settings import Settings as PaymentSettings

from tests.simulation.processes import AllSettings

_NOWHERE: Final = "postgresql://nobody@127.0.0.1/none"
"""Settings must name a database; whoever puts a process together here has an engine already."""


def draw_settings(random: Random) -> AllSettings:
    """Those of one run."""
    deadline_s = random.choice((15, 30, 60))
    # Now and then a reservation runs out first, which is allowed and rarely seen.
    ttl_s = random.choice((deadline_s // 3, deadline_s * 2, deadline_s * 20, deadline_s * 20))
    common: dict[str, Any] = {
        "environment": "development",
        "database_url": _NOWHERE,
        "jwt_jwks": "none",
        "jwt_issuer": "simulation",
        "jwt_audience": "simulation",
        "http_port": 1,
        "max_batch": random.choice((1, 5, 50)),
    }
    return AllSettings(
        OrderSettings(
            **common,
            order_deadline_s=deadline_s,
            ask_again_after_s=random.choice((1.0, 2.0, 4.0)),
            ask_again_at_most_s=10.0,
            max_asks=random.choice((4, 30)),
        ),
        InventorySettings(**common, reservation_ttl_s=ttl_s),
        PaymentSettings(
            **common,
            provider_database_url=_NOWHERE,
            provider_threads=1,
            provider_timeout_s=1.0,
            provider_lease_s=random.choice((2.5, 10.0)),
            provider_retry_first_s=random.choice((0.5, 2.0)),
            provider_retry_most_s=8.0,
        ),
    )

"""Every Prometheus instrument of the chassis, in one place. Names are part of the contract."""

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

_LATENCY_BUCKETS_S: Final = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30,
)  # fmt: skip

REQUEST_SECONDS = Histogram(
    "ecom_http_request_seconds",
    "Time from the request's head to the end of its answer.",
    ["method", "route", "status"],
    buckets=_LATENCY_BUCKETS_S,
)
BATCH_SIZE = Histogram(
    "ecom_batch_size",
    "Commands or messages in one transaction.",
    ["batch"],
    buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500, 1000),
)
BATCHES_REPLAYED = Counter(
    "ecom_batches_replayed_total", "Batches that were replayed in parts.", ["batch"]
)
UNITS_RETRIED = Counter(
    "ecom_units_retried_total",
    "Transactions run again, by what was in the way.",
    ["batch", "trouble"],
)
OUTBOX_ROWS = Gauge("ecom_outbox_rows", "Rows that wait in the outbox.")
OUTBOX_AGE_SECONDS = Gauge("ecom_outbox_age_seconds", "Age of the oldest row in the outbox.")
OUTBOX_PARKED_KEYS = Gauge("ecom_outbox_parked_keys", "Keys whose next message the broker refuses.")
RELAY_LEADER = Gauge("ecom_relay_leader", "1 while this process holds the relay's lock.")
PUBLISHED = Counter(
    "ecom_messages_published_total", "Messages acknowledged by the broker.", ["topic"]
)
RECEIVED = Counter(
    "ecom_messages_received_total",
    "Messages by what became of them: handled, duplicate, unknown_type, tombstone, dead_letter.",
    ["topic", "outcome"],
)
CONSUMER_LAG = Gauge("ecom_consumer_lag", "Messages behind the end.", ["topic", "partition"])
DEAD_LETTERS_OPEN = Gauge("ecom_dead_letters_open", "Dead letters nobody has dealt with.")
SWEEP_SECONDS = Histogram(
    "ecom_sweep_seconds", "Duration of one sweep.", ["sweep"], buckets=_LATENCY_BUCKETS_S
)
SWEPT = Counter("ecom_swept_total", "What sweeps have dealt with.", ["sweep"])

"""The instruments of this service, beside those of the chassis. Names are part of the contract."""

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

_BUCKETS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)

PROVIDER_SECONDS = Histogram(
    "ecom_provider_call_seconds",
    "Time of one call of the payment provider, by what it answered; `error` and `timeout` are unknown.",
    ["call", "outcome"],
    buckets=_BUCKETS_S,
)
JOBS_NOT_BEGUN = Counter(
    "ecom_provider_jobs_not_begun_total",
    "Claimed jobs that were given back, because their lease or the process was about to end.",
)
PAYMENTS = Gauge(
    "ecom_payments",
    "Payment intents in states that should not last: unknown, refunding, refund_failed.",
    ["state"],
)
PROVIDER_JOBS_DUE = Gauge(
    "ecom_provider_jobs_due", "Operations that wait to be asked, or are asked."
)
PROVIDER_JOBS_AGE_SECONDS = Gauge(
    "ecom_provider_jobs_age_seconds", "How long the oldest of these has been due."
)

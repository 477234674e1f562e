"""What the order service exports beside the chassis' metrics."""

from prometheus_client import Gauge, Histogram

FINAL_SECONDS = Histogram(
    "ecom_order_final_seconds",
    "Time from placement to a final status: the duration of the saga.",
    ["status"],
    buckets=(0.025, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 300, 900, 3600),
)
OPEN_ORDERS = Gauge("ecom_orders_open", "Orders that are on their way.")
STUCK_ORDERS = Gauge(
    "ecom_orders_stuck", "Open orders whose deadline passed more than a minute ago."
)
FLAGGED_ORDERS = Gauge("ecom_orders_flagged", "Open orders that wait for an operator.")
RESOLVED_ORDERS = Gauge(
    "ecom_orders_resolved", "Open orders that an operator has settled outside of the system."
)

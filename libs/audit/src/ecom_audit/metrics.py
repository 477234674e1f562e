"""The results of the last look, for Prometheus."""

from collections import Counter as Tally

from prometheus_client import CollectorRegistry, Counter, Gauge, start_http_server

from ecom_audit.invariants import ATTENTION, INVARIANTS, Report


class Metrics:
    """A registry of its own: nothing else of the process is anybody's business."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self._violations = Gauge(
            "ecom_audit_violations",
            "Violations of each invariant",
            ["invariant"],
            registry=registry,
        )
        self._attention = Gauge(
            "ecom_audit_attention", "What somebody should look at", ["kind"], registry=registry
        )
        self._orders = Gauge("ecom_audit_orders", "Orders that were looked at", registry=registry)
        self._in_flight = Gauge(
            "ecom_audit_in_flight_orders", "Orders in flight", registry=registry
        )
        self._moving = Gauge(
            "ecom_audit_moving", "Differences that are still changing", registry=registry
        )
        self._seconds = Gauge("ecom_audit_seconds", "How long the look took", registry=registry)
        self._up = Gauge("ecom_audit_up", "Whether the last look was possible", registry=registry)
        self._last = Gauge(
            "ecom_audit_last_look_timestamp_seconds", "When the last look ended", registry=registry
        )
        self._failed = Counter(
            "ecom_audit_failed_looks", "Looks that were not possible", registry=registry
        )

    def serve(self, host: str, port: int) -> None:
        start_http_server(port, host, registry=self.registry)

    def show(self, report: Report) -> None:
        for name in INVARIANTS:
            self._violations.labels(name).set(report.counts[name])
        kinds = Tally(a.kind for a in report.attention)
        for kind in ATTENTION:
            self._attention.labels(kind).set(kinds[kind])
        self._orders.set(report.orders)
        self._in_flight.set(report.open_orders)
        self._moving.set(report.moving)
        self._seconds.set(report.seconds)
        self._last.set_to_current_time()
        self._up.set(1)

    def show_failure(self) -> None:
        self._up.set(0)
        self._failed.inc()

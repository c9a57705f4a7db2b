"""What the server counts, for Prometheus."""

from collections.abc import Mapping

BOUNDS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)  # seconds
FINE = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.4, 2.0, 3.0, 4.0, 5.0, 7.0, 10.0, 20.0, 50.0, 100.0)
COUNTERS: dict[str, tuple[str, tuple[str, ...]]] = {  # what it counts, and its labels
    "driftlm_requests_total": (
        "Requests that were answered, by route, method and status.",
        ("route", "method", "status"),
    ),
    "driftlm_documents_read_total": ("Documents that were acknowledged.", ()),
    "driftlm_tokens_read_total": ("Tokens of these.", ()),
    "driftlm_prompt_tokens_total": ("Tokens of prompts.", ()),
    "driftlm_completion_tokens_total": ("Tokens that were written.", ()),
    "driftlm_answers_begun_total": ("Answers whose writing began.", ()),
    "driftlm_answer_batches_total": ("Batches in which they were written.", ()),
}
DURATIONS: dict[str, tuple[str, tuple[str, ...], tuple[float, ...]]] = {  # what it measures, its labels, its bounds
    "driftlm_request_seconds": (
        "Seconds from a request's first line to the end of its answer, by route.",
        ("route",),
        BOUNDS,
    ),
    "driftlm_window_seconds": ("Seconds of one window that is read, between two turns of answers.", (), FINE),
    "driftlm_wait_seconds": ("Seconds that an answer waited before it began.", (), FINE),
}
GAUGES = {
    "driftlm_jobs_waiting": "Requests in the queue.",
    "driftlm_tenants_in_memory": "Homes that are open.",
}


class Metrics:
    """Counts of one server; any thread may add.

    Example:
        >>> metrics = Metrics()
        >>> metrics.add("driftlm_tokens_read_total", 12)
        >>> [line for line in metrics.text({}).splitlines() if line.startswith("driftlm_tokens")]
        ['driftlm_tokens_read_total 12.0']
    """

    def __init__(self) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics

        disable_created_metrics()  # when a counter began says nothing here
        self.registry = CollectorRegistry()
        self.counters = {
            name: Counter(name, words, labels, registry=self.registry) for name, (words, labels) in COUNTERS.items()
        }
        self.durations = {
            name: Histogram(name, words, labels, buckets=bounds, registry=self.registry)
            for name, (words, labels, bounds) in DURATIONS.items()
        }
        self.gauges = {name: Gauge(name, words, registry=self.registry) for name, words in GAUGES.items()}

    def add(self, name: str, amount: float = 1, **labels: str) -> None:
        """Count something."""
        counter = self.counters[name]
        (counter.labels(**labels) if labels else counter).inc(amount)

    def observe(self, name: str, seconds: float, **labels: str) -> None:
        """Put a duration into its histogram."""
        histogram = self.durations[name]
        (histogram.labels(**labels) if labels else histogram).observe(seconds)

    def text(self, gauges: Mapping[str, float]) -> str:
        """Return all metrics in the text format of Prometheus, with the values that gauges have now."""
        from prometheus_client import generate_latest

        for name, value in gauges.items():
            self.gauges[name].set(value)
        return generate_latest(self.registry).decode()

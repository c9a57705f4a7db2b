"""Counters and histograms in the text format of Prometheus (exposition format 0.0.4)."""

import threading
from bisect import bisect_left
from collections.abc import Mapping

BOUNDS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)  # seconds
HELP = {
    "driftlm_requests_total": "Requests that were answered, by route, method and status.",
    "driftlm_request_seconds": "Seconds from a request's first line to the end of its answer, by route.",
    "driftlm_documents_read_total": "Documents that were acknowledged.",
    "driftlm_tokens_read_total": "Tokens of these.",
    "driftlm_prompt_tokens_total": "Tokens of prompts.",
    "driftlm_completion_tokens_total": "Tokens that were written.",
    "driftlm_answers_begun_total": "Answers whose writing began.",
    "driftlm_answer_batches_total": "Batches in which they were written.",
    "driftlm_jobs_waiting": "Requests in the queue.",
    "driftlm_tenants_in_memory": "Homes that are open.",
}

Labels = tuple[tuple[str, str], ...]


class Metrics:
    """What the server counts; any thread may add.

    Example:
        >>> metrics = Metrics()
        >>> metrics.add("driftlm_tokens_read_total", 12)
        >>> print(metrics.text({}), end="")
        # HELP driftlm_tokens_read_total Tokens of these.
        # TYPE driftlm_tokens_read_total counter
        driftlm_tokens_read_total 12
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.counters: dict[str, dict[Labels, float]] = {}
        self.histograms: dict[str, dict[Labels, list[float]]] = {}  # counts by bound, and the sum at the end

    def add(self, name: str, amount: float = 1, **labels: str) -> None:
        """Count something."""
        with self.lock:
            held = self.counters.setdefault(name, {})
            key = tuple(sorted(labels.items()))
            held[key] = held.get(key, 0) + amount

    def observe(self, name: str, seconds: float, **labels: str) -> None:
        """Put a duration into its histogram."""
        with self.lock:
            held = self.histograms.setdefault(name, {})
            cells = held.setdefault(tuple(sorted(labels.items())), [0.0] * (len(BOUNDS) + 2))
            cells[bisect_left(BOUNDS, seconds)] += 1
            cells[-1] += seconds

    def text(self, gauges: Mapping[str, float]) -> str:
        """Return all metrics, with some values of this moment."""
        lines = list[str]()
        with self.lock:
            for name, counts in sorted(self.counters.items()):
                lines += [*head(name, "counter"), *(sample(name, key, value) for key, value in sorted(counts.items()))]
            for name, held in sorted(self.histograms.items()):
                lines += head(name, "histogram")
                for key, (*cells, total) in sorted(held.items()):
                    count = 0.0
                    for bound, cell in zip((*map(str, BOUNDS), "+Inf"), cells, strict=True):
                        count += cell
                        lines.append(sample(f"{name}_bucket", (*key, ("le", bound)), count))
                    lines += [sample(f"{name}_sum", key, total), sample(f"{name}_count", key, count)]
        for name, value in gauges.items():
            lines += [*head(name, "gauge"), sample(name, (), value)]
        return "\n".join(lines) + "\n"


def head(name: str, kind: str) -> list[str]:
    """Return the lines before a metric's samples."""
    return [f"# HELP {name} {HELP[name]}", f"# TYPE {name} {kind}"]


def sample(name: str, labels: Labels, value: float) -> str:
    r"""Return one line.

    Example:
        >>> sample("requests", (("route", 'a"b'),), 2)
        'requests{route="a\\"b"} 2'
    """
    escaped = [(key, text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")) for key, text in labels]
    named = ",".join(f'{key}="{text}"' for key, text in escaped)
    return f"{name}{{{named}}} {value:.17g}" if named else f"{name} {value:.17g}"

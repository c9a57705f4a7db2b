"""What Prometheus reads."""

import re

from driftlm.serving.metrics import Metrics

LINE = re.compile(r'[a-z_]+(\{[a-z]+="([^"\\\n]|\\["\\n])*"(,[a-z]+="([^"\\\n]|\\["\\n])*")*\})? [0-9.e+-]+')


def test_histograms_count_what_is_at_most_a_bound() -> None:
    metrics = Metrics()
    for seconds in (0.01, 0.02, 5.0, 500.0):
        metrics.observe("driftlm_request_seconds", seconds, route="/x")
    metrics.add("driftlm_requests_total", route='a"\\\n', method="GET", status="200")
    metrics.add("driftlm_requests_total", 2, method="GET", status="200", route='a"\\\n')
    lines = metrics.text({"driftlm_jobs_waiting": 3}).splitlines()
    assert all(line.startswith("# ") or LINE.fullmatch(line) for line in lines)
    counts = [line.rpartition(" ")[2] for line in lines if "request_seconds_bucket" in line]
    assert counts == ["1.0", "2.0", "2.0", "2.0", "2.0", "2.0", "3.0", "3.0", "3.0", "4.0"]
    assert 'driftlm_request_seconds_bucket{le="+Inf",route="/x"} 4.0' in lines
    assert 'driftlm_request_seconds_count{route="/x"} 4.0' in lines
    assert 'driftlm_requests_total{method="GET",route="a\\"\\\\\\n",status="200"} 3.0' in lines
    assert "driftlm_jobs_waiting 3.0" in lines

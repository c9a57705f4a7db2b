"""What Prometheus reads."""

import re

from driftlm.serving.metrics import Metrics

LINE = re.compile(r'[a-z_]+(\{[a-z]+="([^"\\\n]|\\["\\n])*"(,[a-z]+="([^"\\\n]|\\["\\n])*")*\})? [0-9.e+-]+')


def test_histograms_count_what_is_at_most_a_bound() -> None:
    metrics = Metrics()
    for seconds in (0.01, 0.02, 5.0, 500.0):
        metrics.observe("driftlm_request_seconds", seconds, route="/x")
    metrics.add("driftlm_requests_total", route='a"\\\n', status="200")
    metrics.add("driftlm_requests_total", 2, status="200", route='a"\\\n')
    lines = metrics.text({"driftlm_jobs_waiting": 3}).splitlines()
    assert all(line.startswith("# ") or LINE.fullmatch(line) for line in lines)
    counts = [line.rpartition(" ")[2] for line in lines if "_bucket" in line]
    assert counts == ["1", "2", "2", "2", "2", "2", "3", "3", "3", "4"]
    assert 'driftlm_request_seconds_bucket{route="/x",le="+Inf"} 4' in lines
    assert 'driftlm_request_seconds_count{route="/x"} 4' in lines
    assert 'driftlm_requests_total{route="a\\"\\\\\\n",status="200"} 3' in lines
    assert lines[-1] == "driftlm_jobs_waiting 3"

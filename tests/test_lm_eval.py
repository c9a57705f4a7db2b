"""The recipe that scores snapshots by lm-eval, on four items of its tasks."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from driftlm.models.catalogue import BUNDLED
from driftlm.models.loading import load
from driftlm.streams.windows import Windows, split
from tests.support.running import ROOT

ITEMS = [json.loads(line) for line in (ROOT / "recipes/lm_eval_tasks/prose.jsonl").read_text().splitlines()]


def test_every_item_has_one_right_word_and_none_is_told_twice() -> None:
    assert len(ITEMS) == 24 == len({item["context"] for item in ITEMS})
    for item in ITEMS:
        assert len(set(item["choices"])) == 3 and item["label"] in range(3)
        assert not item["context"].endswith((" ", "."))


def test_the_published_rows_are_of_all_items() -> None:
    result = json.loads((ROOT / "recipes/results/lm_eval.json").read_text())
    assert result["items"] == len(ITEMS) and result["rows"]["before"] == result["rows"]["restored"]
    assert result["rows"]["after"] != result["rows"]["before"] and result["versions"]["lm_eval"]


@pytest.mark.skipif(importlib.util.find_spec("lm_eval") is None, reason='needs pip install "lm-eval[api]"')
def test_lm_eval_scores_a_snapshot_as_the_process_does(tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    command = [sys.executable, "-m", "recipes.lm_eval_forgetting", "--limit", "4", "--bytes", "600", "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    rows = json.loads(out.read_text())["rows"]
    assert rows["before"] == rows["restored"] != rows["after"]
    model = load(str(BUNDLED))
    from driftlm.models.scoring import Scorer

    nats = size = 0.0
    for item in ITEMS[:4]:
        text = f"{item['context']} {item['choices'][item['label']]}."
        ids = [model.bos, *model.tokenizer(text, add_special_tokens=False)["input_ids"]]
        (window,) = split("a", ids, list(range(len(ids))), Windows("overlapping", 64, 64))
        nats += float(Scorer(model).forward(window).nats.sum())
        size += len(text.encode())
    assert rows["before"]["bits_per_byte"] == pytest.approx(nats / size / 0.6931471805599453, abs=1e-5)

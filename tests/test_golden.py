"""Scores of the embedded benchmark as they were before the house was rebuilt.

golden.json was made by commit 69e9254. Where processor and torch are those that made it, scores are
the same bits; elsewhere sums are taken in another order, and training carries that on.
"""

import json
from pathlib import Path

import pytest
import torch

import ftbench
from ftbench.run import run_one
from ftbench.sweep import expand

GOLDEN = json.loads(Path(__file__).with_name("golden.json").read_text(encoding="utf-8"))
RECIPES = {
    "plain": {"steps": 30},
    "mixing": {
        "steps": 30,
        "mixing": "mixup-or-cutmix(mixup=0.2)",
        "label_smoothing": 0.1,
        "head": "plain(dropout=0.2)",
        "gradient_clip": 1.0,
    },
    "sgd": {
        "steps": 30,
        "optimizer": "sgd",
        "learning_rate": 0.02,
        "schedule": "linear(warmup=0.1)",
        "patience": 3,
        "norm_statistics": "update",
    },
    "constant": {"epochs": 3, "batch_size": 16, "schedule": "constant"},
}
# The last steps of a run that was one bit off at the first: what another processor comes to.
ELSEWHERE = {"accuracy": 0.03, "source_accuracy_after": 0.03, "nll": 0.1, "final_loss": 0.1}


def is_where_they_were_made():
    made_on = GOLDEN["made_on"]
    return (
        torch.__version__.partition("+")[0] == made_on["torch"]
        and torch.backends.cpu.get_cpu_capability() == made_on["instructions"]
    )


@pytest.mark.slow
@pytest.mark.parametrize("case", GOLDEN["scores"])
def test_scores_are_those_of_before(case, monkeypatch):
    variant, strategy = case.split()
    catalogue = ftbench.load_catalogue()
    spec = ftbench.SweepSpec(
        strategies=(strategy,), sizes=(50,), seeds=(0,), device="cpu", recipe=RECIPES[variant]
    )
    (run,) = expand(spec, catalogue)
    record = run_one(run, catalogue, device="cpu")
    assert record.status == "ok", record.message
    found = {**record.scores, "final_loss": record.protocol["final_loss"]}
    for name, expected in GOLDEN["scores"][case].items():
        within = 0.0 if is_where_they_were_made() else ELSEWHERE[name]
        assert found[name] == pytest.approx(expected, abs=within, rel=0), name

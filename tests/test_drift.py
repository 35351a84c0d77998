"""Drift: how far the source head's answers to the target's inputs moved."""

import numpy as np
import pytest
import torch
from torch import nn

import ftbench
from ftbench.backbone import Backbone, Model
from ftbench.run import drift as drifts
from ftbench.run.drift import Untouched, drift_rows, measure_drift
from tests.tiny import TinyNet, TinyTask


class Alone(TinyTask):
    """The tiny task without its source."""

    def source(self):
        return None


def stages():
    torch.manual_seed(0)
    return [("one", nn.Linear(4, 6)), ("two", nn.Sequential(nn.ReLU(), nn.Linear(6, 5)))]


def made(change=0.0):
    head = nn.Linear(5, 3)
    model = Model(stages(), nn.Linear(5, 2))
    with torch.no_grad():
        model.stages[0].weight.add_(change)
    return model, head


def examples(rows=40):
    inputs = torch.randn(rows, 4, generator=torch.Generator().manual_seed(1))
    return ftbench.TensorExamples(inputs, torch.zeros(rows, dtype=torch.int64))


class Uncached:
    """Knows no rows behind any stage, and shares nothing."""

    def __init__(self, few):
        self.few = few

    def evaluated(self, role):
        assert role == "drift"

    def rows(self, role):
        return self.few

    def values(self):
        return []

    def made(self, name, make, rows, options, stages):
        return make()


def drift(change, few, head=None):
    torch.manual_seed(0)
    _, usual = made()
    head = usual if head is None else head
    untouched = Untouched(Uncached(few), lambda: Backbone(stages(), head))
    return measure_drift(untouched, made(change)[0], head, Uncached(few), "cpu")


def test_it_is_the_mean_divergence_and_the_share_of_equal_answers():
    _, head = made()
    inputs = examples().inputs
    before, after = (nn.Sequential(*made(c)[0].stages, head)(inputs).detach() for c in (0, 0.3))
    found = drift(0.3, examples(), head)
    logs = [values.double().log_softmax(1) for values in (after, before)]
    expected = torch.nn.functional.kl_div(*logs, log_target=True, reduction="batchmean")
    assert found.divergence == pytest.approx(float(expected), rel=1e-5)
    assert found.divergence > 0
    same = (before.argmax(1) == after.argmax(1)).double().mean()
    assert found.agreement == pytest.approx(float(same))
    assert found.rows == 40


def test_equal_answers_have_not_drifted():
    found = drift(0.0, examples())
    assert (found.divergence, found.agreement) == (0.0, 1.0)


def test_no_more_rows_than_a_thousand_and_the_same_ones_always(monkeypatch):
    monkeypatch.setattr(drifts, "DRIFT_ROWS", 10)
    few = drift_rows(examples(500))
    assert len(few) == 10
    assert torch.equal(drift_rows(examples(500)).inputs, few.inputs)
    rows = np.sort(ftbench.rng.permutation(500, "drift rows")[:10])
    assert torch.equal(few.inputs, examples(500).inputs[rows])


def test_answers_that_are_no_logits_have_no_drift():
    tall = nn.Sequential(nn.Linear(5, 3), nn.Unflatten(1, (3, 1)))
    assert drift(0.3, examples(), tall) is None


def test_runs_without_a_source_task_have_it_and_those_with_one_have_retention(tiny_run):
    full, head_only = tiny_run("full", task=Alone), tiny_run("head-only", task=Alone)
    assert full.scores["drift_kl"] > 0
    assert 0 <= full.scores["drift_agreement"] < 1
    assert (head_only.scores["drift_kl"], head_only.scores["drift_agreement"]) == (0.0, 1.0)
    assert full.protocol["drift_rows"] == 30
    with_source = tiny_run("full")
    assert "drift_kl" not in with_source.scores
    assert with_source.protocol["drift_rows"] == 0


def test_scratch_and_backbones_without_a_head_have_none(tiny_run):
    class Headless(TinyNet):
        def build(self, *, pretrained):
            built = super().build(pretrained=pretrained)
            return ftbench.Backbone(built.stages)

    for record in (
        tiny_run("scratch", task=Alone),
        tiny_run("full", task=Alone, backbone=Headless),
    ):
        assert record.status == "ok"
        assert "drift_kl" not in record.scores


def test_it_costs_no_bits_of_the_scores(tiny_run):
    alone, beside = tiny_run("full", task=Alone), tiny_run("full")
    for name in ("accuracy", "nll"):
        assert alone.scores[name] == beside.scores[name]


def test_the_table_shows_the_share_of_answers_kept(tmp_path):
    from ftbench.report.formats.markdown import markdown
    from ftbench.report.tables import summarize
    from tests.support import tiny_sweep
    from tests.tiny import TinyPlugin

    catalogue = ftbench.load_catalogue(extra={"tiny": TinyPlugin(task=Alone)})
    spec = tiny_sweep(strategies=("full", "head-only", "ewc"))
    ftbench.run_sweep(spec, tmp_path, catalogue=catalogue)
    text = markdown(summarize(ftbench.load_results(tmp_path)))
    assert "source answers kept at 12" in text
    assert "still what the untouched model answers, for" in text
    assert "ewc: its Fisher is of the source head's predictions on the training inputs." in text
    assert "lower" not in text
    by_drift = markdown(summarize(ftbench.load_results(tmp_path), "drift_kl"))
    assert "drift of the source head (nats) by number of labels" in by_drift

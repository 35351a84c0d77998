"""Rows may be flat dicts of tensors: a whole run with them gives the scores of one without."""

import numpy as np
import pytest
import torch
from torch import nn

import ftbench
from tests.tiny import TinyNet, TinyTask

STRATEGIES = ("full", "head-only", "partial", "progressive", "l2sp", "ewc", "scratch")


def halves(examples):
    """Return the images as two tensors that add up to them, and a row's number."""
    images = examples.inputs
    inputs = {"dark": images.clamp(max=0), "light": images.clamp(min=0)}
    return ftbench.TensorExamples(inputs, examples.targets)


class DictTask(TinyTask):
    def pool(self):
        return halves(super().pool())

    def test(self):
        return halves(super().test())

    def source(self):
        source = super().source()
        return ftbench.SourceTask(source.name, halves(source.samples), halves(source.held_out))

    def fingerprint(self):
        return TinyTask().fingerprint()


class Stem(nn.Module):
    """Adds the halves up; passes a dict on."""

    def __init__(self, stem):
        super().__init__()
        self.stem = stem

    def forward(self, inputs):
        images = inputs["dark"] + inputs["light"]
        return {"hidden": self.stem(images), "mask": torch.ones(len(images), dtype=torch.bool)}


class Body(nn.Module):
    def __init__(self, body):
        super().__init__()
        self.body = body

    def forward(self, flows):
        assert set(flows) == {"hidden", "mask"}
        return self.body(flows["hidden"])


class DictNet(TinyNet):
    def build(self, *, pretrained):
        plain = super().build(pretrained=pretrained)
        (_, stem), (_, body), top = plain.stages
        stages = [("stem", Stem(stem)), ("body", Body(body)), top]
        return ftbench.Backbone(stages, plain.source_head)

    def fingerprint(self):
        return TinyNet().fingerprint()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_dicts_give_the_scores_of_plain_tensors(tiny_run, strategy):
    plain = tiny_run(strategy, size=30, steps=6)
    found = tiny_run(strategy, size=30, steps=6, task=DictTask, backbone=DictNet)
    assert found.status == "ok", found.message
    assert found.scores == plain.scores
    assert found.protocol == plain.protocol


def test_mixing_and_early_stopping_take_them(tiny_run):
    recipe = {
        "size": 30,
        "steps": 8,
        "mixing": "mixup(alpha=1.0)",
        "patience": 2,
        "validate_every": 2,
    }
    plain = tiny_run(**recipe)
    found = tiny_run(task=DictTask, backbone=DictNet, **recipe)
    assert found.status == "ok", found.message
    # The halves are mixed one by one, which rounds twice.
    assert found.scores["nll"] == pytest.approx(plain.scores["nll"], rel=1e-4)


def test_examples_of_dicts_are_rows_like_others():
    examples = halves(TinyTask().pool())
    assert len(examples) == 60
    batch = examples.batch(np.array([5, 2]))
    assert torch.equal(batch.inputs["light"], examples.inputs["light"][[5, 2]])
    chosen = examples.subset(np.array([5, 2])).to("cpu")
    assert torch.equal(chosen.inputs["dark"], examples.inputs["dark"][[5, 2]])
    with pytest.raises(ValueError, match=r"inputs hold 60, 59 rows and targets 60 rows; expected"):
        ftbench.TensorExamples({"a": torch.ones(60), "b": torch.ones(59)}, torch.ones(60))

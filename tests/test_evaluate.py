import numpy as np
import pytest
import torch
from torch import nn

import ftbench
from ftbench.evaluate import evaluate
from ftbench.predictions import BATCH, predict


def examples(rows):
    inputs = torch.arange(rows, dtype=torch.float32).unsqueeze(1)
    return ftbench.TensorExamples(inputs, torch.arange(rows) % 7)


@pytest.mark.parametrize("rows", [1, BATCH, BATCH + 1, 600])
def test_every_row_is_predicted_once_and_in_order(rows):
    data = examples(rows)
    outputs, targets = predict(nn.Identity(), data)
    assert torch.equal(outputs, data.inputs)
    assert torch.equal(targets, data.targets)


def test_predictions_do_not_depend_on_the_rows_beside_them():
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm1d(1), nn.Dropout(0.9), nn.Linear(1, 3))
    model[0].running_mean.fill_(5.0)
    outputs, _ = predict(model.train(), examples(10))
    alone, _ = predict(model, examples(10).subset(np.array([7])))
    torch.testing.assert_close(outputs[7:8], alone)


def test_the_model_is_left_in_eval_mode_with_its_statistics_as_they_were():
    model = nn.BatchNorm1d(1).train()
    predict(model, examples(10))
    assert not model.training
    assert model.running_mean.item() == 0
    assert model.num_batches_tracked.item() == 0


def test_predictions_record_no_graph():
    outputs, _ = predict(nn.Linear(1, 2), examples(3))
    assert not outputs.requires_grad


def test_nested_outputs_are_joined_leaf_by_leaf():
    class Nested(nn.Module):
        def forward(self, x):
            return {"double": 2 * x, "pair": (x, [x + 1])}

    data = examples(300)
    outputs, _ = predict(Nested(), data)
    assert torch.equal(outputs["double"], 2 * data.inputs)
    assert torch.equal(outputs["pair"][1][0], data.inputs + 1)


def test_the_score_is_that_of_all_rows_at_once():
    seen = []

    def score(outputs, targets):
        seen.append((len(outputs), len(targets)))
        return {"mean": float(outputs.mean())}

    assert evaluate(nn.Identity(), examples(601), score) == {"mean": 300.0}
    assert seen == [(601, 601)]

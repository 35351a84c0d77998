import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ftbench.fisher import diagonal_fisher


def linear_case(seed=0, rows=12, features=3, classes=4):
    generator = torch.Generator().manual_seed(seed)
    model = nn.Linear(features, classes)
    with torch.no_grad():
        model.weight.copy_(torch.randn(classes, features, generator=generator))
        model.bias.copy_(torch.randn(classes, generator=generator))
    inputs = torch.randn(rows, features, generator=generator)
    labels = torch.randint(classes, (rows,), generator=generator)
    return model, inputs, labels


def linear_fisher(model, inputs, labels):
    """Mean over samples of (x_j (p_k − [y = k]))², in NumPy."""
    x = inputs.double().numpy()
    logits = x @ model.weight.detach().double().numpy().T + model.bias.detach().double().numpy()
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    error = p - np.eye(p.shape[1])[labels.numpy()]
    return (error[:, :, None] * x[:, None, :]) ** 2, error**2, p


def small_net(seed=0):
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1),
        nn.BatchNorm2d(3),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(3 * 16, 4),
    )
    net.train()
    net(torch.randn(16, 2, 4, 4) * 3 + 1)  # moves the running statistics off 0 and 1
    return net


@pytest.fixture
def net():
    with torch.random.fork_rng(devices=[]):
        yield small_net()


@pytest.fixture
def images():
    return torch.randn(9, 2, 4, 4, generator=torch.Generator().manual_seed(5))


@settings(max_examples=25)
@given(st.integers(0, 99), st.integers(1, 12), st.integers(1, 15))
def test_empirical_fisher_of_a_linear_softmax_is_the_closed_form(seed, rows, batch_size):
    model, inputs, labels = linear_case(seed, rows)
    weight, bias, _ = linear_fisher(model, inputs, labels)
    found = diagonal_fisher(
        model, inputs, parameters=["weight", "bias"], labels=labels, batch_size=batch_size
    )
    torch.testing.assert_close(
        found["weight"].double(), torch.from_numpy(weight.mean(axis=0)), rtol=1e-4, atol=1e-6
    )
    torch.testing.assert_close(
        found["bias"].double(), torch.from_numpy(bias.mean(axis=0)), rtol=1e-4, atol=1e-6
    )


def test_true_fisher_of_one_sample_is_the_closed_form_for_one_of_the_labels():
    model, inputs, _ = linear_case()
    for row in inputs:
        one = row.unsqueeze(0)
        found = diagonal_fisher(model, one, parameters=["weight"], seed=3)["weight"]
        candidates = [linear_fisher(model, one, torch.tensor([label]))[0][0] for label in range(4)]
        assert min(np.abs(found.numpy() - c).max() for c in candidates) < 1e-5


def test_true_fisher_converges_to_the_expectation_over_the_models_own_prediction():
    model, inputs, _ = linear_case(rows=1)
    rows = 20_000
    found = diagonal_fisher(
        model, inputs.expand(rows, -1), parameters=["weight"], seed=1, batch_size=5000
    )["weight"]
    _, _, p = linear_fisher(model, inputs, torch.tensor([0]))
    x = inputs[0].numpy().astype(np.float64)
    expected = np.outer(p[0] * (1 - p[0]), x**2)
    # At most 0.5/√20 000 standard deviation in a frequency.
    np.testing.assert_allclose(found.numpy(), expected, atol=5 * 0.5 / rows**0.5 * (x**2).max())


def test_true_fisher_differs_from_the_empirical_one_and_between_seeds():
    model, inputs, labels = linear_case(rows=40)
    empirical = diagonal_fisher(model, inputs, parameters=["weight"], labels=labels)["weight"]
    first, again, other = (
        diagonal_fisher(model, inputs, parameters=["weight"], seed=seed)["weight"]
        for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)
    assert not torch.allclose(first, empirical)


@pytest.mark.parametrize("given_labels", [False, True])
@pytest.mark.parametrize("batch_size", [1, 2, 4, 8, 9, 100])
def test_fisher_is_the_same_at_any_batch_size(net, images, given_labels, batch_size):
    labels = torch.arange(9) % 4 if given_labels else None
    names = ["0.weight", "1.weight", "1.bias", "5.weight"]
    whole = diagonal_fisher(net, images, parameters=names, labels=labels, batch_size=9)
    cut = diagonal_fisher(net, images, parameters=names, labels=labels, batch_size=batch_size)
    for name in names:
        torch.testing.assert_close(cut[name], whole[name], rtol=1e-4, atol=1e-7)


def test_a_samples_drawn_label_depends_on_its_place_alone():
    # Of a model that sees nothing, the Fisher of one sample's bias tells the label.
    model = nn.Linear(2, 5, bias=True)
    with torch.no_grad():
        model.weight.zero_()
        model.bias.zero_()

    def sums(rows, batch_size):
        found = diagonal_fisher(
            model, torch.ones(rows, 2), parameters=["bias"], seed=4, batch_size=batch_size
        )
        return (found["bias"] * rows).numpy()

    labels = [(sums(n, 7) - (sums(n - 1, 3) if n > 1 else 0)).argmax() for n in range(1, 24)]
    again = [(sums(n, 1) - (sums(n - 1, 25) if n > 1 else 0)).argmax() for n in range(1, 24)]
    assert labels == again
    assert len(set(labels)) == 5


def test_fisher_of_a_conv_net_is_a_loop_over_samples(net, images):
    labels = torch.arange(9) % 4
    reference = copy.deepcopy(net).eval()
    expected = {name: torch.zeros_like(p) for name, p in reference.named_parameters()}
    for image, label in zip(images, labels, strict=True):
        reference.zero_grad()
        F.cross_entropy(reference(image.unsqueeze(0)), label.unsqueeze(0)).backward()
        for name, parameter in reference.named_parameters():
            expected[name] += parameter.grad.square() / len(images)
    found = diagonal_fisher(net, images, parameters=list(expected), labels=labels, batch_size=4)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-7)


def test_fisher_is_not_the_square_of_the_mean_gradient(net, images):
    labels = torch.arange(9) % 4
    found = diagonal_fisher(net, images, parameters=["5.bias"], labels=labels)["5.bias"]
    reference = copy.deepcopy(net).eval()
    F.cross_entropy(reference(images), labels).backward()
    # About nine times too small: the usual bug.
    assert found.sum() > 3 * reference[5].bias.grad.square().sum()


def test_neither_statistics_nor_flags_nor_weights_nor_gradients_move(net, images):
    net[4].eval()
    net[5].bias.requires_grad_(False)
    net[0].weight.grad = torch.ones_like(net[0].weight)
    state = copy.deepcopy(net.state_dict())
    flags = {name: module.training for name, module in net.named_modules()}
    diagonal_fisher(net, images, parameters=["0.weight", "5.bias"])
    assert state.keys() == net.state_dict().keys()
    assert all(torch.equal(state[name], value) for name, value in net.state_dict().items())
    assert {name: module.training for name, module in net.named_modules()} == flags
    assert True in flags.values()
    assert False in flags.values()
    assert torch.equal(net[0].weight.grad, torch.ones_like(net[0].weight))
    assert net[5].weight.grad is None
    assert not net[5].bias.requires_grad


def test_training_flags_come_back_when_the_model_raises(net):
    with pytest.raises(RuntimeError, match="channels"):
        diagonal_fisher(net, torch.randn(4, 5, 4, 4), parameters=["0.weight"])
    assert all(module.training for module in net.modules())


def test_global_generators_are_untouched(net, images):
    before = torch.get_rng_state()
    diagonal_fisher(net, images, parameters=["0.weight"])
    assert torch.equal(torch.get_rng_state(), before)


def test_fisher_holds_float32_of_the_wanted_parameters_alone(net, images):
    found = diagonal_fisher(net.double(), images.double(), parameters=["5.bias", "0.weight"])
    assert list(found) == ["5.bias", "0.weight"]
    assert {value.dtype for value in found.values()} == {torch.float32}
    assert found["0.weight"].shape == net[0].weight.shape
    assert not any(value.requires_grad for value in found.values())


def test_an_unknown_parameter_is_named():
    model, inputs, _ = linear_case()
    with pytest.raises(KeyError, match="wight"):
        diagonal_fisher(model, inputs, parameters=["wight"])


@pytest.mark.parametrize("count", [5, 20])
def test_labels_of_another_length_than_the_inputs_are_refused(count):
    model, inputs, _ = linear_case(rows=12)
    with pytest.raises(ValueError, match="labels"):
        diagonal_fisher(
            model, inputs, parameters=["weight"], labels=torch.zeros(count, dtype=torch.int64)
        )


def test_no_samples_are_refused_rather_than_answered_with_nan():
    model, inputs, _ = linear_case()
    with pytest.raises(ValueError, match="inputs"):
        diagonal_fisher(model, inputs[:0], parameters=["weight"])


class Scaled(nn.Module):
    """Takes a flat dict: x · scale, then a linear layer."""

    def __init__(self, linear):
        super().__init__()
        self.linear = linear

    def forward(self, inputs):
        return self.linear(inputs["x"] * inputs["scale"])


def test_inputs_may_be_a_dict_of_tensors():
    model, x, labels = linear_case()
    scale = torch.rand(len(x), 1)
    plain = diagonal_fisher(model, x * scale, parameters=["weight"], labels=labels)
    inputs = {"x": x, "scale": scale}
    found = diagonal_fisher(
        Scaled(model), inputs, parameters=["linear.weight"], labels=labels, batch_size=5
    )
    torch.testing.assert_close(found["linear.weight"], plain["weight"])
    drawn = diagonal_fisher(Scaled(model), inputs, parameters=["linear.weight"], seed=3)
    torch.testing.assert_close(
        drawn["linear.weight"],
        diagonal_fisher(model, x * scale, parameters=["weight"], seed=3)["weight"],
    )


def test_a_loss_and_a_way_to_draw_of_ones_own():
    """−log p of a normal distribution is (y − f)²/2: its true Fisher is Σ x², whatever y is."""
    torch.manual_seed(0)
    model, x = nn.Linear(3, 1), torch.randn(4000, 3)

    def loss(outputs, targets):
        return (outputs.squeeze(1) - targets).square().mean() / 2

    def draw(outputs, uniforms):
        normal = torch.distributions.Normal(0.0, 1.0)
        return outputs.squeeze(1) + normal.icdf(uniforms).float()

    found = diagonal_fisher(
        model, x, parameters=["weight", "bias"], loss=loss, draw=draw, batch_size=500
    )
    # E[(x_j e)²] = E[x_j²]; the mean of 4,000 products with deviation √8 is within 0.18.
    torch.testing.assert_close(found["weight"][0], x.square().mean(0), rtol=0, atol=0.18)
    assert found["bias"].item() == pytest.approx(1.0, abs=0.1)

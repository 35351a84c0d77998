"""Malformed arguments of the operators are refused in words or taken rightly; nothing crashes."""

import math
import re
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from ftbench.ops import MixPlan, QuadraticPenalty, mix
from tests.ops import malformed
from tests.ops.cases import each_set
from tests.ops.malformed import OPERATORS, good_mix, good_penalty
from tests.support import ROOT


def emulated_too(names, emulated_names):
    """Return the operators' names as a fixture's parameters, the emulated GPU's for deep tests."""
    return [*names, *(pytest.param(name, marks=pytest.mark.deep) for name in emulated_names)]


# For a module and not for a test: hypothesis asks for that.
@pytest.fixture(scope="module", params=emulated_too(malformed.MIXES, malformed.EMULATED_MIXES))
def mixing(request, compiled):
    """The name of an operator that mixes."""
    if request.param not in malformed.MIXES:
        request.getfixturevalue("emulated")
    return request.param


@pytest.fixture(
    scope="module", params=emulated_too(malformed.PENALTIES, malformed.EMULATED_PENALTIES)
)
def penalising(request, compiled):
    """The name of an operator for penalties."""
    if request.param not in malformed.PENALTIES:
        request.getfixturevalue("emulated")
    return request.param


def replaced(bad, most):
    """Up to ``most`` of the arguments, each with a maker of what stands in its place."""
    return st.lists(st.sampled_from(sorted(bad)), unique=True, max_size=most).flatmap(
        lambda names: st.fixed_dictionaries({name: st.sampled_from(bad[name]) for name in names})
    )


@given(replacements=replaced(malformed.BAD_MIX, 5))
def test_any_arguments_of_mixing_are_refused_or_mixed_rightly(mixing, replacements):
    arguments = good_mix()
    arguments.update({key: make() for key, make in replacements.items()})
    taken = malformed.try_mix(mixing, arguments)
    assert taken or replacements


@given(replacements=replaced(malformed.BAD_PENALTY, 5))
def test_any_arguments_of_a_penalty_are_refused_or_added_rightly(penalising, replacements):
    arguments = good_penalty()
    arguments.update({key: make() for key, make in replacements.items()})
    taken = malformed.try_penalty(penalising, arguments)
    assert taken or replacements


@st.composite
def any_tensor(draw):
    """A tensor of any small shape and common dtype, and often of odd strides."""
    shape = draw(st.lists(st.integers(0, 4), max_size=5))
    dtype = draw(
        st.sampled_from([torch.float32, torch.uint8, torch.bfloat16, torch.int32, torch.int64])
    )
    if not draw(st.booleans()):
        return malformed.values(*shape, dtype=dtype)
    strides = draw(st.lists(st.integers(0, 7), min_size=len(shape), max_size=len(shape)))
    return malformed.values(200, dtype=dtype).as_strided(shape, strides)


@given(data=st.data())
def test_tensors_of_any_shape_and_stride_do_not_crash_mixing(mixing, data):
    chosen = data.draw(
        st.dictionaries(
            st.sampled_from(["images", "partner", "weight", "box", "out"]), any_tensor(), max_size=3
        )
    )
    arguments = {**good_mix(), **chosen}
    given_images = arguments["images"]
    if mixing == "mix_" and not given_images.is_contiguous():
        # Elements that share memory are written once each, in no order that is promised.
        arguments["images"] = given_images.clone()
    out = arguments["out"]
    if out.numel() and (out.stride() != torch.empty(out.shape).stride()):
        arguments["out"] = out.clone()
    malformed.try_mix(mixing, arguments)


@pytest.mark.parametrize("which", ["compiled", pytest.param("emulated", marks=pytest.mark.deep)])
def test_every_pair_of_malformed_arguments_leaves_the_process_alive(request, which):
    request.getfixturevalue(which)  # or is skipped
    command = [sys.executable, "-m", "tests.ops.malformed", which]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, f"exit {done.returncode}: {done.stderr[-3000:]}"
    taken, refused = map(int, re.findall(r"\d+", done.stdout))
    assert taken > 1000
    assert refused > 1000


@pytest.mark.parametrize(
    ("name", "where"),
    [
        *(("mix", where) for where in ("partner", "weight", "box")),
        *(("mix_into", where) for where in ("images", "partner", "weight", "box", "out")),
    ],
)
def test_mixing_of_tensors_with_and_without_data_is_refused(compiled, name, where):
    """Else the result is memory that nobody wrote."""
    arguments = good_mix()
    arguments[where] = arguments[where].to("meta")
    last = arguments["out"] if name == "mix_into" else torch.float32
    given = [arguments[key] for key in ("images", "partner", "weight", "box", "mean", "std")]
    with pytest.raises(malformed.REFUSALS, match="meta"):
        getattr(OPERATORS, name)(*given, last)


@pytest.mark.parametrize("where", ["parameters", "anchors", "weights", "gradients"])
def test_a_penalty_of_tensors_with_and_without_data_is_refused(compiled, where):
    arguments = good_penalty()
    place = next(i for i, each in enumerate(arguments[where]) if each is not None)
    arguments[where][place] = arguments[where][place].to("meta")
    with pytest.raises(malformed.REFUSALS, match="meta"):
        OPERATORS.add_quadratic_gradient_(*arguments.values())


@pytest.mark.parametrize("weight", [-1.0, -2.0, 2.0, math.nan, math.inf])
def test_a_weight_out_of_range_is_refused_or_means_what_it_says(compiled, mixing, weight):
    for normalised in (False, True):
        for _ in each_set(compiled):
            arguments = good_mix()
            arguments["weight"] = torch.full((malformed.BATCH,), weight)
            if not normalised:
                arguments["mean"] = arguments["std"] = []
            malformed.try_mix(mixing, arguments)


def test_the_operators_themselves_name_argument_value_and_what_was_expected(compiled):
    def mixing(**changes):
        arguments = {**good_mix(), **changes}
        return OPERATORS.mix_into(*(arguments[key] for key in arguments if key != "dtype"))

    def adding(**changes):
        return OPERATORS.add_quadratic_gradient_(*{**good_penalty(), **changes}.values())

    two = torch.zeros(2)
    cases = [
        (
            mixing,
            {"partner": torch.tensor([0, 1, 7])},
            IndexError,
            "partner holds 7, expected 0 to 2",
        ),
        (mixing, {"partner": torch.tensor([0, -1, 1])}, IndexError, "partner holds -1, expected 0"),
        (mixing, {"partner": torch.zeros(3)}, TypeError, "partner has dtype Float, expected Long"),
        (mixing, {"weight": two}, ValueError, r"weight has shape \[2\], expected \[3\]"),
        (mixing, {"box": two.int()}, ValueError, r"box has shape \[2\], expected \[3, 4\]"),
        (mixing, {"images": two}, ValueError, r"images have shape \[2\], expected \(B, C, H, W\)"),
        (mixing, {"images": two.byte()}, ValueError, r"expected \(B, H, W, C\)"),
        (mixing, {"images": malformed.values(*malformed.SHAPE).double()}, TypeError, "images has"),
        (mixing, {"out": two}, ValueError, r"out is \[2\] on cpu, expected \[3, 3, 4, 5\] on cpu"),
        (mixing, {"out": torch.zeros(malformed.SHAPE).byte()}, TypeError, "out has dtype uint8"),
        (mixing, {"mean": [1.0]}, ValueError, "normalize has 1 means and 3 stds"),
        (
            mixing,
            {"mean": [1.0], "std": [1.0]},
            ValueError,
            "normalize has 1 means, the images 3 channels",
        ),
        (adding, {"trained": [1, 9]}, IndexError, "trained holds 9, expected 0 to 2"),
        (adding, {"trained": [1, 1]}, ValueError, "trained holds 1 twice"),
        (adding, {"trained": [1]}, ValueError, "2 gradients for 1 trained parameters"),
        (adding, {"strength": [1.0]}, ValueError, "3, 3, 3 and 1 elements; expected as many"),
        (adding, {"anchors": [None, two, None]}, ValueError, r"anchors\[1\] has shape \[2\]"),
        (adding, {"weights": [two, None, None]}, ValueError, r"weights\[0\] has shape \[2\]"),
        (adding, {"gradients": [two, two]}, ValueError, r"gradients\[0\] has shape \[2\]"),
        (
            adding,
            {"anchors": [None, torch.zeros(19).long(), None]},
            TypeError,
            r"anchors\[1\] has dtype Long, expected float32, float64, float16 or bfloat16",
        ),
    ]
    for call, changes, error, message in cases:
        with pytest.raises(error, match=message):
            call(**changes)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"weight": torch.ones(3, 1)}, ValueError, r"plan\.weight has shape \[3, 1\]"),
        ({"weight": torch.ones(3).double()}, TypeError, r"plan\.weight has dtype Double"),
        ({"weight": torch.ones(2)}, ValueError, r"plan\.box has shape \[3, 4\], expected \[2, 4\]"),
        ({"box": torch.zeros(3, 4)}, TypeError, r"plan\.box has dtype Float"),
        ({"box": torch.zeros(12, dtype=torch.int32)}, ValueError, r"plan\.box has shape \[12\]"),
        ({"height": 0}, ValueError, "size is 0×5, expected at least 1×1"),
        ({"width": -2}, ValueError, "size is 4×-2"),
        ({"box": torch.zeros(3, 4, dtype=torch.int32, device="meta")}, Exception, "meta"),
        ({"weight": torch.ones(3, device="meta")}, Exception, "meta"),
    ],
)
def test_label_weights_name_what_does_not_fit(compiled, changes, error, message):
    good = good_mix()
    arguments = {"weight": good["weight"], "box": good["box"], "height": 4, "width": 5}
    with pytest.raises(error, match=message):
        OPERATORS.label_weight(*{**arguments, **changes}.values())


def test_a_refused_call_has_changed_nothing(compiled):
    arguments = good_penalty()
    arguments["gradients"][1] = torch.zeros(1, 3).expand(2, 3)
    with pytest.raises(malformed.REFUSALS, match="single memory location"):
        OPERATORS.add_quadratic_gradient_(*arguments.values())
    assert torch.equal(arguments["gradients"][0], good_penalty()["gradients"][0])


# What every implementation must take or refuse alike.


@pytest.mark.parametrize("field", ["partner", "weight", "box"])
def test_a_plan_whose_numbers_lie_apart_is_mixed(implementation, field):
    """One λ or one box for the batch is an expanded tensor."""
    fields = {
        "partner": torch.tensor([1, 2, 0]),
        "weight": torch.tensor([0.25] * 3),
        "box": torch.tensor([[1, 1, 3, 4]] * 3, dtype=torch.int32),
    }
    images = malformed.values(*malformed.SHAPE)
    expected = mix(images, MixPlan(**fields, height=4, width=5))
    fields[field] = malformed.spaced(fields[field])
    assert torch.equal(mix(images, MixPlan(**fields, height=4, width=5)), expected)
    fields["weight"] = torch.tensor(0.25).expand(3)
    fields["box"] = torch.tensor([1, 1, 3, 4], dtype=torch.int32).expand(3, 4)
    assert torch.equal(mix(images, MixPlan(**fields, height=4, width=5)), expected)


@pytest.mark.parametrize("dtype", [torch.int32, torch.complex64, torch.float8_e4m3fn])
def test_a_parameter_that_is_no_floating_point_number_is_named(implementation, dtype):
    parameters = [nn.Parameter(torch.ones(3)), torch.ones(3).to(dtype)]
    with pytest.raises(TypeError, match=r"parameters\[1\] has dtype"):
        QuadraticPenalty(parameters, [None, None], [1.0, 1.0]).value()


def test_a_sparse_gradient_is_refused_and_left_as_it_is(implementation):
    parameter = nn.Parameter(torch.ones(4, 2))
    parameter.grad = torch.eye(4, 2).to_sparse()
    kept = parameter.grad.to_dense()
    with pytest.raises((RuntimeError, NotImplementedError, TypeError)):
        QuadraticPenalty([parameter], [None], [1.0]).add_gradient_()
    assert torch.equal(parameter.grad.to_dense(), kept)


@pytest.mark.parametrize("scale", ["much", None])
def test_a_scale_that_is_no_number_is_refused(implementation, scale):
    parameter = nn.Parameter(torch.ones(3))
    with pytest.raises(TypeError, match=r"scale is .*, expected a number"):
        QuadraticPenalty([parameter], [None], [1.0]).add_gradient_(scale)

import numpy as np
import pytest
import scipy.stats
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from ftbench.ops import MixPlan, mix, mixed_cross_entropy, sample_mix
from ftbench.ops.mix import _in_one
from tests.support import make_plan

EDGE = st.integers(-(2**31), 2**31 - 1) | st.integers(-3, 12)


@given(
    st.tuples(EDGE, EDGE, EDGE, EDGE),
    st.floats(0, 1, width=32),
    st.integers(1, 9),
    st.integers(1, 9),
)
def test_label_weight_is_the_share_of_the_pixels_that_stay(box, weight, height, width):
    box = (*map(min, box[:2], box[2:]), *map(max, box[:2], box[2:]))
    pasted = sum(
        box[0] <= row < box[2] and box[1] <= column < box[3]
        for row in range(height)
        for column in range(width)
    )
    plan = make_plan([0], [weight], [box], height, width)
    expected = weight * (1 - pasted / (height * width))
    assert plan.label_weight.dtype == torch.float32
    assert plan.label_weight.item() == pytest.approx(expected, abs=1e-6)
    top, left, bottom, right = plan.clipped_box[0].tolist()
    assert max(0, bottom - top) * max(0, right - left) == pasted
    assert 0 <= top <= bottom <= height
    assert 0 <= left <= right <= width


def without_operators(plan):
    """Return the labels' weights in plain torch, whatever serves."""
    weight = plan.weight.clone().requires_grad_()
    asked = MixPlan(plan.partner, weight, plan.box, plan.height, plan.width)
    return asked.label_weight.detach()


@given(st.integers(0, 70), st.integers(1, 300), st.integers(1, 300), st.integers(0, 999))
def test_label_weights_have_the_bits_of_plain_torch(batch, height, width, seed):
    generator = torch.Generator().manual_seed(seed)
    corners = torch.randint(-20, 330, (batch, 2, 2), generator=generator)
    box = corners.sort(dim=1).values.flatten(1)
    # Every second number of a wider tensor: a plan's need not lie together.
    weight = torch.rand(batch, 2, generator=generator)[:, 0]
    weight[::7] = 1.0
    plan = MixPlan(torch.arange(batch), weight, box.to(torch.int32), height, width)
    assert torch.equal(plan.label_weight, without_operators(plan))


def test_a_learned_share_gets_its_gradient():
    weight = torch.tensor([0.25, 0.5], requires_grad=True)
    box = torch.tensor([[0, 0, 2, 1], [0, 0, 0, 0]], dtype=torch.int32)
    MixPlan(torch.tensor([1, 0]), weight, box, 2, 2).label_weight.sum().backward()
    assert weight.grad.tolist() == [0.5, 1.0]


def test_label_weight_of_one_pixel_in_a_large_image_is_not_lost():
    plan = make_plan([0], [1.0], [[0, 0, 1, 1]], 2048, 2048)
    assert plan.label_weight.item() == pytest.approx(1 - 2.0**-22, abs=2.0**-24)
    assert plan.label_weight.item() < 1


@pytest.mark.parametrize("spread", [False, True], ids=["dense", "expanded"])
@pytest.mark.parametrize("batch", [0, 1, 3, 64])
def test_a_plan_sent_in_one_transfer_arrives_whole(batch, spread):
    plan = sample_mix(batch, 9, 8, mixup_alpha=1.0, cutmix_alpha=1.0, seed=0, step=3)
    fields = [plan.partner, plan.weight, plan.box]
    if spread:
        fields[1] = torch.tensor(0.5).expand(batch)
        fields[2] = torch.arange(8, dtype=torch.int32)[::2].expand(batch, 4)
    sent = []

    def move(data):
        sent.append(data)
        return data.clone()

    for found, field in zip(_in_one(fields, move), fields, strict=True):
        assert found.dtype == field.dtype
        assert torch.equal(found, field)
    assert [(len(data), data.dtype) for data in sent] == [(28 * batch, torch.uint8)]


def test_a_plan_cannot_be_changed():
    with pytest.raises(AttributeError, match="weight"):
        make_plan([0], [1.0], [[0] * 4], 4, 4).weight = torch.zeros(1)


GOOD = {
    "partner": torch.tensor([1, 0]),
    "weight": torch.ones(2),
    "box": torch.zeros(2, 4, dtype=torch.int32),
    "height": 4,
    "width": 4,
}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("partner", torch.tensor([1, 0], dtype=torch.int32)),
        ("partner", torch.tensor([[1, 0]])),
        ("partner", torch.tensor(0)),
        ("partner", [1, 0]),
        ("partner", torch.tensor([0, -1])),
        ("partner", torch.tensor([0, 2])),
        ("weight", torch.ones(2).bfloat16()),
        ("weight", torch.ones(2).double()),
        ("weight", torch.ones(3)),
        ("weight", torch.ones(2, 1)),
        ("weight", torch.ones(2).to("meta")),
        ("weight", torch.tensor([0.5, 1.5])),
        ("weight", torch.tensor([-0.1, 0.5])),
        ("weight", torch.tensor([float("nan"), 0.5])),
        ("weight", 0.5),
        ("box", torch.zeros(2, 4)),
        ("box", torch.zeros(4, dtype=torch.int32)),
        ("box", torch.zeros(3, 4, dtype=torch.int32)),
        ("box", torch.zeros(2, 4, dtype=torch.int32, device="meta")),
        ("box", torch.tensor([[0] * 4, [3, 0, 1, 4]], dtype=torch.int32)),
        ("box", torch.tensor([[0] * 4, [0, 3, 4, 1]], dtype=torch.int32)),
        ("height", 0),
        ("width", -1),
    ],
)
def test_a_malformed_plan_names_the_field(field, value):
    with pytest.raises((TypeError, ValueError, IndexError), match=field):
        MixPlan(**{**GOOD, field: value})


def test_a_plan_moves_whole():
    moved = MixPlan(**GOOD).to("meta")
    assert {moved.partner.device, moved.weight.device, moved.box.device} == {torch.device("meta")}
    assert (moved.height, moved.width) == (4, 4)


BOTH = {"mixup_alpha": 0.4, "cutmix_alpha": 1.0}


def as_tuple(plan):
    return plan.partner.tolist(), plan.weight.tolist(), plan.box.tolist()


def test_a_plan_is_a_function_of_seed_and_step():
    torch.manual_seed(1)
    first = as_tuple(sample_mix(8, 32, 32, **BOTH, seed=3, step=7))
    torch.manual_seed(2)
    sample_mix(8, 32, 32, **BOTH, seed=3, step=8)
    before = torch.get_rng_state()
    assert as_tuple(sample_mix(8, 32, 32, **BOTH, seed=3, step=7)) == first
    assert torch.equal(torch.get_rng_state(), before)
    assert as_tuple(sample_mix(8, 32, 32, **BOTH, seed=3, step=8)) != first
    assert as_tuple(sample_mix(8, 32, 32, **BOTH, seed=4, step=7)) != first


@pytest.mark.parametrize("batch", [0, 1, 5])
@pytest.mark.parametrize("given", [{}, {"mixup_alpha": 0.4}, {"cutmix_alpha": 1.0}])
def test_a_drawn_plan_would_pass_the_checks(batch, given):
    for step in range(20):
        drawn = sample_mix(batch, 5, 7, **given, seed=0, step=step)
        again = MixPlan(drawn.partner, drawn.weight, drawn.box, drawn.height, drawn.width)
        assert as_tuple(again) == as_tuple(drawn)
        assert torch.equal(drawn.box, drawn.clipped_box)


def test_plans_stay_what_stored_results_were_made_with():
    assert as_tuple(sample_mix(3, 8, 8, mixup_alpha=0.4, seed=0, step=0)) == (
        [0, 2, 1],
        [0.8987503051757812, 0.8987503051757812, 0.8987503051757812],
        [[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]],
    )
    assert as_tuple(sample_mix(3, 8, 8, cutmix_alpha=1.0, seed=0, step=0)) == (
        [0, 2, 1],
        [1.0, 1.0, 1.0],
        [[4, 1, 8, 5], [4, 1, 8, 5], [4, 1, 8, 5]],
    )


@pytest.mark.parametrize("alpha", [0.2, 1.0, 3.0])
def test_mixup_weights_are_beta_distributed(alpha):
    weights = [
        sample_mix(1, 4, 4, mixup_alpha=alpha, seed=0, step=step).weight.item()
        for step in range(1500)
    ]
    assert scipy.stats.kstest(weights, scipy.stats.beta(alpha, alpha).cdf).pvalue > 1e-3


def test_cutmix_areas_before_clipping_are_beta_distributed():
    # Where the box touches no border nothing was clipped: its area is 1 − λ.
    heights = []
    for step in range(4000):
        box = sample_mix(1, 10_000, 10_000, cutmix_alpha=1.0, seed=0, step=step).box[0].tolist()
        top, left, bottom, right = box
        if top > 0 and left > 0 and bottom < 10_000 and right < 10_000:
            assert bottom - top == right - left
            heights.append((bottom - top) / 10_000)
    # A box of side s is whole with probability (1 − s)², and s² is uniform: the density of s
    # among whole boxes is proportional to 2 s (1 − s)², that is Beta(2, 3).
    assert len(heights) > 300
    assert scipy.stats.kstest(heights, scipy.stats.beta(2, 3).cdf).pvalue > 1e-3


def test_cutmix_box_centres_are_uniform_over_the_image():
    boxes = [
        sample_mix(1, 1000, 500, cutmix_alpha=50.0, seed=1, step=step).box[0].tolist()
        for step in range(1500)
    ]
    # √(1 − λ) is near 0.71, so that a centre nearer than 0.353 to an edge clips it.
    sides = np.array(boxes)
    assert scipy.stats.binomtest(int((sides[:, 0] == 0).sum()), 1500, 0.353).pvalue > 1e-3
    assert scipy.stats.binomtest(int((sides[:, 2] == 1000).sum()), 1500, 0.353).pvalue > 1e-3
    assert scipy.stats.binomtest(int((sides[:, 1] == 0).sum()), 1500, 0.353).pvalue > 1e-3
    assert (sides >= 0).all()
    assert (sides[:, 2] <= 1000).all()
    assert (sides[:, 3] <= 500).all()


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("switch", [0.0, 0.25, 1.0])
def test_mixing_and_switching_happen_with_their_probabilities(probability, switch):
    kinds = {"none": 0, "mixup": 0, "cutmix": 0}
    for step in range(800):
        plan = sample_mix(
            2, 64, 64, mixup_alpha=1.0, cutmix_alpha=1.0, probability=probability,
            switch_probability=switch, seed=5, step=step,
        )  # fmt: skip
        boxed, weighted = bool(plan.box.any()), bool((plan.weight != 1).any())
        assert not (boxed and weighted)
        kinds["mixup" if weighted else "cutmix" if boxed else "none"] += 1
    # A box of no area, or a λ of exactly 1, may pass for an unmixed batch.
    for kind, share in (("mixup", probability * (1 - switch)), ("cutmix", probability * switch)):
        assert abs(kinds[kind] / 800 - share) <= 5 * (share * (1 - share) / 800) ** 0.5 + 0.01


@pytest.mark.parametrize("kind", ["mixup_alpha", "cutmix_alpha"])
def test_one_kind_alone_is_used_whatever_the_switch_says(kind):
    for switch in (0.0, 1.0):
        plan = sample_mix(4, 32, 32, **{kind: 1.0}, switch_probability=switch, seed=0, step=1)
        assert bool((plan.weight != 1).any()) == (kind == "mixup_alpha")
        assert bool(plan.box.any()) == (kind == "cutmix_alpha")


def test_no_mixing_is_a_plan_that_changes_nothing():
    plan = sample_mix(5, 8, 8, seed=0, step=0)
    assert plan.weight.tolist() == [1] * 5
    assert not plan.box.any()
    assert plan.label_weight.tolist() == [1] * 5


@pytest.mark.parametrize("batch", [0, 1, 2, 7, 33])
def test_every_batch_size_odd_ones_included_is_mixed_by_a_permutation(batch):
    plan = sample_mix(batch, 7, 5, **BOTH, seed=0, step=0)
    assert sorted(plan.partner.tolist()) == list(range(batch))
    assert mix(torch.randn(batch, 3, 7, 5), plan).shape == (batch, 3, 7, 5)


def test_extreme_alphas_give_weights_within_zero_and_one():
    for alpha in (1e-6, 1e-2, 1e3, 1e8):
        for step in range(20):
            weight = sample_mix(1, 4, 4, mixup_alpha=alpha, seed=0, step=step).weight.item()
            assert 0 <= weight <= 1


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("mixup_alpha", -0.1),
        ("mixup_alpha", float("nan")),
        ("cutmix_alpha", float("inf")),
        ("probability", 1.1),
        ("probability", float("nan")),
        ("switch_probability", -0.5),
        ("batch_size", -1),
        ("height", 0),
        ("width", -2),
    ],
)
def test_an_argument_out_of_range_is_named_with_its_value(argument, value):
    options = {"batch_size": 2, "height": 4, "width": 4, **BOTH, argument: value}
    with pytest.raises(ValueError, match=rf"{argument}.*{value}"):
        sample_mix(**options, seed=0, step=0)


# Faults of other libraries.


def soft_targets(labels, plan, classes):
    own = F.one_hot(labels, classes).double()
    weight = plan.label_weight.double().unsqueeze(1)
    return weight * own + (1 - weight) * own[plan.partner]


@pytest.mark.usefixtures("implementation")
def test_uint8_images_do_not_get_wholly_their_partners_targets():  # timm, mode="elem"
    images = torch.randint(256, (4, 6, 6, 3), dtype=torch.uint8)
    plan = make_plan([1, 0, 3, 2], [0.7] * 4, [[0] * 4] * 4, 6, 6)
    x = images.permute(0, 3, 1, 2).float()
    torch.testing.assert_close(mix(images, plan), 0.7 * x + 0.3 * x[plan.partner])
    assert plan.label_weight.tolist() == pytest.approx([0.7] * 4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_lose_no_label_weight(dtype):
    logits = torch.tensor([[8.0, 0.0], [0.0, 8.0]], dtype=dtype)
    plan = make_plan([1, 0], [0.999] * 2, [[0] * 4] * 2, 4, 4)  # 1.0 in bfloat16
    loss = mixed_cross_entropy(logits, torch.tensor([0, 1]), plan)
    expected = F.cross_entropy(logits.double(), soft_targets(torch.tensor([0, 1]), plan, 2))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert loss.item() > 1.5 * F.cross_entropy(logits.double(), torch.tensor([0, 1])).item()


def test_two_samples_of_one_label_keep_its_whole_weight():  # FFCV overwrites the one-hot entry
    logits, labels = torch.randn(4, 3), torch.tensor([2, 2, 2, 2])
    plan = make_plan([1, 0, 3, 2], [0.3] * 4, [[0] * 4] * 4, 4, 4)
    torch.testing.assert_close(
        mixed_cross_entropy(logits, labels, plan), F.cross_entropy(logits, labels)
    )


@pytest.mark.usefixtures("implementation")
def test_weight_is_the_images_own_share_and_not_the_partners():  # kornia once inverted λ
    images = torch.stack([torch.zeros(1, 2, 2), torch.ones(1, 2, 2)])
    plan = make_plan([1, 0], [0.9, 0.9], [[0] * 4] * 2, 2, 2)
    assert mix(images, plan).mean(dim=(1, 2, 3)).tolist() == pytest.approx([0.1, 0.9])
    assert plan.label_weight.tolist() == pytest.approx([0.9, 0.9])


@pytest.mark.usefixtures("implementation")
def test_label_weight_of_a_clipped_cutmix_box_is_what_the_image_shows():
    images = torch.zeros(2, 1, 9, 7)
    images[1] = 1
    clipped = 0
    for step in range(100):
        plan = sample_mix(2, 9, 7, cutmix_alpha=1.0, seed=0, step=step)
        if plan.partner.tolist() == [1, 0]:
            shown = 1 - mix(images, plan)[0].mean().item()
            assert plan.label_weight[0].item() == pytest.approx(shown, abs=1e-6)
            clipped += bool((plan.box[0] == torch.tensor([0, 0, 9, 7])).any())
    assert clipped > 10


@pytest.mark.usefixtures("implementation")
def test_odd_batches_are_mixed():  # torchvision's flip-based peers refuse them
    images, labels = torch.randn(3, 3, 4, 4), torch.tensor([0, 1, 2])
    plan = sample_mix(3, 4, 4, mixup_alpha=0.4, seed=0, step=0)
    assert mix(images, plan).shape == images.shape
    assert mixed_cross_entropy(torch.randn(3, 5), labels, plan).isfinite()

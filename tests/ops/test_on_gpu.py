"""The compiled operators on a GPU: the numbers of the CPU, one launch, streams and graphs."""

import pytest
import torch
from torch import nn

from ftbench import ops
from tests.support import make_images, make_plan

pytestmark = pytest.mark.cuda

NORMALIZE = ((0.4, 0.5, 0.6), (0.2, 0.3, 0.25))
FLOATS = [torch.float32, torch.float16, torch.bfloat16]
SIZES = [(1, 1, 1), (3, 7, 5), (3, 32, 32), (3, 33, 31), (4, 16, 24), (5, 9, 8)]


@pytest.fixture(autouse=True)
def _compiled():
    if not ops.implementation().serves(torch.device("cuda")):
        pytest.skip(f"no kernels for the GPU: {ops.implementation().reason}")


def plan_for(batch, height, width, kind):
    """Return a plan with a cycle, shared partners, clipped and full boxes, weights 0 and 1."""
    generator = torch.Generator().manual_seed(batch)
    partner = {
        "cycle": torch.randperm(batch, generator=generator),
        "shared": torch.randint(max(batch, 1), (batch,), generator=generator),
        "self": torch.arange(batch),
    }[kind]
    weight = torch.rand(batch, generator=generator)
    weight[::3], weight[1::5] = 1.0, 0.0
    top = torch.randint(-2, height, (batch,), generator=generator)
    left = torch.randint(-2, width, (batch,), generator=generator)
    box = torch.stack([top, left, top + height // 2, left + width // 2 + 1], dim=1)
    box[::4] = 0
    return make_plan(partner.tolist(), weight.tolist(), box.tolist(), height, width)


@pytest.mark.parametrize("kind", ["cycle", "shared", "self"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "strided"])
@pytest.mark.parametrize("dtype", [*FLOATS, torch.uint8])
def test_mixed_images_have_the_bits_of_the_cpu(dtype, layout, size, kind):
    channels, height, width = size
    images = make_images(13, channels, height, width, dtype, layout)
    plan = plan_for(13, height, width, kind)
    for wanted in FLOATS:
        found = ops.mix(images.cuda(), plan.to("cuda"), dtype=wanted)
        assert torch.equal(found.cpu(), ops.mix(images, plan, dtype=wanted))
        last = torch.empty(
            found.shape, dtype=wanted, device="cuda", memory_format=torch.channels_last
        )
        ops.mix(images.cuda(), plan.to("cuda"), out=last)
        assert torch.equal(last.cpu(), found.cpu())


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", [*FLOATS, torch.uint8])
def test_normalised_images_are_those_of_the_cpu(dtype, size):
    channels, height, width = size
    normalize = tuple([values[i % 3] for i in range(channels)] for values in NORMALIZE)
    images = make_images(9, channels, height, width, dtype)
    plan = plan_for(9, height, width, "cycle")
    for wanted in FLOATS:
        expected = ops.mix(images, plan, normalize=normalize, dtype=wanted)
        found = ops.mix(images.cuda(), plan.to("cuda"), normalize=normalize, dtype=wanted)
        torch.testing.assert_close(found.cpu(), expected)


@pytest.mark.parametrize("batch", [0, 1, 2, 13, 2500])
@pytest.mark.parametrize("kind", ["cycle", "shared", "self"])
@pytest.mark.parametrize("dtype", FLOATS)
def test_a_batch_mixed_in_place_is_right(dtype, kind, batch):
    images = make_images(batch, 3, 6, 4, dtype)
    plan = plan_for(batch, 6, 4, kind)
    expected = ops.mix(images, plan)
    moved = images.cuda()
    assert ops.mix(moved, plan.to("cuda"), out=moved) is moved
    assert torch.equal(moved.cpu(), expected)


def launches(function):
    """Return the names of the kernels that a call starts."""
    function()  # Warm-up: the first call loads the module.
    torch.cuda.synchronize()
    activities = [torch.profiler.ProfilerActivity.CUDA]
    # Without it, torch 2.10 to 2.12 warn of what a cycle's end does to events.
    with torch.profiler.profile(activities=activities, acc_events=True) as profile:
        function()
        torch.cuda.synchronize()
    return [
        event.name
        for event in profile.events()
        if event.device_type == torch.autograd.DeviceType.CUDA and "Memcpy" not in event.name
    ]


def test_mixing_is_one_launch():
    images = torch.randint(256, (16, 32, 32, 3), dtype=torch.uint8, device="cuda")
    plan = plan_for(16, 32, 32, "cycle").to("cuda")
    out = torch.empty(16, 3, 32, 32, dtype=torch.bfloat16, device="cuda")
    assert len(launches(lambda: ops.mix(images, plan, normalize=NORMALIZE, out=out))) == 1
    floats = torch.rand(16, 3, 32, 32, device="cuda")
    assert len(launches(lambda: ops.mix(floats, plan, out=floats))) == 1


def penalty_on(device, count=161):
    generator = torch.Generator().manual_seed(0)
    sizes = [1, 3, 64, 4096, 70_001, 16, 9]
    values = [torch.randn(sizes[i % 7], generator=generator) for i in range(count)]
    anchors = [
        torch.randn(v.shape, generator=generator) if i % 3 else None for i, v in enumerate(values)
    ]
    strength = [
        torch.rand(v.shape, generator=generator) if i % 2 else 0.5 for i, v in enumerate(values)
    ]
    parameters = [nn.Parameter(v.to(device)) for v in values]
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    moved = [s.to(device) if isinstance(s, torch.Tensor) else s for s in strength]
    return parameters, ops.QuadraticPenalty(
        parameters, [None if a is None else a.to(device) for a in anchors], moved
    )


def test_a_penalty_is_one_launch_and_one_for_the_sum():
    _, penalty = penalty_on("cuda")
    assert len(launches(penalty.add_gradient_)) == 2


@pytest.mark.parametrize("count", [1, 161, 900])  # 900 tensors take several launches
def test_a_penalty_is_that_of_the_cpu_and_repeats_its_bits(count):
    here, there = penalty_on("cpu", count), penalty_on("cuda", count)
    expected = here[1].add_gradient_(0.5)
    values = {there[1].value().item() for _ in range(3)}
    found = there[1].add_gradient_(0.5)
    assert values == {found.item()}
    torch.testing.assert_close(found.cpu(), expected)
    for mine, theirs in zip(there[0], here[0], strict=True):
        assert torch.equal(mine.grad.cpu(), theirs.grad)


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
def test_a_penalty_does_not_wait_for_the_gpu():
    _, penalty = penalty_on("cuda")
    penalty.add_gradient_()
    try:
        torch.cuda.set_sync_debug_mode("error")
        penalty.add_gradient_()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("batch", [0, 1, 13, 700])
def test_label_weights_are_those_of_the_cpu_in_one_launch(batch):
    plan = plan_for(batch, 24, 17, "cycle")
    moved = plan.to("cuda")
    assert torch.equal(moved.label_weight.cpu(), plan.label_weight)
    assert len(launches(lambda: moved.label_weight)) == min(batch, 1)


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
def test_a_mixed_loss_does_not_wait_for_the_gpu():
    logits, labels = torch.randn(9, 5, device="cuda"), torch.arange(9, device="cuda") % 5
    try:
        torch.cuda.set_sync_debug_mode("error")
        plan = plan_for(9, 16, 16, "cycle").to("cuda")
        found = ops.mixed_cross_entropy(logits, labels, plan, smoothing=0.1)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    expected = ops.mixed_cross_entropy(
        logits.cpu(), labels.cpu(), plan_for(9, 16, 16, "cycle"), smoothing=0.1
    )
    torch.testing.assert_close(found.cpu(), expected)


def test_a_captured_graph_mixes_what_the_plan_then_says():
    images = torch.rand(8, 3, 16, 16, device="cuda")
    out = torch.empty_like(images)
    plan = plan_for(8, 16, 16, "cycle").to("cuda")
    ops.mix(images, plan, out=out)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        ops.mix(images, plan, out=out)
    for kind in ("cycle", "shared", "self"):
        other = plan_for(8, 16, 16, kind)
        for name in ("partner", "weight", "box"):
            getattr(plan, name).copy_(getattr(other, name))
        images.copy_(torch.rand(8, 3, 16, 16))
        graph.replay()
        assert torch.equal(out.cpu(), ops.mix(images.cpu(), other))


def test_a_captured_graph_adds_the_penalty_of_what_the_parameters_then_are():
    parameters, penalty = penalty_on("cuda")
    penalty.add_gradient_()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        value = penalty.add_gradient_()
    for step in range(3):
        with torch.no_grad():
            for parameter in parameters:
                parameter.mul_(0.9)
                parameter.grad.zero_()
        graph.replay()
        replayed = [parameter.grad.clone() for parameter in parameters]
        for parameter in parameters:
            parameter.grad.zero_()
        assert penalty.add_gradient_().item() == value.item(), step
        assert all(torch.equal(p.grad, g) for p, g in zip(parameters, replayed, strict=True))


def test_the_current_stream_is_used():
    images = torch.rand(64, 3, 64, 64, device="cuda")
    plan = plan_for(64, 64, 64, "cycle").to("cuda")
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        images.fill_(2.0)
        mixed = ops.mix(images, plan)
    torch.cuda.current_stream().wait_stream(stream)
    torch.testing.assert_close(mixed, torch.full_like(mixed, 2.0))

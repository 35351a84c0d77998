"""What a GPU must share with the CPU: the same draws, the same ops, a deterministic mode."""

import json
import os
import subprocess
import sys

import pytest
import torch
from torch import nn

import ftbench
from ftbench import ops

pytestmark = pytest.mark.cuda

# cuBLAS looks once, at its first use in the process, so before any test.
WITHOUT_CUBLAS_SETTING = dict(os.environ)
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

STRATEGIES = ("scratch", "full", "progressive", "head-only", "l2sp", "ewc")


@pytest.fixture
def sweep(tiny, tmp_path):
    """Sweep the tiny benchmark on a device; returns the results by strategy."""

    def run(device, **settings):
        spec = ftbench.SweepSpec(
            tasks=("tiny",),
            backbones=("tiny-net",),
            strategies=STRATEGIES,
            sizes=(20,),
            seeds=(0,),
            device=device,
            recipe={"steps": 6, "batch_size": 8, "mixing": "mixup-or-cutmix(mixup=0.3)"},
            **settings,
        )
        out = tmp_path / f"{device.replace(':', '-')}-{len(list(tmp_path.iterdir()))}"
        catalogue = ftbench.load_catalogue(extra={"tiny": tiny})
        ftbench.run_sweep(spec, out, catalogue=catalogue)
        return ftbench.load_results(out).set_index("strategy")

    return run


def test_a_sweep_runs_on_the_gpu_with_the_rows_and_nearly_the_losses_of_the_cpu(sweep):
    here, there = sweep("cpu"), sweep("cuda")
    assert set(there["status"]) == {"ok"}, there["message"].to_dict()
    assert set(there["device_type"]) == {"cuda"}
    assert set(there["device"]) == {torch.cuda.get_device_name(0)}
    assert there["subset_fingerprint"].equals(here["subset_fingerprint"])
    assert there["key"].equals(here["key"])
    assert (there["peak_memory_bytes"] > 0).all()
    for strategy in STRATEGIES:
        # Dropout is drawn by the device, and TF32 rounds: near, not equal.
        expected = pytest.approx(here.loc[strategy, "nll"], rel=0.3)
        assert there.loc[strategy, "nll"] == expected, strategy


def test_auto_means_the_gpu(sweep):
    assert set(sweep("auto")["device_type"]) == {"cuda"}


DETERMINISTIC = """
import json, sys, ftbench
spec = ftbench.SweepSpec(
    strategies=("full", "ewc", "l2sp"), sizes=(50,), seeds=(0,), device="cuda", deterministic=True,
    recipe={"steps": 20, "mixing": "mixup(alpha=0.3)", "head": "plain(dropout=0.2)"},
)
ftbench.run_sweep(spec, sys.argv[1])
rows = ftbench.load_results(sys.argv[1])
names = ["strategy", "status", "message", "accuracy", "nll", "source_accuracy_after", "final_loss"]
print(json.dumps(rows[names].to_dict("records")))
"""


def test_deterministic_mode_gives_the_same_scores_in_two_fresh_processes(tmp_path):
    # Fresh, since cuBLAS reads its setting when it is first used.
    found = [
        json.loads(
            subprocess.run(
                [sys.executable, "-c", DETERMINISTIC, str(tmp_path / name)],
                env=WITHOUT_CUBLAS_SETTING,
                capture_output=True,
                text=True,
                check=True,
            ).stdout
        )
        for name in ("one", "two")
    ]
    assert [row["status"] for row in found[0]] == ["ok"] * 3, found[0]
    assert found[0] == found[1]


RESTORED = """
import sys, torch, ftbench
torch.manual_seed(5)
if sys.argv[1] != "none":
    spec = ftbench.SweepSpec(
        strategies=("full",), sizes=(20,), seeds=(0,), device="cuda", recipe={"steps": 2}
    )
    ftbench.run_sweep(spec, sys.argv[1])
print(torch.rand(4, device="cuda").tolist(), torch.rand(4).tolist())
"""


def test_the_first_run_of_a_process_restores_the_gpus_generator_as_well(tmp_path):
    untouched, after = (
        subprocess.run(
            [sys.executable, "-c", RESTORED, argument], capture_output=True, text=True, check=True
        ).stdout
        for argument in ("none", str(tmp_path / "out"))
    )
    assert after == untouched


def plan_of(size, step):
    return ops.sample_mix(size, 9, 7, mixup_alpha=0.8, cutmix_alpha=1.0, seed=3, step=step)


@pytest.mark.parametrize("step", range(4))  # mixup at some steps, CutMix at others
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8])
def test_mixed_images_are_those_of_the_cpu(step, dtype):
    plan = plan_of(6, step)
    if dtype == torch.uint8:
        images = torch.randint(0, 256, (6, 9, 7, 3), dtype=dtype)
    else:
        images = torch.rand(6, 3, 9, 7).to(dtype)
    normalize = ((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    expected = ops.mix(images, plan, normalize=normalize)
    found = ops.mix(images.cuda(), plan.to("cuda"), normalize=normalize)
    assert found.is_cuda
    torch.testing.assert_close(found.cpu(), expected)


@pytest.mark.parametrize("step", range(4))
def test_the_mixed_loss_and_its_gradient_are_those_of_the_cpu(step):
    plan, labels = plan_of(6, step), torch.tensor([0, 1, 2, 3, 4, 0])
    logits = torch.randn(6, 5, requires_grad=True)
    twin = logits.detach().cuda().requires_grad_()
    here = ops.mixed_cross_entropy(logits, labels, plan, smoothing=0.1)
    there = ops.mixed_cross_entropy(twin, labels.cuda(), plan.to("cuda"), smoothing=0.1)
    here.backward()
    there.backward()
    torch.testing.assert_close(there.detach().cpu(), here.detach())
    torch.testing.assert_close(twin.grad.cpu(), logits.grad)
    torch.testing.assert_close(plan.to("cuda").label_weight.cpu(), plan.label_weight)


def test_a_penalty_and_its_gradient_are_those_of_the_cpu():
    values = [torch.randn(5, 3), torch.randn(7)]
    anchors, strength = [torch.randn(5, 3), None], [torch.rand(5, 3), 0.5]
    found = {}
    for device in ("cpu", "cuda"):
        parameters = [nn.Parameter(value.to(device)) for value in values]
        penalty = ftbench.QuadraticPenalty(
            parameters,
            [anchors[0].to(device), None],
            [strength[0].to(device), strength[1]],
        )
        value = penalty.add_gradient_()
        assert value.device.type == device
        found[device] = [value.cpu(), *(parameter.grad.cpu() for parameter in parameters)]
    for there, here in zip(found["cuda"], found["cpu"], strict=True):
        torch.testing.assert_close(there, here)


@pytest.mark.parametrize("deterministic", [False, True])
def test_the_fisher_is_that_of_the_cpu(tiny, deterministic):
    backbone = tiny.backbone().build(pretrained=True)
    model = nn.Sequential(*(stage for _, stage in backbone.stages), backbone.source_head)
    inputs = tiny.task().source().samples.inputs
    names = [name for name, _ in model.named_parameters()]
    expected = ftbench.diagonal_fisher(model, inputs, parameters=names)
    allowed = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    torch.use_deterministic_algorithms(deterministic)
    try:
        found = ftbench.diagonal_fisher(model.cuda(), inputs.cuda(), parameters=names)
    finally:
        torch.use_deterministic_algorithms(False)
        torch.backends.cudnn.allow_tf32 = allowed
    for name in names:
        torch.testing.assert_close(found[name].cpu(), expected[name], rtol=1e-3, atol=1e-6)

"""``ftbench doctor``: which operators serve here, why, and how to get the faster ones."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import typer

from ftbench import environment, ops
from ftbench.ops import Implementation, backend, build, reference


def show(*, build_first: bool) -> int:
    """Print what serves; return 1 where it disagrees with plain torch."""
    if build_first:
        backend.forget_failures()
    serving = ops.implementation()
    problem = _disagreement(serving)
    for name, text in _lines(serving):
        typer.echo(f"{name:<12} {text}")
    agreement = (
        "nothing to compare: plain torch itself serves"
        if serving.operators is None
        else "mixing and penalties agree with plain torch"
    )
    typer.echo(f"{'check':<12} {problem or agreement}")
    typer.echo(f"{'faster':<12} {_advice(serving)}")
    return 1 if problem else 0


def _lines(serving: Implementation) -> Iterator[tuple[str, str]]:
    yield "operators", f"{serving.name}: {serving.reason}"
    if serving.path is not None:
        yield "binary", str(serving.path)
    yield "torch", f"{torch.__version__}, {torch.get_num_threads()} threads"
    yield "CPU", f"{environment.processor_name()}: {_cpu(serving)}"
    yield "GPU", _gpu(serving)
    yield "compiler", build.compiler() or "none (CXX, c++ and g++ were looked for)"
    yield "CUDA build", _cuda_build()
    yield "cache", str(backend.cache_folder())


def _cpu(serving: Implementation) -> str:
    if serving.module is None:
        return "plain torch"
    known = ", ".join(serving.module.instruction_sets())
    return f"{serving.instruction_set} in use, of {known}"


def _gpu(serving: Implementation) -> str:
    if not torch.cuda.is_available():
        compiled = f"; the binary has kernels for {serving.cuda}" if serving.cuda else ""
        return f"none that torch sees{compiled}"
    name = torch.cuda.get_device_name()
    if serving.serves(torch.device("cuda")):
        return f"{name}: kernels for {serving.cuda}"
    return f"{name}: plain torch"


def _cuda_build() -> str:
    try:
        chosen, why = build.cuda_decision()
    except build.BuildError as error:
        return str(error)
    return f"{'yes' if chosen else 'no'}: {why}"


def _advice(serving: Implementation) -> str:
    if serving.module is None:
        return serving.advice
    best = serving.module.instruction_sets()[-1]
    if serving.instruction_set != best:
        return f"unset FTBENCH_ISA to use {best}"
    if torch.cuda.is_available() and not serving.cuda:
        return "install the CUDA toolkit (nvcc), then `ftbench doctor --build`, to use the GPU"
    return "nothing: these are the fastest for this machine"


def _disagreement(serving: Implementation) -> str:
    """Return how the operators in use differ from plain torch on a small case, or nothing."""
    if serving.operators is None:
        return ""
    known = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    devices = [device for device in known if serving.serves(torch.device(device))]
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(4, 3, 9, 7, generator=generator)
    plan = ops.sample_mix(4, 9, 7, mixup_alpha=1.0, cutmix_alpha=1.0, seed=0, step=0)
    expected = reference.mix(
        images, plan.partner, plan.weight, plan.clipped_box, (0.5,) * 3, (0.2,) * 3
    )
    top, left, bottom, right = plan.clipped_box.unbind(1)
    label_weight = plan.weight * (1 - (bottom - top) * (right - left) / (9 * 7))
    for device in devices:
        moved = plan.to(device)
        found = ops.mix(images.to(device), moved, normalize=((0.5,) * 3, (0.2,) * 3))
        if not torch.allclose(found.cpu(), expected, atol=1e-5):
            return f"mixing on {device} differs from plain torch: please report it"
        if not torch.allclose(moved.label_weight.cpu(), label_weight, atol=1e-6):
            return f"the labels' weights on {device} differ from plain torch: please report it"
        parameter = torch.nn.Parameter(images.to(device))
        penalty = ops.QuadraticPenalty([parameter], [None], [1.0])
        values = torch.stack([penalty.value().detach(), penalty.add_gradient_()]).cpu()
        pulled = parameter.grad is not None and torch.allclose(parameter.grad.cpu(), images)
        if not pulled or not torch.allclose(values, 0.5 * images.square().sum(), rtol=1e-5):
            return f"penalties on {device} differ from plain torch: please report it"
    return ""

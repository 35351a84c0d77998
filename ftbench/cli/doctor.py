"""``ftbench doctor``: which operators serve here, why, and how to get the faster ones."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import typer

from ftbench import environment, ops
from ftbench.errors import FtbenchError
from ftbench.ops import Implementation, build, first_use, reference, serving


def show(*, build_first: bool) -> int:
    """Print what serves; return 1 where nothing can, or where it disagrees with plain torch."""
    if build_first:
        serving.choose_again()
        first_use.forget_failures()
    try:
        active = ops.implementation()
    except FtbenchError as error:
        return _show_refusal(str(error))
    problem = _checked(active)
    for name, text in _lines(active):
        _say(name, text)
    agreement = (
        "nothing to compare: plain torch itself serves"
        if active.operators is None
        else "mixing and penalties agree with plain torch"
    )
    _say("check", problem or agreement)
    _say("faster", _advice(active))
    return 1 if problem else 0


def _show_refusal(problem: str) -> int:
    """Print the same lines where a setting keeps everything that could serve from doing so."""
    nothing = Implementation("nothing", problem)
    for name, text in _lines(nothing):
        _say(name, text)
    _say("check", "nothing to compare: nothing serves until that setting is changed")
    return 1


def _say(name: str, text: str) -> None:
    typer.echo(f"{name:<12} {text}")


def _lines(active: Implementation) -> Iterator[tuple[str, str]]:
    yield "operators", f"{active.name}: {active.reason}"
    if active.path is not None:
        yield "binary", str(active.path)
    yield "torch", f"{torch.__version__}, {torch.get_num_threads()} threads"
    yield "CPU", f"{environment.processor_name()}: {_cpu(active)}"
    yield "GPU", _gpu(active)
    yield "compiler", build.compiler() or "none (CXX, c++ and g++ were looked for)"
    yield "CUDA build", _cuda_build()
    yield "cache", _cache()


def _cpu(active: Implementation) -> str:
    if active.module is None:
        return "plain torch" if active.name == "reference" else "nothing"
    known = ", ".join(active.module.instruction_sets())
    return f"{active.instruction_set} in use, of {known}"


def _gpu(active: Implementation) -> str:
    if not torch.cuda.is_available():
        compiled = f"; the binary has kernels for {active.cuda}" if active.cuda else ""
        return f"none that torch sees{compiled}"
    name = torch.cuda.get_device_name()
    if active.serves(torch.device("cuda")):
        return f"{name}: kernels for {active.cuda}"
    return f"{name}: {'nothing' if active.name == 'nothing' else 'plain torch'}"


def _cuda_build() -> str:
    try:
        chosen, why = serving.cuda_here()
    except build.BuildError as error:
        return str(error)
    return f"{'yes' if chosen else 'no'}: {why}"


def _cache() -> str:
    try:
        return str(first_use.cache_folder())
    except build.BuildError as error:
        return f"none: {error}; {error.advice}"


def _advice(active: Implementation) -> str:
    if active.module is None:
        return active.advice
    best = active.module.instruction_sets()[-1]
    if active.instruction_set != best:
        return f"unset FTBENCH_ISA to use {best}"
    if torch.cuda.is_available() and not active.cuda:
        return "install the CUDA toolkit (nvcc), then `ftbench doctor --build`, to use the GPU"
    return "nothing: these are the fastest for this machine"


def _checked(active: Implementation) -> str:
    try:
        return _disagreement(active)
    except RuntimeError as error:  # as from a GPU that the binary has no kernels for
        first = str(error).strip().partition("\n")[0]
        return f"the operators fail on a small case: {first}; FTBENCH_OPS=reference does without"


def _disagreement(active: Implementation) -> str:
    """Return how the operators in use differ from plain torch on a small case, or nothing."""
    if active.operators is None:
        return ""
    known = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    devices = [device for device in known if active.serves(torch.device(device))]
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

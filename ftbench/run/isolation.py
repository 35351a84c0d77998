"""What a run shares with its process: the device, and torch's global state."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import torch

from ftbench import rng
from ftbench.errors import SpecError
from ftbench.records import RunSpec


def resolve_device(device: str) -> str:
    """Return ``cpu`` or ``cuda:N`` for auto, cpu, cuda or cuda:N; SpecError where it is absent."""
    if device == "auto":
        return "cuda:0" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        return device
    index = int(device.partition(":")[2] or 0)
    if index >= torch.cuda.device_count():
        raise SpecError(
            f"device {device} is not there: torch sees {torch.cuda.device_count()} CUDA devices; "
            "use --device cpu or auto"
        )
    return f"cuda:{index}"


def wait_for(device: str) -> None:
    """Wait for queued GPU work, so that a clock stops when the work does."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


@contextlib.contextmanager
def isolated_execution(spec: RunSpec, device: str) -> Iterator[None]:
    """Fix what of torch's global state can change a score; put it back after the run.

    Threads, deterministic mode, default dtype, gradient mode, float32 precision, cuDNN and oneDNN
    flags, and the global generators: neither the caller's settings nor what an earlier strategy
    left behind may reach this run.
    """
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    precision, mode = torch.get_float32_matmul_precision(), torch.get_deterministic_debug_mode()
    if device.startswith("cuda"):
        torch.cuda.init()  # so that its generators are among those put back
    if spec.deterministic:
        # cuBLAS is deterministic only with this, and only where it is set before its first use.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(spec.threads)
    torch.set_default_dtype(torch.float32)
    torch.set_float32_matmul_precision("highest")
    torch.use_deterministic_algorithms(spec.deterministic)
    # Not flags(), which warns of settings that it sets besides.
    onednn = torch.backends.mkldnn.set_flags(True, None, None, None)[0]
    try:
        with (
            torch.enable_grad(),
            # What says "cuda" and no number means the run's own.
            torch.cuda.device(device) if device.startswith("cuda") else contextlib.nullcontext(),
            torch.backends.cudnn.flags(enabled=True, deterministic=spec.deterministic),
            rng.isolated(spec.seed, "run"),
        ):
            yield
    finally:
        torch.backends.mkldnn.set_flags(onednn, None, None, None)
        torch.set_deterministic_debug_mode(mode)
        torch.set_float32_matmul_precision(precision)
        torch.set_default_dtype(dtype)
        torch.set_num_threads(threads)

"""Where the numbers were taken: what stands under the table and inside the JSON report."""

from __future__ import annotations

import datetime
import importlib.metadata
import importlib.util
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

import torch

from benchmarks.cases import PEER_PACKAGES
from ftbench import environment
from ftbench.ops import build, serving

_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")


def core_count() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def core_seconds() -> tuple[float, float] | None:
    """Return how long all cores together have been busy, and have been; None if not Linux."""
    try:
        with Path("/proc/stat").open(encoding="ascii") as lines:
            ticks = [int(field) for field in next(lines).split()[1:9]]
    except OSError:
        return None
    idle, waiting = ticks[3:5]
    per_second = os.sysconf("SC_CLK_TCK")
    return (sum(ticks) - idle - waiting) / per_second, sum(ticks) / per_second


def describe(device: str) -> dict[str, Any]:
    """Return ``lines``, what to print about this machine, and which peers' packages are missing."""
    lines = {
        "processor": f"{environment.processor_name()}, {core_count()} cores, "
        f"{torch.get_num_threads()} threads used",
        "caches": _caches(),
        "allocator": _allocator(),
    }
    if device != "cpu":
        properties = torch.cuda.get_device_properties(device)
        lines["GPU"] = (
            f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, "
            f"compute capability {properties.major}.{properties.minor}, CUDA {torch.version.cuda}"
        )
    return {
        "lines": lines
        | {
            "versions": _versions(),
            "ftbench.ops": implementation_line(device),
            "torch's own kernels": torch.backends.cpu.get_cpu_capability(),
            "commit": str(environment.machine()["commit"]) or "unknown",
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        },
        "missing": [name for name in PEER_PACKAGES if importlib.util.find_spec(name) is None],
    }


def implementation_line(device: str) -> str:
    """Return which implementation of ``ftbench.ops`` serves ``device``, and the compiler here."""
    found = serving.implementation()
    words = [found.serving(torch.device(device))]
    compiler = build.compiler()
    if found.name == "compiled" and compiler is not None:
        told = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False)
        words.append(f"compiler here {told.stdout.splitlines()[0]}")
    if found.cuda and device != "cpu":
        words.append(f"GPU architectures {found.cuda}")
    return "; ".join(words)


def default_name(device: str) -> str:
    """Return a file's name for this machine: its CPU's or GPU's model, in lower case."""
    model = re.sub(r"\((r|tm|c)\)", " ", environment.device_name(device), flags=re.IGNORECASE)
    return slug(model) or device


def slug(text: str) -> str:
    """Return ``text`` in lower case with a hyphen for everything but letters and digits."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _allocator() -> str:
    """Return what was set for malloc: whether a peer's new buffers cost new pages hangs on it."""
    settings = [
        f"{name}={value}"
        for name, value in sorted(os.environ.items())
        if name.startswith("MALLOC_")
    ]
    preloaded = [Path(name).name for name in os.environ.get("LD_PRELOAD", "").split()]
    return ", ".join(settings + preloaded) or "the system's, as it comes"


def _versions() -> str:
    versions = [f"Python {platform.python_version()}"]
    for package in ("torch", *PEER_PACKAGES, "pytest-benchmark"):
        try:
            versions.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"{package} –")
    return ", ".join(versions)


def _caches() -> str:
    """Return the caches that the first core sees, where the system tells (Linux)."""
    found = []
    for folder in sorted(_CACHES.glob("index*")):
        level, kind, size = (
            (folder / name).read_text(encoding="ascii").strip()
            for name in ("level", "type", "size")
        )
        letter = {"Data": "d", "Instruction": "i"}.get(kind, "")
        found.append(f"L{level}{letter} {size.removesuffix('K')} KiB")
    return ", ".join(found) or "unknown"

"""Where a run took place: versions, machine, device and commit, recorded beside its scores."""

from __future__ import annotations

import functools
import importlib.metadata
import platform
import subprocess
from pathlib import Path
from typing import Any

PACKAGES = ("ftbench", "torch", "numpy", "scipy", "scikit-learn", "pandas", "pillow")


@functools.cache
def machine() -> dict[str, Any]:
    """Return the versions, platform, processor and commit of this process."""
    return {
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
        "cuda": _cuda_versions(),
        "platform": platform.platform(terse=True),
        "processor": processor_name(),
        "commit": _commit(Path(__file__).parent),
    }


def _cuda_versions() -> str:
    """Return the CUDA and cuDNN versions that torch uses, ``""`` where it sees no GPU."""
    import torch

    if not torch.cuda.is_available():
        return ""
    return f"{torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"


def processor_name() -> str:
    """Return the CPU's model name, or its architecture where the system does not tell."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:  # not Linux
        pass
    return platform.processor() or platform.machine()


def device_name(device: str) -> str:
    """Return what ``device`` is called: the GPU's product name, or the processor's."""
    import torch

    return torch.cuda.get_device_name(device) if device.startswith("cuda") else processor_name()


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _commit(folder: Path) -> str:
    """Return the commit of the checkout that holds this package, ``""`` for an installed copy."""
    if not (folder.parent / ".git").exists():
        return ""
    try:
        found = subprocess.run(
            ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):  # no git here
        return ""
    return found.stdout.strip()

"""The GPU's kernels on the CPU, as torch.ops.ftbench_emulated: compiled when a test first asks.

emulated.cpp includes the .cu files, emulation.h has CUDA's words for the CPU.
"""

import os
import platform
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import torch
from filelock import FileLock

from ftbench.ops import build
from ftbench.ops.first_use import cache
from tests.support import ROOT

HERE = Path(__file__).parent
# Why it cannot be had here; empty where it can.
MISSING = (
    "no C++ compiler was found"
    if build.compiler() is None
    else "the emulated GPU needs glibc"
    if platform.libc_ver()[0] != "glibc"
    else ""
)
COMPILE = "import sys; from tests.ops import emulated; emulated.compile_into(sys.argv[1])"


def operators():
    """Load the library; return its operators."""
    torch.ops.load_library(library())
    return torch.ops.ftbench_emulated


def library():
    """Return the compiled library; it is kept where operators compiled on first use are."""
    sources = build.sources_hash(build.source_folder()) + build.sources_hash(HERE)
    stamp = replace(build.wanted_stamp(), sources=sources, cuda="")
    folder = cache.cache_folder() / f"emulated-{cache.key_of(stamp)}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            partial = folder.with_suffix(".partial")
            done = subprocess.run(
                [sys.executable, "-c", COMPILE, str(partial)],
                cwd=ROOT,
                capture_output=True,
                text=True,
            )
            assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
            partial.replace(folder)
    return next(folder.glob("*.so"))


def compile_into(folder):
    """Compile the library in this process."""
    from torch.utils.cpp_extension import CppExtension

    csrc = build.source_folder()
    calls = [csrc / room / "call.cpp" for room in ("augment", "mix", "penalty")]
    sources = [HERE / "emulated.cpp", *calls]
    extension = CppExtension(
        "ftbench_emulated",
        [os.path.relpath(path) for path in sources],
        include_dirs=[str(csrc), str(HERE)],
        extra_compile_args=build.compile_flags(),
        extra_link_args=build.link_flags(),
    )
    build.compile_into(Path(folder), extension)

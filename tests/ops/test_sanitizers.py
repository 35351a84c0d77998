"""The tests of mixing and penalties again, on a build that watches every address and overflow."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ftbench.ops import build
from tests.support import ROOT

pytestmark = [
    pytest.mark.sanitize,
    pytest.mark.slow,
    pytest.mark.skipif(build.compiler() is None, reason="no C++ compiler"),
]
WATCHED = ("mix", "penalty", "malformed", "gpu_programs", "compiled_mix", "compiled_penalty")
# Compiled before the sanitizer's library is loaded, which would watch the compiler as well.
COMPILE = """
from ftbench.ops import build, first_use
from tests.ops import emulated
first_use.binary_for(build.wanted_stamp())
emulated.MISSING or emulated.library()
"""


def sanitizer_libraries():
    """Return what to load first: the C++ library too, where the sanitizer finds what throws."""
    names = ("libasan.so", "libstdc++.so")
    asked = ([build.compiler(), f"-print-file-name={name}"] for name in names)
    found = [subprocess.run(one, capture_output=True, text=True).stdout.strip() for one in asked]
    if not all(Path(library).is_absolute() for library in found):
        pytest.skip("this compiler has no AddressSanitizer")
    return found


def test_the_operators_have_no_fault_that_sanitizers_see():
    libraries = sanitizer_libraries()
    environ = {
        **os.environ,
        "FTBENCH_SANITIZE": "address,undefined",
        "FTBENCH_CUDA": "0",
        "FTBENCH_OPS": "compiled",
    }
    done = subprocess.run(
        [sys.executable, "-c", COMPILE], env=environ, cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-4000:]
    paths = [str(Path(__file__).with_name(f"test_{name}.py")) for name in WATCHED]
    options = ["-q", "-x", "-m", "not slow", "--hypothesis-profile", "deep"]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            *options,
            *paths,
            "-p",
            "no:cacheprovider",
            "-p",
            "no:xdist",
        ],
        env={
            **environ,
            "LD_PRELOAD": " ".join(libraries),
            "ASAN_OPTIONS": "detect_leaks=0",
            "UBSAN_OPTIONS": "print_stacktrace=1",
        },
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]

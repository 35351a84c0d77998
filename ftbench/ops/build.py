"""Building the compiled operators: ahead of time by setup.py, or on first use into a cache.

Both ways take the same sources, flags and stamp, so a binary says what it was built from and for.
This module imports nothing of ftbench: setup.py reads it where ftbench is not installed yet.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NAME = "ftbench.ops._C"
DEFAULT_ARCHITECTURES = "8.0;9.0+PTX"
_STAMP = re.compile(rb"ftbench-stamp:([^:\0]*):")


class BuildError(Exception):
    """The operators cannot be built here; the message says why and what would help."""


@dataclass(frozen=True)
class Stamp:
    """What a binary was built from and for. ``cuda`` names its architectures, or is empty."""

    torch: str
    sources: str
    cuda: str
    sanitize: str = ""

    def __str__(self) -> str:
        """Return it as one word that the preprocessor takes."""
        return "~".join([self.torch, self.sources, self.cuda or "cpu", self.sanitize or "plain"])

    def serves(self, wanted: Stamp) -> bool:
        """Return whether a binary with this stamp does what one with the wanted stamp would."""
        same = (self.torch, self.sources, self.sanitize)
        return same == (wanted.torch, wanted.sources, wanted.sanitize) and (
            self.cuda == wanted.cuda or not wanted.cuda
        )


def read_stamp(binary: Path) -> Stamp | None:
    """Return a binary's stamp without loading it; None where it has none."""
    found = _STAMP.search(binary.read_bytes())
    if not found:
        return None
    torch, sources, cuda, sanitize = found.group(1).decode().split("~")
    return Stamp(
        torch, sources, "" if cuda == "cpu" else cuda, "" if sanitize == "plain" else sanitize
    )


def source_folder() -> Path:
    """Return csrc/: in an installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent.parent
    for folder in (package / "csrc", package.parent / "csrc"):
        if (folder / "ops.cpp").is_file():
            return folder
    raise BuildError("the C++ sources are missing from this installation; reinstall ftbench")


def sources_hash(folder: Path) -> str:
    """Return a short hash of every source file and of this recipe."""
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for path in sorted(folder.rglob("*")):
        if path.suffix in {".cpp", ".cu", ".h"}:
            digest.update(f"{path.relative_to(folder).as_posix()}\0".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def sanitizers(environ: Mapping[str, str] = os.environ) -> str:
    """Return FTBENCH_SANITIZE, such as ``address,undefined``: a build for finding faults."""
    return environ.get("FTBENCH_SANITIZE", "").strip()


def cuda_root() -> Path | None:
    """Return the CUDA toolkit's folder, None where there is no nvcc.

    nvcc is asked, since what is on the PATH may be a script that calls it.
    """
    named = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    if named:
        return Path(named)
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        return None
    told = subprocess.run(
        [nvcc, "--dryrun", "-x", "cu", os.devnull], capture_output=True, text=True, check=False
    )
    top = re.search(r"^#\$ TOP=(.*)$", told.stderr, re.MULTILINE)
    return Path(top.group(1)).resolve() if top else Path(nvcc).resolve().parent.parent


def cuda_decision() -> tuple[bool, str]:
    """Return whether to build for CUDA, and why.

    FTBENCH_CUDA=0 or 1 decides; otherwise nvcc and a CUDA build of torch do. Whether a GPU is
    plugged in does not matter.
    """
    import torch

    asked = os.environ.get("FTBENCH_CUDA", "").strip()
    if asked not in {"", "0", "1"}:
        raise BuildError(f"FTBENCH_CUDA is {asked!r}, expected 0 or 1")
    if asked == "0":
        return False, "FTBENCH_CUDA=0"
    root = cuda_root()
    missing = ("no nvcc was found" if root is None else None) or (
        "torch is built without CUDA" if torch.version.cuda is None else None
    )
    if missing and asked == "1":
        raise BuildError(f"FTBENCH_CUDA=1, but {missing}")
    if missing:
        return False, missing
    return True, f"nvcc in {root}" if asked == "" else "FTBENCH_CUDA=1"


def architectures() -> str:
    """Return TORCH_CUDA_ARCH_LIST, or sm_80, sm_90 and PTX for what comes after them."""
    return os.environ.get("TORCH_CUDA_ARCH_LIST", "").strip() or DEFAULT_ARCHITECTURES


def wanted_stamp() -> Stamp:
    """Return the stamp of a binary built now, from these sources for this torch."""
    import torch

    with_cuda, _ = cuda_decision()
    return Stamp(
        torch=torch.__version__,
        sources=sources_hash(source_folder()),
        cuda=re.sub(r"[;, ]+", "/", architectures()) if with_cuda else "",
        sanitize=sanitizers().replace(",", "."),
    )


def compiler() -> str | None:
    """Return the C++ compiler's path: CXX, or what the PATH has."""
    named = os.environ.get("CXX")
    return shutil.which(named or "c++") or (None if named else shutil.which("g++"))


def compile_flags() -> dict[str, list[str]]:
    """Return what the C++ compiler and nvcc are told."""
    # Contraction would round otherwise than the definition does; the kernels say where they fuse.
    cxx = ["-O3", "-g0", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"]
    # Vectors never cross a call, and GCC 12 warns of its own intrinsics.
    cxx += ["-Wno-psabi", "-Wno-maybe-uninitialized"]
    if sys.platform.startswith("linux"):
        cxx.append("-fopenmp")  # at::parallel_for is serial without it, and does not say so
    if sanitizers():
        cxx += [f"-fsanitize={sanitizers()}", "-fno-sanitize-recover=all", "-g1", "-Og"]
    return {"cxx": cxx, "nvcc": ["-O3", "--fmad=false", "--expt-relaxed-constexpr"]}


def link_flags() -> list[str]:
    """Return what the linker is told."""
    link = [f"-fsanitize={sanitizers()}"] if sanitizers() else []
    if sys.platform.startswith("linux"):
        link.append("-fopenmp")
    return link


def extension() -> Any:
    """Return the extension for torch's BuildExtension. Sets CUDA_HOME, which torch reads once."""
    stamp = wanted_stamp()
    if stamp.cuda:
        os.environ["CUDA_HOME"] = str(cuda_root())
        os.environ.setdefault("TORCH_CUDA_ARCH_LIST", DEFAULT_ARCHITECTURES)
    from torch.utils import cpp_extension

    folder = source_folder()
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.cpp"))
    if stamp.cuda:
        names += sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.cu"))
    else:
        names.remove("cuda.cpp")
    make = cpp_extension.CUDAExtension if stamp.cuda else cpp_extension.CppExtension
    built: Any = make  # torch ships no types for it
    return built(
        NAME,
        [os.path.relpath(folder / name) for name in names],
        extra_compile_args=compile_flags(),
        extra_link_args=link_flags(),
        define_macros=[("FTBENCH_STAMP", str(stamp))],
    )


def build_into(folder: Path) -> Path:
    """Build in this process, leaving the binary in ``folder``; returns its path."""
    if compiler() is None:
        raise BuildError("no C++ compiler was found; install g++ (Debian, Ubuntu: apt install g++)")
    return compile_into(folder, extension())


def compile_into(folder: Path, built: Any) -> Path:
    """Compile an extension, leaving the binary in ``folder``; returns its path."""
    from setuptools import Distribution
    from torch.utils.cpp_extension import BuildExtension

    distribution = Distribution({"name": "ftbench", "ext_modules": [built]})
    command = BuildExtension(distribution, use_ninja=shutil.which("ninja") is not None)
    command.build_lib, command.build_temp = str(folder), str(folder / "objects")
    command.ensure_finalized()
    command.run()
    binary = folder / Path(command.get_ext_filename(built.name))
    shutil.rmtree(folder / "objects", ignore_errors=True)
    return binary


if __name__ == "__main__":
    sys.stdout.write(f"{build_into(Path(sys.argv[1]))}\n")

"""Building the compiled operators: ahead of time by setup.py, or on first use into a cache.

Both ways take the same sources, flags and stamp, so a binary says what it was built from and for.
This module imports nothing of ftbench: setup.py reads it where ftbench is not installed yet, and
a first use runs it by its path, in a process of its own.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NAME = "ftbench.ops._C"
DEFAULT_ARCHITECTURES = "8.0;9.0+PTX"
COMPILATION_FAILED = 3  # what the process of a first use exits with where compiling failed
_STAMP = re.compile(rb"ftbench-stamp:([^:\0]*):")
_ANSWER_SECONDS = 60  # for a program that is asked what it is


class BuildError(Exception):
    """The operators cannot be built here; the message says why, ``advice`` what would help."""

    def __init__(self, message: str, advice: str = "") -> None:
        super().__init__(message)
        self.advice = advice or "remove what stands in the way, then `ftbench doctor --build`"


class CompilationError(BuildError):
    """Compiling was tried and failed, now or before."""


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
    """Return a binary's stamp without loading it; None where it has none that can be read."""
    found = _STAMP.search(binary.read_bytes())
    words = found.group(1).decode(errors="replace").split("~") if found else []
    if len(words) != 4:
        return None
    torch, sources, cuda, sanitize = words
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


def ask(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Return what a program answers; BuildError where it cannot be run or does not end."""
    try:
        return subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=_ANSWER_SECONDS
        )
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"{command[0]} cannot be run: {error}") from error


def cuda_toolkit() -> tuple[Path | None, str]:
    """Return the CUDA toolkit's folder and ``""``, or None and why there is none."""
    for name in ("CUDA_HOME", "CUDA_PATH"):
        named = os.environ.get(name)
        if named and not (Path(named) / "bin" / "nvcc").is_file():
            return None, f"{name} is {named}, which has no bin/nvcc"
        if named:
            return Path(named), ""
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        return None, "no nvcc was found"
    # nvcc is asked, since what is on the PATH may be a script that calls it.
    try:
        told = ask([nvcc, "--dryrun", "-x", "cu", os.devnull])
    except BuildError as error:
        return None, str(error)
    if told.returncode != 0:
        return None, f"{nvcc} fails with exit status {told.returncode}: {_last_line(told.stderr)}"
    top = re.search(r"^#\$ TOP=(.*)$", told.stderr, re.MULTILINE)
    return Path(top.group(1)).resolve() if top else Path(nvcc).resolve().parent.parent, ""


def _last_line(text: str) -> str:
    return text.strip().rpartition("\n")[2] or "it says nothing"


def cuda_decision() -> tuple[bool, str]:
    """Return whether to build for CUDA ahead of time, and why.

    FTBENCH_CUDA=0 or 1 decides; otherwise nvcc and a CUDA build of torch do. Whether a GPU is
    plugged in does not matter.
    """
    import torch

    asked = os.environ.get("FTBENCH_CUDA", "").strip()
    if asked not in {"", "0", "1"}:
        raise BuildError(f"FTBENCH_CUDA is {asked!r}, expected 0 or 1")
    if asked == "0":
        return False, "FTBENCH_CUDA=0"
    root, missing = cuda_toolkit()
    if not missing and torch.version.cuda is None:
        missing = "torch is built without CUDA"
    if missing and asked == "1":
        raise BuildError(f"FTBENCH_CUDA=1, but {missing}")
    if missing:
        return False, missing
    return True, f"nvcc in {root}" if asked == "" else "FTBENCH_CUDA=1"


def architectures() -> str:
    """Return TORCH_CUDA_ARCH_LIST, or sm_80, sm_90 and PTX for what comes after them."""
    return os.environ.get("TORCH_CUDA_ARCH_LIST", "").strip() or DEFAULT_ARCHITECTURES


def wanted_stamp(*, cuda: bool | None = None, sources: Path | None = None) -> Stamp:
    """Return the stamp of a binary built now for this torch: from csrc/, or a copy of it.

    ``cuda`` says whether for CUDA; cuda_decision() does by default.
    """
    import torch

    with_cuda = cuda_decision()[0] if cuda is None else cuda
    return Stamp(
        torch=torch.__version__,
        sources=sources_hash(sources or source_folder()),
        cuda=re.sub(r"[;, ]+", "/", architectures()) if with_cuda else "",
        sanitize=sanitizers().replace(",", "."),
    )


def compiler_command() -> list[str]:
    """Return the C++ compiler's path and the words after it, from CXX or the PATH; [] for none."""
    named = os.environ.get("CXX", "").strip()
    try:
        words = shlex.split(named)  # "ccache g++" is usual
    except ValueError:
        words = [named]
    first = shutil.which(words[0]) if words else shutil.which("c++") or shutil.which("g++")
    return [first, *words[1:]] if first else []


def compiler() -> str | None:
    """Return the C++ compiler's path: CXX, or what the PATH has."""
    return next(iter(compiler_command()), None)


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


def extension(sources: Path | None = None) -> Any:
    """Return the extension for torch's BuildExtension, from csrc/ or a copy of it.

    Sets CUDA_HOME, which torch reads once.
    """
    folder = sources or source_folder()
    stamp = wanted_stamp(sources=folder)
    if stamp.cuda:
        os.environ["CUDA_HOME"] = str(cuda_toolkit()[0])
        os.environ.setdefault("TORCH_CUDA_ARCH_LIST", DEFAULT_ARCHITECTURES)
    from torch.utils import cpp_extension

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


def build_here(wanted: str, libraries: Sequence[str]) -> int:
    """Build in the working folder, as the process of a first use; return its exit status.

    ``libraries`` are the folders that the asking process has torch and setuptools from.
    """
    import_from(libraries)
    # A copy: its objects lie in this folder, and nobody edits it meanwhile.
    shutil.copytree(source_folder(), "csrc")
    built = extension(Path("csrc"))
    found = str(wanted_stamp(sources=Path("csrc")))
    if found != wanted:
        raise BuildError(f"what would be built here is {found}, not {wanted}")
    try:
        compile_into(Path.cwd(), built)
    except (ImportError, OSError, MemoryError):
        raise  # not the compiler's word
    except Exception:
        traceback.print_exc()
        return COMPILATION_FAILED
    return 0


def import_from(libraries: Sequence[str]) -> None:
    """Let imports find these folders, after Python's own modules: no file replaces one of them."""
    standard = os.path.dirname(os.__file__)
    own = [
        i
        for i, path in enumerate(sys.path)
        if path == standard or os.path.basename(path) == "lib-dynload"
    ]
    after = max(own, default=-1) + 1
    sys.path[after:after] = libraries


if __name__ == "__main__":
    sys.exit(build_here(sys.argv[1], sys.argv[2:]))

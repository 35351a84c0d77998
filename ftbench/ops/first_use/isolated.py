"""Compiling in a process that sees nothing of the user's folder, and what came of it."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from ftbench.ops import build

# Far above any machine's need; a compiler that waits for a server would otherwise wait for ever.
_LIMIT_SECONDS = 3600
_LIBRARIES = ("torch", "setuptools", "ninja")

# Nothing that changes what Python imports, or how setuptools builds: the recipe says that.
_UNSEEN_PREFIXES = ("PYTHON", "DISTUTILS", "DIST_EXTRA", "SETUPTOOLS")
_UNSEEN = {"CFLAGS", "CXXFLAGS", "CPPFLAGS", "LDFLAGS", "ARFLAGS", "CPP", "LDSHARED", "LDCXXSHARED"}
_SEEN = {"PYTHONHOME", "PYTHONPLATLIBDIR"}  # without which this Python may not start

# A compiler's or linker's word on what it was given, as gcc, clang, ld and nvcc say it.
_DIAGNOSIS = re.compile(r"^(?!ninja:).*(\berror: |\berror #|undefined reference|fatal +:)", re.M)
# The machine's trouble, which they also call errors.
_TROUBLE = re.compile(
    r"No space left|Disk quota|Read-only file system|Input/output error|Stale file handle"
    r"|annot allocate|out of memory|memory exhausted|bad_alloc|Resource temporarily"
    r"|Too many open files|Permission denied|Operation not permitted|Text file busy"
    r"|Killed|Terminated|Interrupt|died due to signal|signal terminated|terminated with signal"
    r"|internal compiler error|Segmentation fault|Bus error|Illegal instruction|core dumped"
    r"|cannot execute|Exec format|timed out|Connection|license",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Outcome:
    """What came of compiling: a binary, or None and what was said.

    ``verdict`` tells whether the compiler refused these sources. Otherwise something cut it short
    that may be gone the next time; ``summary`` says in a few words what.
    """

    binary: Path | None
    said: str = ""
    verdict: bool = False
    summary: str = ""


def compile_apart(wanted: build.Stamp, folder: Path) -> Outcome:
    """Compile a binary with this stamp in an empty folder, in a process of its own."""
    tools, temporary, log = folder / "tools", folder / "tmp", folder / "log.txt"
    tools.mkdir()
    temporary.mkdir()
    libraries = library_folders()
    ninja = _ninja(libraries)
    if ninja is not None:
        (tools / "ninja").symlink_to(ninja)
    command = [sys.executable, "-P", *(["-s"] if sys.flags.no_user_site else [])]
    command += [os.path.abspath(build.__file__), str(wanted), *libraries]
    status = _run(command, folder, _environment(wanted, tools, temporary), log)
    said = log.read_text(encoding="utf-8", errors="replace")
    binary = next(iter(sorted(folder.glob("ftbench/**/_C*.so"))), None)
    if status == 0 and binary is not None:
        stamp = build.read_stamp(binary)
        if stamp is not None and stamp.serves(wanted):
            return Outcome(binary)
        return Outcome(None, said, summary=f"a binary for {stamp or 'nothing known'} came of it")
    verdict = status == build.COMPILATION_FAILED and is_verdict(said)
    return Outcome(None, said, verdict, _summary(status, said))


def is_verdict(said: str) -> bool:
    """Return whether a compiler's output is its word on the sources, not the machine's trouble."""
    return bool(_DIAGNOSIS.search(said)) and not _TROUBLE.search(said)


def library_folders() -> list[str]:
    """Return the folders that have torch, setuptools, ninja and what they require, in order."""
    folders = {Path(torch.__file__).absolute().parent.parent}
    waiting, known = list(_LIBRARIES), set(_LIBRARIES)
    while waiting:
        try:
            found = importlib.metadata.distribution(waiting.pop())
        except importlib.metadata.PackageNotFoundError:
            continue  # not needed here, or not there: the build says so
        folders.add(Path(str(found.locate_file(""))).absolute())
        required = set(_required(found)) - known
        known |= required
        waiting += required
    places = list(enumerate(map(os.path.normpath, sys.path)))
    order = {path: i for i, path in reversed(places)}  # the first counts
    return sorted(map(str, folders), key=lambda folder: order.get(folder, -1))


def _required(found: importlib.metadata.Distribution) -> Iterator[str]:
    for line in found.requires or ():
        name = re.match(r"[\w.-]+", line)
        if name and "extra ==" not in line:
            yield name.group()


def _ninja(libraries: list[str]) -> str | None:
    """Return this interpreter's ninja, else the PATH's: the interpreter's is often not on it."""
    folders = [os.path.dirname(sys.executable), sysconfig.get_path("scripts")]
    folders += [os.path.join(folder, "bin") for folder in libraries]
    return shutil.which("ninja", path=os.pathsep.join(folders)) or shutil.which("ninja")


def _environment(wanted: build.Stamp, tools: Path, temporary: Path) -> dict[str, str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in _SEEN or not (name.startswith(_UNSEEN_PREFIXES) or name in _UNSEEN)
    }
    compiler = build.compiler_command()
    if compiler and not kept.get("CXX"):
        kept["CXX"] = compiler[0]  # torch looks for c++ alone
    return {
        **kept,
        "PATH": f"{tools}{os.pathsep}{kept.get('PATH', os.defpath)}",
        "FTBENCH_CUDA": "1" if wanted.cuda else "0",
        "TMPDIR": str(temporary),  # another may be full, or forbid running what is in it
        "LC_ALL": "C.UTF-8",  # its diagnoses are read
    }


def _run(command: list[str], folder: Path, environ: dict[str, str], log: Path) -> int | None:
    """Run to the end; return the exit status, None where it did not start or took too long."""
    with log.open("wb") as out:
        try:
            # A session of its own, so that whatever it started can be ended with it.
            child = subprocess.Popen(
                command,
                cwd=folder,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            out.write(f"{command[0]} cannot be run: {error}\n".encode())
            return None
        try:
            return child.wait(timeout=_LIMIT_SECONDS)
        except subprocess.TimeoutExpired:
            out.write(f"not done after {_LIMIT_SECONDS} s\n".encode())
            return None
        finally:
            if child.returncode is None:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()


def _summary(status: int | None, said: str) -> str:
    trouble = _TROUBLE.search(said)
    if trouble:
        line = said[said.rfind("\n", 0, trouble.start()) + 1 :].partition("\n")[0]
        return line.strip()[:200]
    if status is not None and status < 0:
        return f"it was ended by signal {-status}"
    return said.strip().rpartition("\n")[2].strip()[:200] or f"exit status {status}"

"""The folder of operators that were compiled on first use: where it is, and what is found in it."""

from __future__ import annotations

import hashlib
import importlib.machinery
import os
from pathlib import Path

from ftbench.ops import build

ELSEWHERE = "set FTBENCH_CACHE to a folder that you can write to"


def cache_folder() -> Path:
    """Return where operators compiled on first use are kept: FTBENCH_CACHE, or the user's cache.

    Raises BuildError where there is no such folder, as for a user without a home.
    """
    named = os.environ.get("FTBENCH_CACHE")
    base = os.environ.get("XDG_CACHE_HOME")
    if named:
        folder = named
    elif base and os.path.isabs(base):  # a relative one is to be ignored, its specification says
        folder = os.path.join(base, "ftbench")
    else:
        folder = "~/.cache/ftbench"
    found = os.path.expanduser(folder)
    if found.startswith("~"):
        raise build.BuildError("there is no home folder to keep compiled operators in", ELSEWHERE)
    try:
        return Path(found).absolute()
    except OSError as error:  # a relative one, in a folder that is gone
        raise build.BuildError(f"there is no folder {found}: {error}", ELSEWHERE) from error


def find(folder: Path, wanted: build.Stamp) -> Path | None:
    """Return a finished binary that serves what is wanted; None where there is none.

    One by another compiler serves where this machine has none that works.
    """
    try:
        version = compiler_version()
        exact = f"ops-{key_of(wanted, version)}"
    except build.BuildError:
        version, exact = None, ""
    # Its own folder first, then those of binaries that do more.
    folders = sorted(folder.glob("ops-*"), key=lambda each: (each.name != exact, each.name))
    for each in folders:
        for binary in sorted(each.glob(f"**/_C{importlib.machinery.EXTENSION_SUFFIXES[0]}")):
            stamp = _stamp_of(binary)
            if stamp is None or not stamp.serves(wanted):
                continue
            if version is None or each.name == f"ops-{key_of(stamp, version)}":
                return binary
    return None


def _stamp_of(binary: Path) -> build.Stamp | None:
    try:
        return build.read_stamp(binary)
    except OSError:  # another user's, who keeps it to himself
        return None


def key_of(stamp: build.Stamp, version: str | None = None) -> str:
    """Return the cache's name for a binary: its stamp, this Python's and the compiler's.

    ``version`` is the compiler's; it is asked where that is not given.
    """
    told = compiler_version() if version is None else version
    return short_hash(str(stamp), importlib.machinery.EXTENSION_SUFFIXES[0], told)


def short_hash(*parts: str) -> str:
    """Return a hash that serves as a part of a file's name."""
    return hashlib.sha256("\n".join(parts).encode(errors="surrogateescape")).hexdigest()[:16]


def compiler_version() -> str:
    """Return the first line that the C++ compiler says of itself; BuildError without one."""
    command = build.compiler_command()
    if not command:
        raise build.BuildError(
            "no C++ compiler was found; install g++ (Debian, Ubuntu: apt install g++)",
            "install g++, then run ftbench again",
        )
    told = build.ask([*command, "--version"])
    if told.returncode != 0:
        raise build.BuildError(
            f"the C++ compiler {command[0]} fails with exit status {told.returncode} when asked "
            "for its version",
            "name one that works in CXX, then run ftbench again",
        )
    return told.stdout.partition("\n")[0]

"""Whether the deep tests have passed on these sources; `--write` says that they have.

tests/deep.sha256 holds a hash of the sources that they last passed on. CI asks in a fresh clone,
where nothing is installed and no history need be: this imports Python's own modules alone.
"""

import hashlib
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# What deep tests depend on, and nothing that others change every day.
SOURCES = ("csrc", "ftbench/ops", "tests/ops", "setup.py")
SUFFIXES = {".cpp", ".cu", ".h", ".py"}


def sources_hash(root: Path = ROOT) -> str:
    """Return a hash of the names and contents of the sources."""
    digest = hashlib.sha256()
    for name in SOURCES:
        top = root / name
        for path in sorted(top.rglob("*")) if top.is_dir() else [top]:
            if path.suffix in SUFFIXES and path.is_file():
                # Line ends are git's to choose.
                content = path.read_bytes().replace(b"\r\n", b"\n")
                digest.update(f"{path.relative_to(root).as_posix()} {len(content)}\n".encode())
                digest.update(content)
    return digest.hexdigest()


def have_passed(root: Path = ROOT) -> bool:
    """Return whether the deep tests last passed on what the sources are now."""
    record = root / "tests" / "deep.sha256"
    return record.exists() and record.read_text(encoding="utf-8").strip() == sources_hash(root)


def write(root: Path = ROOT) -> None:
    """Note that the deep tests have passed on what the sources are now."""
    (root / "tests" / "deep.sha256").write_text(f"{sources_hash(root)}\n", encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        from ftbench import ops

        if ops.implementation().name != "compiled":
            sys.exit(
                "tests/deep.sha256 stays: the deep tests were skipped, nothing is compiled here"
            )
        write()
    elif not have_passed():
        sys.exit("csrc/, ftbench/ops/ or tests/ops/ changed since the deep tests last passed")

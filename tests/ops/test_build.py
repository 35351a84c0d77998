"""Building: what a binary was built from, for which GPUs, and what an installation carries."""

import shutil
import struct
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ftbench.ops import build, serving

ROOT = Path(build.__file__).resolve().parents[2]
needs_compiler = pytest.mark.skipif(build.compiler() is None, reason="no C++ compiler")


def test_a_binary_says_what_it_was_built_from_before_it_is_loaded(tmp_path):
    binary = tmp_path / "_C.so"
    for cuda in ("", "8.0/9.0+PTX"):
        for sanitize in ("", "address.undefined"):
            stamp = build.Stamp("2.15.0+cu132", "0123456789abcdef", cuda, sanitize)
            binary.write_bytes(b"\0\xff" + b"ftbench-stamp:" + str(stamp).encode() + b":\0")
            assert build.read_stamp(binary) == stamp
    for text in (b"something else", b"ftbench-stamp:1~a:", b"ftbench-stamp:\xff~a~cpu~plain~x:"):
        binary.write_bytes(text)
        assert build.read_stamp(binary) is None


def test_a_binary_serves_what_it_was_built_for():
    wanted = build.Stamp("2.15.0", "a", "9.0")
    assert wanted.serves(wanted)
    assert wanted.serves(replace(wanted, cuda=""))  # more than is wanted
    assert not replace(wanted, cuda="").serves(wanted)
    for other in ({"torch": "2.11.0"}, {"sources": "b"}, {"sanitize": "address"}):
        assert not replace(wanted, **other).serves(wanted)


def test_the_sources_hash_tells_every_source_and_its_name(tmp_path):
    folder = tmp_path / "csrc"
    shutil.copytree(build.source_folder(), folder)
    first = build.sources_hash(folder)
    assert first == build.sources_hash(build.source_folder())
    header = folder / "mix" / "mix.h"
    header.write_text(header.read_text() + "\n// changed\n")
    second = build.sources_hash(folder)
    header.rename(folder / "mix" / "renamed.h")
    assert len({first, second, build.sources_hash(folder)}) == 3


def test_a_source_distribution_has_every_source(tmp_path):
    command = ["-q", "egg_info", "--egg-base", tmp_path, "sdist", "--dist-dir", tmp_path]
    subprocess.run([sys.executable, "setup.py", *command], cwd=ROOT, check=True)
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        names = {name.partition("/")[2] for name in packed.getnames()}
    sources = [path for path in (ROOT / "csrc").rglob("*") if path.is_file()]
    assert len(sources) > 20
    assert {path.relative_to(ROOT).as_posix() for path in sources} <= names


@needs_compiler
@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc")
@pytest.mark.deep  # what CI builds for the quick tests is for the CPU alone
def test_cuda_compiles_and_links_for_every_default_architecture():
    """The binary in use has sm_80, sm_90 and PTX: it was built where nvcc is."""
    path = serving.ahead_of_time()
    if path is None or torch.version.cuda is None:
        pytest.skip("nothing was built ahead of time, or this torch has no CUDA")
    stamp = build.read_stamp(path)
    assert stamp is not None
    assert stamp.cuda == "8.0/9.0+PTX"
    assert embedded_architectures(path.read_bytes()) == {
        ("machine", 80),
        ("machine", 90),
        ("PTX", 90),
    }


def embedded_architectures(binary):
    """Return (kind, architecture) of each entry of the fat binaries in an object file."""
    found, start = set(), 0
    while (start := binary.find(b"\x50\xed\x55\xba", start)) >= 0:
        _, _, header, size = struct.unpack_from("<IHHQ", binary, start)
        at, start = start + header, start + header + size
        while at < start:
            kind, _, header, size = struct.unpack_from("<HHIQ", binary, at)
            (architecture,) = struct.unpack_from("<I", binary, at + 28)
            found.add(({1: "PTX", 2: "machine"}.get(kind, kind), architecture))
            at += header + size
    return found

"""A cache of the test's own, and a compiler that only has to say its version."""

import pytest

from ftbench.ops import build
from ftbench.ops.first_use import isolated
from tests.ops.first_use.builds import Builds


@pytest.fixture
def folder(monkeypatch, tmp_path):
    """A cache, and a compiler that only has to say its version."""
    compiler = tmp_path / "c++"
    compiler.write_text("#!/bin/sh\necho g++ 1.0\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setenv("FTBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def wanted():
    return build.Stamp("2.15.0", "0123456789abcdef", "")


class Clock:
    def __init__(self):
        self.now = 1_800_000_000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def builds(monkeypatch):
    builds = Builds()
    monkeypatch.setattr(isolated, "compile_apart", builds)
    return builds

"""Failed compilations: the compiler's verdict is believed for a day, what cut one short is not."""

import re
from dataclasses import replace

import pytest

from ftbench.ops import build
from ftbench.ops.first_use import binary_for, forget_failures
from tests.ops.first_use.builds import CUT_SHORT, REFUSED

DAY = 24 * 3600
pytestmark = pytest.mark.usefixtures("folder")


def test_a_failed_build_leaves_nothing_but_what_was_said(folder, wanted, builds):
    builds.came = [REFUSED]
    with pytest.raises(build.CompilationError):
        binary_for(wanted)
    assert [path.suffix for path in folder.iterdir() if path.suffix != ".lock"] == [".txt"]


def test_the_compilers_verdict_is_believed_for_a_day(folder, wanted, builds, clock):
    builds.came = [REFUSED, REFUSED]
    with pytest.raises(build.CompilationError, match="compiling failed; ") as failed:
        binary_for(wanted, clock=clock)
    [log] = folder.glob("*.failed.txt")
    assert log.read_text() == "x.cpp:3: error: no"
    assert str(log) in str(failed.value)
    clock.now += DAY - 1
    with pytest.raises(build.CompilationError, match="compiling failed before; ") as remembered:
        binary_for(wanted, clock=clock)
    assert len(builds.wanted) == 1
    again = r"tried again from \d{4}-\d\d-\d\d \d\d:\d\d on, at once by `ftbench doctor --build`"
    assert re.search(again, str(failed.value)).group() == (
        re.search(again, str(remembered.value)).group()
    )
    clock.now += 1
    with pytest.raises(build.CompilationError, match="compiling failed; "):
        binary_for(wanted, clock=clock)
    clock.now += DAY
    assert binary_for(wanted, clock=clock).exists()
    assert len(builds.wanted) == 3


def test_a_verdict_from_the_future_is_not_believed(wanted, builds, clock):
    builds.came = [REFUSED]
    with pytest.raises(build.CompilationError):
        binary_for(wanted, clock=clock)
    clock.now -= 3600  # the clock was wrong, and was set
    assert binary_for(wanted, clock=clock).exists()


@pytest.mark.parametrize("change", ["flags", "compiler", "torch", "sources", "asked"])
def test_a_verdict_is_on_one_torch_compiler_and_environment(
    monkeypatch, wanted, builds, clock, change
):
    builds.came = [REFUSED]
    with pytest.raises(build.CompilationError):
        binary_for(wanted, clock=clock)
    if change == "flags":
        monkeypatch.setenv("CPATH", "/opt/include")
    elif change == "compiler":  # mended, and as new as it says it was
        path = build.compiler()
        with open(path, "a") as file:
            file.write("# mended\n")
    elif change == "asked":
        forget_failures()
    else:
        wanted = replace(wanted, **{change: "other"})
    assert binary_for(wanted, clock=clock).exists()


def test_what_cut_a_build_short_is_forgotten_at_once(folder, wanted, builds, clock):
    builds.came = [CUT_SHORT]
    said = "compiling was cut short: No space left on device .*; the next use tries again"
    with pytest.raises(build.CompilationError, match=said):
        binary_for(wanted, clock=clock)
    [log] = folder.glob("*.interrupted.txt")
    assert log.read_text() == "no space"
    clock.now += 1
    assert binary_for(wanted, clock=clock).exists()

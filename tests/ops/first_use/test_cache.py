"""The cache of operators compiled on first use: where it is, and what is found in it."""

import shutil
from dataclasses import replace

import pytest

from ftbench.ops import build
from ftbench.ops.first_use import binary_for, cache, forget_failures
from tests.ops.first_use.builds import write_binary

pytestmark = pytest.mark.usefixtures("folder")


def test_what_was_compiled_once_is_found_again(folder, wanted, builds):
    made = binary_for(wanted)
    assert binary_for(wanted) == made
    assert build.read_stamp(made) == wanted
    assert len(builds.wanted) == 1
    assert sorted(path.name for path in folder.iterdir() if path.suffix != ".lock") == [
        f"ops-{cache.key_of(wanted)}"
    ]


@pytest.mark.parametrize(
    "other", [{"torch": "2.14.0"}, {"sources": "f" * 16}, {"sanitize": "address"}, None]
)
def test_a_binary_that_is_not_what_it_should_be_is_compiled_anew(folder, wanted, builds, other):
    place = folder / f"ops-{cache.key_of(wanted)}"
    binary = write_binary(place, "no stamp" if other is None else replace(wanted, **other))
    found = binary_for(wanted)
    assert (found, build.read_stamp(found)) == (binary, wanted)
    assert builds.wanted == [wanted]


def test_a_binary_that_does_more_serves_as_well(folder, wanted, builds):
    more = replace(wanted, cuda="9.0")
    made = binary_for(more)
    assert binary_for(wanted) == made
    assert builds.wanted == [more]
    assert binary_for(replace(wanted, cuda="8.0")) != made


def test_another_compilers_binary_serves_only_where_there_is_no_compiler(
    monkeypatch, folder, wanted, builds, tmp_path
):
    with monkeypatch.context() as patch:
        patch.setattr(cache, "compiler_version", lambda: "an older one")
        older = binary_for(wanted)
    newer = binary_for(wanted)
    assert newer != older
    shutil.rmtree(newer.parent)
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\nkill -SEGV $$\n")
    broken.chmod(0o755)
    for compiler in ("no-such-compiler", str(broken)):
        monkeypatch.setenv("CXX", compiler)
        assert binary_for(wanted) == older
    with pytest.raises(build.BuildError, match=r"the C\+\+ compiler .*broken fails with exit"):
        binary_for(replace(wanted, torch="2.16.0"))


def test_another_pythons_binary_is_not_taken(folder, wanted, builds):
    place = folder / "ops-of-another"
    write_binary(place, wanted).rename(place / "_C.cpython-39-x86_64-linux-gnu.so")
    binary_for(wanted)
    assert builds.wanted == [wanted]


def test_the_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.chdir(tmp_path)
    for named, expected in (
        ("/shared/cache", "/shared/cache"),
        ("here", f"{tmp_path}/here"),
        ("~/kept", "/home/me/kept"),
        ("", "/xdg/ftbench"),
    ):
        monkeypatch.setenv("FTBENCH_CACHE", named)
        assert str(cache.cache_folder()) == expected
    for base in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", base)
        assert str(cache.cache_folder()) == "/home/me/.cache/ftbench"


def test_a_user_without_a_home_is_told_what_to_set(monkeypatch, wanted):
    import pwd

    def unknown(uid):
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    for name in ("FTBENCH_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(build.BuildError, match="there is no home folder to keep") as error:
        binary_for(wanted)
    assert error.value.advice == "set FTBENCH_CACHE to a folder that you can write to"
    forget_failures()


@pytest.mark.parametrize("kind", ["a file", "a file above it", "too long"])
def test_a_cache_that_cannot_be_one_is_named(monkeypatch, tmp_path, wanted, builds, kind):
    (tmp_path / "file").write_text("")
    named = {
        "a file": tmp_path / "file",
        "a file above it": tmp_path / "file" / "cache",
        "too long": tmp_path / ("x" * 300),
    }[kind]
    monkeypatch.setenv("FTBENCH_CACHE", str(named))
    with pytest.raises(build.BuildError, match=f"the cache {named} cannot be used: ") as error:
        binary_for(wanted)
    assert "FTBENCH_CACHE" in error.value.advice
    assert not builds.wanted
    forget_failures()


def test_the_cache_keeps_binaries_apart_by_source_torch_and_compiler(monkeypatch):
    stamp = build.Stamp("2.15.0", "a", "")
    keys = {cache.key_of(stamp), cache.key_of(replace(stamp, torch="2.16.0"))}
    keys.add(cache.key_of(replace(stamp, sources="b")))
    monkeypatch.setattr(cache, "compiler_version", lambda: "another compiler")
    keys.add(cache.key_of(stamp))
    assert len(keys) == 4

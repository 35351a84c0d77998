"""What CI goes by when it leaves the deep tests out."""

import re
import shutil

import pytest

from tests import deep
from tests.support import ROOT


@pytest.fixture
def checkout(tmp_path):
    """A copy of the sources on which the deep tests have passed."""
    for name in deep.SOURCES:
        source, target = ROOT / name, tmp_path / name
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
        else:
            shutil.copy(source, target)
    (tmp_path / "tests").mkdir(exist_ok=True)
    deep.write(tmp_path)
    return tmp_path


def test_deep_tests_that_passed_need_not_run_again(checkout):
    assert deep.have_passed(checkout)
    (checkout / "ftbench" / "ops" / "_C.so").write_bytes(b"compiled")
    (checkout / "ftbench" / "strategy.py").write_text("# not theirs")
    assert deep.have_passed(checkout)


@pytest.mark.parametrize(
    ("folder", "pattern"),
    [("csrc", "*.cpp"), ("csrc", "*.cu"), ("csrc", "*.h"), ("ftbench/ops", "*.py"),
     ("tests/ops", "*.py"), (".", "setup.py")],
)  # fmt: skip
def test_deep_tests_run_again_where_a_source_changed_moved_or_is_gone(checkout, folder, pattern):
    path = next((checkout / folder).rglob(pattern))
    text = path.read_text()
    path.write_text(text + "\n")
    assert not deep.have_passed(checkout)
    path.write_text(text)
    assert deep.have_passed(checkout)
    path.rename(path.with_name(f"other_{path.name}"))
    assert not deep.have_passed(checkout)
    path.with_name(f"other_{path.name}").unlink()
    assert not deep.have_passed(checkout)


def test_what_is_left_out_depends_on_the_operators_sources_alone():
    marked = [
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "tests").rglob("test_*.py")
        if re.search(r"pytest\.mark\.(deep|sanitize)\b", path.read_text())
    ]
    elsewhere = [name for name in marked if not name.startswith("tests/ops/")]
    # It measures what the operators are worth, so that it is theirs as well.
    assert elsewhere == ["tests/test_benchmarks.py"]


def test_deep_tests_run_where_none_has_passed_yet(checkout):
    (checkout / "tests" / "deep.sha256").unlink()
    assert not deep.have_passed(checkout)

"""The distribution in plugins/ftbench-example, installed as a stranger would install it."""

import importlib.metadata
import json
import shutil
import subprocess
import sys

import pandas as pd
import pytest

from tests.support import (
    ROOT,
    STUCK_SECONDS,
    TINY_FLAGS,
    environment_with,
    ftbench_process,
    tiny_distribution,
)


@pytest.fixture(scope="session")
def installed(tmp_path_factory):
    """The folder that holds the installed plugin."""
    work = tmp_path_factory.mktemp("example")
    # A copy, so that no build folder lands in the tree.
    source = shutil.copytree(ROOT / "plugins" / "ftbench-example", work / "source")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    offline = ["--no-deps", "--no-build-isolation", "--no-index", "--target", str(work / "site")]
    subprocess.run([*pip, *offline, str(source)], check=True, capture_output=True, text=True)
    return work / "site"


@pytest.mark.slow
def test_its_own_tests_pass(installed, tmp_path):
    tests = shutil.copytree(ROOT / "plugins" / "ftbench-example" / "tests", tmp_path / "tests")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", str(tests)],
        env={**environment_with(installed), "CUDA_VISIBLE_DEVICES": ""},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_it_is_listed_with_its_owner(installed):
    process = ftbench_process(["plugins", "--json"], installed)
    out, err = process.communicate(timeout=STUCK_SECONDS)
    assert process.returncode == 0, err
    listed = {c["name"]: c for c in json.loads(out)["components"] if c["kind"] == "strategy"}
    assert (listed["lp-ft"]["owner"], listed["lp-ft"]["version"]) == ("ftbench-example", "0.1.0")
    assert listed["lp-ft"]["options"] == {"probe": 0.5}
    assert "full" in listed


@pytest.mark.slow
def test_its_strategy_is_swept_from_the_command_line(installed, tmp_path):
    tiny = tiny_distribution(tmp_path / "site")
    flags = [*TINY_FLAGS, "--sizes", "12", "--seeds", "0", "--out", tmp_path / "out"]
    flags += ["--strategies", "lp-ft(probe=[0.25,0.75]),full"]
    process = ftbench_process(["sweep", *flags], installed, tiny)
    out, err = process.communicate(timeout=STUCK_SECONDS)
    assert process.returncode == 0, err
    frame = pd.read_csv(tmp_path / "out" / "results.csv")
    assert set(frame["strategy"]) == {"lp-ft(probe=0.25)", "lp-ft(probe=0.75)", "full"}
    version = importlib.metadata.version("ftbench")
    owners = set(zip(frame["strategy_name"], frame["strategy_owner"], strict=True))
    assert owners == {("lp-ft", "ftbench-example"), ("full", "ftbench")}
    assert set(frame["env_strategy_owner"]) == {"ftbench-example 0.1.0", f"ftbench {version}"}
    assert "lp-ft(probe=0.25)" in out


def test_it_imports_only_public_names():
    text = (ROOT / "plugins" / "ftbench-example" / "ftbench_example" / "__init__.py").read_text()
    assert "from ftbench" not in text
    assert "import ftbench." not in text

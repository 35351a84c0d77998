import importlib.metadata
import importlib.util
import json
import platform
import subprocess
from pathlib import Path

import pytest
import torch

from ftbench import environment


@pytest.fixture
def installed_at(tmp_path):
    """A function that loads a copy of the module as a package in another place has it."""

    def load(folder):
        home = tmp_path / folder / "ftbench"
        home.mkdir(parents=True)
        copy = home / "environment.py"
        copy.write_bytes(Path(environment.__file__).read_bytes())
        spec = importlib.util.spec_from_file_location("copied_environment", copy)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


def git(folder, *arguments):
    settings = ("-c", "user.name=t", "-c", "user.email=t@t", "-c", "commit.gpgsign=false")
    done = subprocess.run(
        ["git", *settings, *arguments], cwd=folder, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def test_versions_are_those_of_the_running_packages():
    found = environment.machine()
    assert found["python"] == platform.python_version()
    assert found["torch"].partition("+")[0] == torch.__version__.partition("+")[0]
    for package in ("ftbench", "numpy", "scipy", "scikit-learn", "pandas", "pillow"):
        assert found[package] == importlib.metadata.version(package)


def test_the_environment_is_text_that_json_holds():
    found = environment.machine()
    assert {type(value) for value in found.values()} == {str}
    assert json.loads(json.dumps(found)) == found
    assert found["platform"]
    assert found["processor"]


def test_a_package_that_is_not_installed_is_said_to_be_so(installed_at):
    module = installed_at("here")
    module.PACKAGES = ("no-such-package-9",)
    assert module.machine()["no-such-package-9"] == "not installed"


def test_a_checkout_tells_its_commit_and_whether_it_was_changed(installed_at, tmp_path):
    module = installed_at("checkout")
    root = tmp_path / "checkout"
    git(root, "init", "-q")
    git(root, "add", ".")
    git(root, "commit", "-qm", "first")
    commit = git(root, "rev-parse", "HEAD")[:12]
    assert module.machine()["commit"] == commit
    module.machine.cache_clear()
    (root / "ftbench" / "environment.py").write_text("changed", encoding="utf-8")
    assert module.machine()["commit"] == f"{commit}-dirty"


def test_an_installed_copy_has_no_commit_even_inside_another_checkout(installed_at, tmp_path):
    module = installed_at("project/site-packages")
    git(tmp_path / "project", "init", "-q")
    git(tmp_path / "project", "add", ".")
    git(tmp_path / "project", "commit", "-qm", "first")
    assert module.machine()["commit"] == ""


def test_the_cpus_name_is_that_of_proc_cpuinfo():
    name = environment.processor_name()
    assert name
    listing = Path("/proc/cpuinfo")
    if listing.exists() and "model name" in listing.read_text(encoding="utf-8"):
        assert f": {name}\n" in listing.read_text(encoding="utf-8")


def test_the_cpu_device_is_called_by_its_processor():
    assert environment.device_name("cpu") == environment.processor_name()


@pytest.mark.cuda
def test_a_gpu_is_called_by_its_product_name():
    assert environment.device_name("cuda:0") == torch.cuda.get_device_properties(0).name

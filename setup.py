"""Builds the compiled operators ahead of time where torch can be imported.

`pip install .` builds in an environment of its own, which has no torch: the operators are then
compiled when they are first used. `pip install --no-build-isolation .` builds them here and now.
"""

import importlib.util
import shutil
import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).resolve().parent


class BuildPackage(build_py):
    """Takes the C++ sources along, so that an installed ftbench can compile them."""

    def run(self):
        """Copy csrc/ into the package."""
        super().run()
        if not self.editable_mode:
            target = Path(self.build_lib) / "ftbench" / "csrc"
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(HERE / "csrc", target)


def load_recipe():
    """Load ftbench/ops/build.py by its path: ftbench itself may not be importable yet."""
    spec = importlib.util.spec_from_file_location("build_ops", HERE / "ftbench/ops/build.py")
    recipe = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = recipe
    spec.loader.exec_module(recipe)
    return recipe


def extensions():
    """Return setup()'s arguments for the operators: none where they cannot be built now."""
    if importlib.util.find_spec("torch") is None:
        sys.stderr.write("ftbench: no torch here; the operators will compile on first use\n")
        return {}
    recipe = load_recipe()
    if recipe.compiler() is None:
        sys.stderr.write("ftbench: no C++ compiler here; plain torch will serve (ftbench doctor)\n")
        return {}
    built = recipe.extension()
    from torch.utils.cpp_extension import BuildExtension

    return {"ext_modules": [built], "cmdclass": {"build_ext": BuildExtension}}


arguments = extensions()
arguments.setdefault("cmdclass", {})["build_py"] = BuildPackage
setup(**arguments)

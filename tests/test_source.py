"""The hash of a class's code: what changes it, and what does not."""

import importlib
import subprocess
import sys

import pytest

from ftbench.source import source_hash
from ftbench.strategies.full import Full
from tests.support import environment_with, printed_over_hash_seeds

BASE = """
import math
import ftbench
from .helpers import scale, TABLE as table
from . import more

RATE = 0.5

def threshold(progress):
    return progress >= RATE

class Shared(ftbench.Strategy):
    def decays(self, stage):
        return True

class Mine(Shared):
    name = "mine"

    def trains(self, stage, progress):
        return stage.is_head or threshold(progress)

    def rate(self, stage, progress):
        from . import lazy
        return scale(progress) * table["x"] * more.factor() * lazy.factor()

class Other(ftbench.Strategy):
    name = "other"
"""
FILES = {
    "__init__": "",
    "base": BASE,
    "helpers": "def scale(x):\n    return twice(x)\n\ndef twice(x):\n    return 2 * x\n\n"
    "TABLE = {'x': 1}\nTABLE.update(y=2)\n\ndef unused():\n    return 1\n",
    "more": "from .helpers import *\n\ndef factor():\n    return twice(1)\n",
    "lazy": "def factor():\n    return 1\n",
}


@pytest.fixture
def hash_of(tmp_path, monkeypatch):
    """A function that writes a package with changes (file, old, new), and hashes a class of it."""
    counter = iter(range(100))

    def make(*changes, cls="Mine", files=FILES):
        folder = tmp_path / str(next(counter))
        (folder / "package_under_test").mkdir(parents=True)
        for name, text in files.items():
            for file, old, new in changes:
                assert file != name or old in text
                text = text.replace(old, new) if file == name else text
            (folder / "package_under_test" / f"{name}.py").write_text(text)
        with monkeypatch.context() as patched:
            patched.syspath_prepend(folder)
            importlib.invalidate_caches()
            try:
                module = importlib.import_module("package_under_test.base")
                return source_hash(getattr(module, cls))
            finally:
                for name in [n for n in sys.modules if n.startswith("package_under_test")]:
                    del sys.modules[name]

    return make


@pytest.mark.parametrize(
    "change",
    [
        ("base", "    def trains", "    # a comment\n    def trains"),
        ("base", 'name = "mine"', '"""What it does."""\n\n    name = "mine"'),
        ("base", "return True", '"""Say so."""\n        return True'),
        ("base", "stage.is_head or threshold(", "stage.is_head or (threshold)\\\n        ("),
        ("base", "class Other", "\n\n\nclass Other"),
        ("base", '"other"', '"another"'),
        ("helpers", "return 1", "return 3"),  # of what nobody refers to
        ("helpers", "'x': 1", '"x": 1'),
    ],
    ids=lambda change: change[2].strip()[:20],
)
def test_comments_docstrings_layout_and_the_code_of_others_do_not_count(hash_of, change):
    assert hash_of(change) == hash_of()


@pytest.mark.parametrize(
    "change",
    [
        ("base", "stage.is_head or", "not stage.is_head or"),
        ("base", "return True", "return False"),  # of a base
        ("base", "progress >= RATE", "progress > RATE"),  # of a function that it calls
        ("base", "RATE = 0.5", "RATE = 0.6"),  # of a constant behind that
        ("helpers", "twice(x)\n\ndef", "-twice(x)\n\ndef"),  # in another file of the package
        ("helpers", "2 * x", "3 * x"),
        ("helpers", "{'x': 1}", "{'x': 2}"),  # imported under another name
        ("helpers", "y=2", "y=3"),
        ("more", "twice(1)", "twice(2)"),  # by way of a module
        ("lazy", "return 1", "return 2"),  # imported within a method
        ("base", "(Shared)", "(ftbench.Strategy)"),
        ("base", 'name = "mine"', 'name, pretrained = "mine", False'),
    ],
    ids=lambda change: change[2].strip()[:20],
)
def test_what_can_change_a_score_counts_wherever_it_stands(hash_of, change):
    assert hash_of(change) != hash_of()


def test_the_same_text_elsewhere_is_the_same_code(hash_of):
    assert hash_of() == hash_of()
    assert len(hash_of()) == 64


def test_built_ins_have_no_source_of_their_own():
    assert source_hash(Full) == ""


def test_a_class_keeps_the_code_that_was_loaded(tmp_path, monkeypatch):
    path = tmp_path / "edited_later.py"
    path.write_text("class Mine:\n    x = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("edited_later")
    before = source_hash(module.Mine)
    path.write_text("class Mine:\n    x = 2\n")
    assert source_hash(module.Mine) == before
    assert source_hash(importlib.reload(module).Mine) != before


def test_a_class_within_a_function_and_classes_of_one_name_are_told_apart():
    def make(flag):
        if flag:

            class Made:
                def value(self):
                    return 1

        else:

            class Made:
                def value(self):
                    return 2

        return Made

    assert source_hash(make(True)) != source_hash(make(False))
    assert source_hash(make(True)) == source_hash(make(True)) != ""


def test_a_class_without_source_has_none():
    namespace = {}
    exec("class Made:\n    def value(self):\n        return 1", namespace)
    assert source_hash(namespace["Made"]) == ""
    assert source_hash(type("Made", (), {})) == ""


def test_a_class_of_a_notebook_is_known_by_its_methods():
    import linecache

    hashes = []
    for number, text in enumerate(["return 1", "return 2", "return 1  # again"]):
        cell, file = f"class Made:\n    def value(self):\n        {text}\n", f"<cell {number}>"
        linecache.cache[file] = (len(cell), None, cell.splitlines(keepends=True), file)
        namespace = {"__name__": "a_notebook"}
        exec(compile(cell, file, "exec"), namespace)
        hashes.append(source_hash(namespace["Made"]))
    assert hashes[0] == hashes[2] != hashes[1]
    assert hashes[0]


def test_functions_that_refer_to_each_other_across_files_are_read_once(hash_of):
    files = {
        "__init__": "",
        "base": "from .a import f\n\nclass Mine:\n    x = f\n",
        "a": "def f():\n    from .b import g\n    return g() + f()\n",
        "b": "from . import a\n\ndef g():\n    return a.f() + 1\n",
    }
    assert hash_of(files=files) != hash_of(("b", "1", "2"), files=files)


def test_the_hash_is_the_same_in_every_process(tmp_path):
    (tmp_path / "some_plugin.py").write_text("class Mine:\n    x = {'b', 'a'}\n")
    code = "from ftbench.source import source_hash\nimport some_plugin\n"
    code += "print(source_hash(some_plugin.Mine))"
    assert len(printed_over_hash_seeds(code, tmp_path)) == 1


def test_what_a_class_made_by_type_holds_counts():
    def made(rank):
        return type("Made", (), {"rank": rank, "name": "made"})

    assert source_hash(made(8)) == source_hash(made(8)) != source_hash(made(16))


@pytest.mark.parametrize("how", ["script", "module"])
def test_a_class_of_a_program_has_its_source(tmp_path, how):
    path = tmp_path / "my_program.py"
    text = "from ftbench.source import source_hash\nRATE = 1\nclass Mine:\n    x = RATE\n"
    text += "print(source_hash(Mine))\n"
    command = [str(path)] if how == "script" else ["-m", "my_program"]
    found = []
    for rate in ("1", "2"):
        path.write_text(text.replace("RATE = 1", f"RATE = {rate}"))
        done = subprocess.run(
            [sys.executable, *command],
            env=environment_with(tmp_path),
            capture_output=True,
            text=True,
            check=True,
        )
        found.append(done.stdout)
    assert len(set(found)) == 2


AFTER = """
from . import helpers
try:
    from .helpers import scale as grown
except ImportError:
    raise

def decorated(cls):
    cls.flag = True
    return cls

class Mine:
    def f(self):
        kept = helpers
        return grown(kept.twice(1))

{after}
"""


@pytest.mark.parametrize(
    "after",
    [
        "Mine = decorated(Mine)",
        "decorated(Mine)",
        "Mine.rate = 0.5",
        "Mine.f = lambda self: 3",
        "setattr(Mine, 'rate', 0.5)",
    ],
)
def test_what_is_done_to_a_class_after_its_definition_counts(hash_of, after):
    def files(text):
        return {**FILES, "base": AFTER.format(after=text)}

    found = {hash_of(files=files(text)) for text in ("", after, after.replace("5", "6"))}
    assert len(found) == (3 if "5" in after else 2)


def test_imports_within_blocks_and_modules_as_values_are_followed(hash_of):
    files = {**FILES, "base": AFTER.format(after="")}
    found = [
        hash_of(*change, files=files)
        for change in (
            (),
            [("helpers", "return twice(x)", "return twice(x) + 1")],
            [("helpers", "return 1", "return 3")],  # of a module that is passed around
        )
    ]
    assert len(set(found)) == 3


def test_what_a_function_made_a_class_of_counts():
    def make(whole, rate):
        class Made:
            flag = rate

            def trains(self):
                return whole

        return Made

    made = [make(False, 1), make(True, 1), make(False, 2), make(False, 1)]
    hashes = [source_hash(cls) for cls in made]
    assert hashes[0] == hashes[3]
    assert len(set(hashes)) == 3


@pytest.mark.parametrize(
    "body",
    [
        "return " + " + ".join(["x"] * 2000),
        "if x == 0:\n        return 0\n"
        + "".join(f"    elif x == {i}:\n        return {i}\n" for i in range(1, 400)),
        "return x" + ".real" * 900,
        "return x" + ".conjugate()" * 300,
    ],
    ids=["a sum", "elif", "attributes", "calls"],
)
def test_deep_expressions_are_read(hash_of, body):
    files = {"__init__": "", "base": f"def f(x):\n    {body}\n\nclass Mine:\n    g = f\n"}
    assert len(hash_of(files=files)) == 64


def test_values_that_no_source_tells_are_the_same_in_every_process():
    code = "from ftbench.source import source_hash\n"
    code += "print(source_hash(type('M', (), {'a': ({'x','y','z'}, 1), 'b': (len,), 'c': 2})))"
    assert len(printed_over_hash_seeds(code)) == 1

import importlib.metadata
import re
import sys

import pytest

import ftbench
from ftbench.errors import PluginError, SpecError
from ftbench.plugins import GROUP, load_catalogue
from ftbench.records import RESERVED_SCORES
from tests.conftest import TinyPlugin
from tests.support import distribution

STRATEGY = """
import ftbench

class Mine(ftbench.Strategy):
    name = "{name}"

@ftbench.hookimpl
def ftbench_strategies():
    return [Mine]
"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    """A function that makes importlib.metadata find a distribution with one module, its plugin."""
    before = set(sys.modules)

    def add(name, text, *, module=None, target=None, version="1.0"):
        module = module or name.replace("-", "_")
        distribution(
            tmp_path / name,
            name,
            version=version,
            entry_points={"plugin": target or module},
            modules={module: text},
        )
        monkeypatch.syspath_prepend(tmp_path / name)

    yield add
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and str(tmp_path) in str(
            sys.modules[name].__file__
        ):
            del sys.modules[name]


BUILT_IN = {
    "strategy": {"scratch", "full", "partial", "progressive", "head-only", "l2sp", "ewc"},
    "task": {"digits", "letters"},
    "backbone": {"glyphnet"},
    "format": {"markdown", "csv"},
}


def built_ins_are_there(catalogue):
    """Return whether every built-in name is found."""
    return all(catalogue.find(kind, name) for kind, names in BUILT_IN.items() for name in names)


def test_built_ins_come_in_by_entry_points_only(monkeypatch):
    owned = {e.owner.distribution for e in load_catalogue().entries}
    assert owned == {"ftbench"}
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: ())
    assert load_catalogue().entries == []


def test_built_ins_are_there_with_their_owner_and_version():
    catalogue = load_catalogue()
    assert built_ins_are_there(catalogue)
    version = importlib.metadata.version("ftbench")
    assert str(catalogue.find("strategy", "ewc").owner) == f"ftbench {version}"
    assert catalogue.errors == []
    assert catalogue.conflicts() == []
    assert importlib.metadata.entry_points(group=GROUP)


def test_an_installed_plugin_is_found_with_its_owner_and_version(install):
    install("other-strategies", STRATEGY.format(name="mine"), version="2.5")
    catalogue = load_catalogue()
    assert str(catalogue.find("strategy", "mine").owner) == "other-strategies 2.5"
    assert catalogue.hook_owners()["ftbench_strategies"][-1] == "other-strategies 2.5"
    assert built_ins_are_there(catalogue)


# Plugins that fail.

HOOK = "import ftbench\n@ftbench.hookimpl\n"
BROKEN = {
    "an import that fails": ("import no_such_module_at_all", "No module named 'no_such_module_at"),
    "an exit": ("raise SystemExit('bye')", "SystemExit: bye"),
    "a syntax error": ("def broken(:", "SyntaxError"),
    "any other error": ("1 / 0", "ZeroDivisionError: division by zero"),
    "a misspelt hook": (
        HOOK + "def ftbench_strategys(): return []",
        "did you mean 'ftbench_strategies'?",
    ),
    "a wrong signature": (
        HOOK + "def ftbench_run_started(spec, mood): pass",
        "mood",
    ),
    "no mark": (
        "def ftbench_strategies(): return []",
        "ftbench_strategies lacks @ftbench.hookimpl, so it would never be called",
    ),
    "a hook that raises": (HOOK + "def ftbench_tasks(): raise ValueError('no')", "ValueError: no"),
    "a hook that exits": (HOOK + "def ftbench_tasks(): raise SystemExit('bye')", "SystemExit: bye"),
    "a hook that returns None": (HOOK + "def ftbench_tasks(): pass", "TypeError"),
    "an instance": (
        HOOK + "def ftbench_strategies(): return ['full']",
        "'full' is not a subclass of ftbench.Strategy",
    ),
    "a class of another kind": (
        HOOK + "def ftbench_strategies(): return [ftbench.Task]",
        "is not a subclass of ftbench.Strategy",
    ),
    "no name": (
        HOOK + "def ftbench_strategies(): return [type('Nameless', (ftbench.Strategy,), {})]",
        "Nameless has no name; set the class attribute `name`",
    ),
    "a misspelt method": (
        STRATEGY.format(name="mine").replace('= "mine"', "= 'mine'\n    def penlty(self, m): pass"),
        "Mine.penlty is never called; did you mean 'penalty'?",
    ),
    "a method of another signature": (
        STRATEGY.format(name="mine").replace('= "mine"', "= 'mine'\n    def penalty(self): pass"),
        "Mine.penalty() must be callable as penalty(self, model",
    ),
    "a method that wants more": (
        STRATEGY.format(name="mine").replace(
            '= "mine"', "= 'mine'\n    def trains(self, stage, progress, mood): pass"
        ),
        "missing a required argument: 'mood'",
    ),
    "a method without a keyword": (
        HOOK + "def ftbench_backbones():\n"
        "  def build(self): pass\n"
        "  return [type('Net', (ftbench.BackboneFamily,), {'name': 'net', 'build': build})]",
        "Net.build() must be callable as build(self, *, pretrained",
    ),
    "a metric named like another column": (
        HOOK + "def ftbench_tasks():\n"
        "  body = {'name': 'timed', 'metrics': (ftbench.Metric('steps', 'steps'),)}\n"
        "  return [type('Timed', (ftbench.Task,), body)]",
        "Timed has a metric 'steps', the name of another column",
    ),
    "a format that cannot be called": (
        HOOK + "def ftbench_report_formats(): return {'latex': 'nope'}",
        "latex",
    ),
}


@pytest.mark.parametrize(("text", "message"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_plugin_is_an_error_in_the_catalogue_and_breaks_nothing_else(
    install, text, message
):
    install("broken-plugin", text)
    install("good-plugin", STRATEGY.format(name="good"))
    catalogue = load_catalogue()
    [error] = catalogue.errors
    assert str(error.owner) == "broken-plugin 1.0"
    assert message in error.error
    assert built_ins_are_there(catalogue)
    assert catalogue.find("strategy", "good")


def test_a_hook_that_yields_part_of_its_strategies_and_raises_is_an_error(install):
    install("broken-plugin", HOOK + "def ftbench_strategies():\n  yield 1/0")
    assert "ZeroDivisionError" in load_catalogue().errors[0].error


def test_a_missing_attribute_of_an_entry_point_is_an_error(install):
    install("broken-plugin", "", target="broken_plugin:absent")
    assert "absent" in load_catalogue().errors[0].error


def test_an_unknown_name_says_that_plugins_failed_to_load(install):
    install("broken-plugin", "1 / 0")
    install("other-broken-plugin", "1 / 0", version="2")
    message = (
        r"unknown strategy 'from-the-broken-one'; there are .* \('ftbench plugins' lists them\)"
    )
    message += r"; of (.*), something failed to load$"
    with pytest.raises(SpecError, match=message) as caught:
        load_catalogue().find("strategy", "from-the-broken-one")
    owners = re.search(message, str(caught.value)).group(1)
    assert set(owners.split(", ")) == {"broken-plugin 1.0", "other-broken-plugin 2"}


def test_methods_may_take_more_than_they_are_given_and_have_helpers():
    class Mine(ftbench.Strategy):
        name = "mine"

        def trains(self, stage, progress, mood="calm", **rest):
            return self.is_chosen(stage)

        def is_chosen(self, stage):
            return True

    catalogue = load_catalogue(extra={"notebook": TinyPlugin([Mine])})
    assert catalogue.find("strategy", "mine").value is Mine


@pytest.mark.parametrize("column", ["size", "status", "train_seconds", "test_rows", "key"])
def test_no_metric_may_be_named_like_a_column(column):
    class Timed(TinyPlugin.Task):
        metrics = (ftbench.Metric("fine", "fine"), ftbench.Metric(column, column))

    assert column in RESERVED_SCORES
    catalogue = load_catalogue(extra={"notebook": TinyPlugin(task=Timed)})
    [error] = catalogue.errors
    assert str(error.owner) == "notebook"
    assert error.error == f"Timed has a metric '{column}', the name of another column"
    assert "tiny" not in catalogue.names("task")


# Names.


@pytest.mark.parametrize(
    ("kind", "wrong", "right"),
    [
        ("strategy", "l2ps", "l2sp"),
        ("strategy", "headonly", "head-only"),
        ("task", "digit", "digits"),
        ("backbone", "glyph", "glyphnet"),
        ("format", "markdwon", "markdown"),
    ],
)
def test_an_unknown_name_gets_the_nearest(kind, wrong, right):
    with pytest.raises(SpecError, match=f"unknown {kind} '{wrong}'; did you mean '{right}'"):
        load_catalogue().find(kind, wrong)


def test_a_name_near_to_nothing_gets_the_whole_list():
    with pytest.raises(SpecError, match=r"there are digits, letters \('ftbench plugins' lists"):
        load_catalogue().find("task", "zzz")


def test_two_owners_of_one_name_are_an_error_that_names_both_where_it_is_used(install):
    install("first-owner", STRATEGY.format(name="shared"))
    install("second-owner", STRATEGY.format(name="shared"), version="3")
    catalogue = load_catalogue()
    assert built_ins_are_there(catalogue)
    message = "strategy 'shared' is claimed by first-owner 1.0 and second-owner 3; uninstall one"
    with pytest.raises(PluginError, match=message):
        catalogue.find("strategy", "shared")
    assert len(catalogue.conflicts()) == 1
    assert "first-owner 1.0 and second-owner 3" in catalogue.conflicts()[0]


def test_a_third_party_cannot_replace_a_built_in_silently(install):
    install("other-full", STRATEGY.format(name="full"))
    with pytest.raises(PluginError, match=r"'full' is claimed by ftbench .* and other-full 1"):
        load_catalogue().build("strategy", "full", {})


def test_one_name_may_be_a_strategy_and_a_task(install):
    install("same-name", STRATEGY.format(name="digits"))
    catalogue = load_catalogue()
    assert catalogue.find("strategy", "digits")
    assert catalogue.find("task", "digits")
    assert catalogue.conflicts() == []


def test_a_distribution_that_is_on_the_path_twice_is_one_owner(install, tmp_path, monkeypatch):
    install("twice", STRATEGY.format(name="once"))
    monkeypatch.syspath_prepend(tmp_path / "twice")
    assert load_catalogue().find("strategy", "once")


# Plugins that need no installation.


def test_an_extra_plugin_is_owned_by_its_label():
    class Mine(ftbench.Strategy):
        name = "mine"

    class Plugin:
        @ftbench.hookimpl
        def ftbench_strategies(self):
            return [Mine]

    catalogue = load_catalogue(extra={"notebook": Plugin()})
    assert str(catalogue.find("strategy", "mine").owner) == "notebook"
    assert isinstance(catalogue.build("strategy", "mine", {}), Mine)


def test_a_broken_extra_plugin_raises_at_once():
    class Plugin:
        @ftbench.hookimpl
        def ftbench_strategees(self):
            return []

    with pytest.raises(PluginError, match="did you mean 'ftbench_strategies'"):
        load_catalogue(extra={"notebook": Plugin()})


def test_options_are_validated_when_a_component_is_built():
    with pytest.raises(
        SpecError, match=r"strategy 'partial': unknown option 'stage'; did you mean"
    ):
        load_catalogue().build("strategy", "partial", {"stage": 1})
    assert load_catalogue().build("strategy", "partial", {"stages": 2}).options.stages == 2

import dataclasses
import importlib.metadata
import re
import sys
from typing import get_args, get_type_hints

import pytest

import ftbench
from ftbench import columns
from ftbench.errors import PluginError, SpecError
from ftbench.metric import COSTS, METRIC_FIELDS
from ftbench.plugins import GROUP, load_catalogue
from tests.support import distribution
from tests.tiny import TinyPlugin

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
    monkeypatch.setattr(importlib.metadata, "distributions", lambda: ())
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
    "a hook that returns None": (
        HOOK + "def ftbench_tasks(): pass",
        "ftbench_tasks() returned None; expected classes in a list",
    ),
    "formats in a list": (
        HOOK + "def ftbench_report_formats(): return ['latex']",
        "ftbench_report_formats() returned ['latex']; expected an ftbench.Format by name",
    ),
    "a name with a slash": (
        STRATEGY.format(name="lora/r8"),
        "Mine.name: the name 'lora/r8' cannot be written in a spec; letters, digits",
    ),
    "a name with brackets": (STRATEGY.format(name="mine[red]"), "'mine[red]' cannot be written"),
    "a name with a space": (STRATEGY.format(name=" mine"), "' mine' cannot be written"),
    "a name that is no string": (
        STRATEGY.format(name="mine").replace('"mine"', "5"),
        "Mine.name: the name 5 is no string",
    ),
    "a format's name": (
        HOOK + "def ftbench_report_formats(): return {'two words': ftbench.Format(print, '.x')}",
        "the name 'two words' cannot be written",
    ),
    "a version that is a number": (
        STRATEGY.format(name="mine").replace('= "mine"', "= 'mine'\n    version = 2"),
        "Mine.version is 2 (int); expected a string",
    ),
    "a flag that is a word": (
        STRATEGY.format(name="mine").replace('= "mine"', "= 'mine'\n    pretrained = 'no'"),
        "Mine.pretrained is 'no' (str); expected True or False",
    ),
    "options that are no class": (
        STRATEGY.format(name="mine").replace('= "mine"', "= 'mine'\n    Options = {'a': 1}"),
        "Mine.Options is {'a': 1}; expected a subclass of ftbench.Options",
    ),
    "another kind": (
        STRATEGY.format(name="mine").replace('= "mine"', "= 'mine'\n    kind = 'task'"),
        "Mine.kind is 'task'; leave it as it is",
    ),
    "a value in a method's place": (
        STRATEGY.format(name="mine").replace('= "mine"', "= 'mine'\n    trains = True"),
        "Mine.trains is True; expected a method",
    ),
    "a source that is a class": (
        HOOK + "def ftbench_backbones():\n"
        "  return [type('Net', (ftbench.BackboneFamily,), {'name': 'net', 'source': int})]",
        "Net.source is <class 'int'> (type); expected the name of a source task, or None",
    ),
    "a task of no class": (
        HOOK + "def ftbench_tasks():\n"
        "  body = {'name': 'few', 'classes': 0}\n"
        "  return [type('Few', (ftbench.ClassificationTask,), body)]",
        "Few.classes is 0; expected at least 1",
    ),
    "a metric that is a word": (
        HOOK + "def ftbench_tasks():\n"
        "  body = {'name': 'timed', 'classes': 3, 'metrics': ('accuracy',)}\n"
        "  return [type('Timed', (ftbench.ClassificationTask,), body)]",
        "Timed.metrics holds 'accuracy'; expected an ftbench.Metric",
    ),
    "a metric of wrong types": (
        HOOK + "def ftbench_tasks():\n"
        "  body = {'name': 'timed', 'metrics': (ftbench.Metric('a', 'a', percent='yes'),)}\n"
        "  return [type('Timed', (ftbench.Task,), body)]",
        "percent is 'yes' (str); expected True or False",
    ),
    "two metrics of one name": (
        HOOK + "def ftbench_tasks():\n"
        "  body = {'name': 'timed', 'metrics': (ftbench.Metric('a', 'a'),) * 2}\n"
        "  return [type('Timed', (ftbench.Task,), body)]",
        "Timed has several metrics 'a'",
    ),
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
        "format 'latex' is 'nope', not an ftbench.Format",
    ),
    "a format that is a bare function": (
        HOOK + "def ftbench_report_formats(): return {'latex': print}",
        "write ftbench.Format(function, '.suffix')",
    ),
    "a format whose render is no function": (
        HOOK + "def ftbench_report_formats(): return {'latex': ftbench.Format('x', '.tex')}",
        "format 'latex': render is 'x', not a function",
    ),
    "a format without a suffix": (
        HOOK + "def ftbench_report_formats(): return {'latex': ftbench.Format(print, 'tex')}",
        "format 'latex': suffix is 'tex', expected one such as '.md'",
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


# Entry points that give nothing.

FULL = (
    STRATEGY.format(name="mine")
    + """
def function():
    return [Mine]

class Hooks:
    @ftbench.hookimpl
    def ftbench_strategies(self):
        return [Mine]

class Unmarked:
    def ftbench_strategies(self):
        return [Mine]

class Inherits(Hooks):
    pass

hooks, unmarked, nothing, number = Hooks(), Unmarked(), None, 5
"""
)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("function", "giver:function is the function function without any hook; name a module or"),
        ("ftbench_strategies", "is the function ftbench_strategies, one hook; name the module or"),
        ("Mine", r"is the class Mine; return it from a function ftbench_strategies\(\) marked"),
        ("Hooks", r"is the class Hooks; name an instance of it, whose ftbench_strategies\(\) can"),
        ("Inherits", r"is the class Inherits; name an instance of it, whose ftbench_strategies"),
        ("unmarked", "ftbench_strategies lacks @ftbench.hookimpl, so it would never be called"),
        ("nothing", "is a value of type NoneType, None without any hook"),
        ("number", "is a value of type int, 5 without any hook"),
    ],
)
def test_an_entry_point_that_gives_nothing_says_what_was_found(install, target, message):
    install("giver", FULL, target=f"giver:{target}")
    catalogue = load_catalogue()
    [error] = catalogue.errors
    assert re.search(message, error.error), error.error
    assert built_ins_are_there(catalogue)


def test_an_empty_module_gives_nothing_either(install):
    install("giver", "")
    assert "giver is the module giver without any hook" in load_catalogue().errors[0].error


@pytest.mark.parametrize("second", ["giver", "giver:hooks"], ids=["one object", "one class"])
def test_one_plugin_by_two_entry_points_of_a_distribution_is_no_error(
    tmp_path, monkeypatch, second
):
    points = {"first": "giver:hooks" if second == "giver:hooks" else "giver", "second": second}
    if second == "giver:hooks":
        points["third"] = "giver"
    distribution(tmp_path, "giver", entry_points=points, modules={"giver": FULL})
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "giver", raising=False)
    catalogue = load_catalogue()
    assert (catalogue.errors, catalogue.conflicts()) == ([], [])
    assert str(catalogue.find("strategy", "mine").owner) == "giver 1.0"


def test_one_object_of_two_distributions_is_an_error_that_names_the_other(install, tmp_path):
    install("giver", FULL)
    distribution(tmp_path / "giver", "taker", entry_points={"plugin": "giver"})
    [error] = load_catalogue().errors
    assert str(error.owner) == "taker 1.0"
    assert error.error == "the module giver is a plugin of giver 1.0 already"


# Damaged distributions.


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda info: (info / "METADATA").unlink(), "tells no name and version"),
        (lambda info: (info / "METADATA").write_text(""), "tells no name and version"),
        (lambda info: (info / "METADATA").write_text("Name: damaged\n"), "tells no version"),
        (lambda info: (info / "METADATA").write_bytes(b"Name: \xff\xfe\n"), "UnicodeDecodeError"),
        (
            lambda info: (info / "entry_points.txt").write_bytes(b"[ftbench]\n\xff = a\n"),
            "UnicodeDecodeError",
        ),
    ],
    ids=["no METADATA", "an empty one", "no version", "bytes", "bytes in points"],
)
def test_a_damaged_distribution_is_a_line_of_its_own(install, tmp_path, damage, message):
    install("damaged", STRATEGY.format(name="damaged"))
    install("good-plugin", STRATEGY.format(name="good"))
    damage(next((tmp_path / "damaged").glob("*.dist-info")))
    catalogue = load_catalogue()
    assert built_ins_are_there(catalogue)
    assert catalogue.find("strategy", "good")
    [error] = catalogue.errors
    assert error.owner.distribution == "damaged"
    assert message in error.error


def test_a_damaged_distribution_that_has_nothing_to_do_with_ftbench_is_not_mentioned(
    tmp_path, monkeypatch
):
    info = tmp_path / "other-1.0.dist-info"
    info.mkdir()
    (info / "entry_points.txt").write_bytes(b"[console_scripts]\n\xff\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert load_catalogue().errors == []


# Identity.


@pytest.mark.parametrize("returned", [None, "", 5, b"abc"])
@pytest.mark.parametrize("kind", ["Task", "Backbone"])
def test_a_fingerprint_that_identifies_nothing_is_a_planning_error(kind, returned):
    base = getattr(TinyPlugin, kind)
    changed = type("Changed", (base,), {"fingerprint": lambda self: returned})
    plugin = TinyPlugin(**{kind.lower(): changed})
    catalogue = load_catalogue(extra={"notebook": plugin})
    message = rf"{base.kind} '{base.name}' returned {returned!r}; expected a string"
    with pytest.raises(PluginError, match=message):
        catalogue.identify(changed())


@pytest.mark.parametrize(
    ("base", "members", "missing"),
    [
        (ftbench.Task, {}, r"pool\(\)"),
        (ftbench.ClassificationTask, {"pool": lambda self: None}, r"test\(\)"),
        (
            ftbench.ClassificationTask,
            dict.fromkeys(("pool", "test", "fingerprint"), print),
            "classes",
        ),
        (ftbench.BackboneFamily, {"fingerprint": lambda self: "abc"}, r"build\(\)"),
    ],
)
def test_a_component_that_lacks_a_member_is_refused_when_it_is_used(base, members, missing):
    cls = type("Half", (base,), {"name": "half", **members})
    plugin = TinyPlugin(**{"task" if issubclass(base, ftbench.Task) else "backbone": cls})
    catalogue = load_catalogue(extra={"notebook": plugin})
    with pytest.raises(PluginError, match=rf"{base.kind} 'half': Half lacks {missing}"):
        catalogue.identify(cls())


def test_an_edited_component_is_another_one(install):
    identities = []
    for text in ("return stage.is_head", "return True", "return stage.is_head  # the head alone"):
        body = STRATEGY.format(name="mine").replace(
            '"mine"', f'"mine"\n    def trains(self, stage, progress):\n        {text}'
        )
        module = f"edited{len(identities)}"
        install(module, body)
        catalogue = load_catalogue()
        sources = [e.source for e in catalogue.entries if e.owner.distribution == module]
        identities += sources
    assert identities[0] == identities[2] != identities[1]
    assert all(len(source) == 64 for source in identities)


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

    assert columns.is_taken(column)
    catalogue = load_catalogue(extra={"notebook": TinyPlugin(task=Timed)})
    [error] = catalogue.errors
    assert str(error.owner) == "notebook"
    assert error.error == f"Timed has a metric '{column}', the name of another column"
    assert "tiny" not in catalogue.names("task")


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"scored_on": 3}, "scored_on is 3 (int); expected the name of a column that counts rows"),
        ({"cost": 5}, "cost is 5 (int); expected one of '', 'measured', 'counted'"),
        ({"cost": "time"}, "cost is 'time' (str); expected one of '', 'measured', 'counted'"),
        ({"cost": [1]}, "cost is [1] (list); expected one of '', 'measured', 'counted'"),
        ({"rows": None}, "rows is None (NoneType); expected the name of a column that counts rows"),
    ],
)
def test_a_metric_that_no_table_could_read_is_refused_at_load(changes, problem):
    class Odd(TinyPlugin.Task):
        metrics = (ftbench.Metric("a", "a", **changes),)

    [error] = load_catalogue(extra={"notebook": TinyPlugin(task=Odd)}).errors
    assert error.error == f"Odd.metrics: {Odd.metrics[0]!r}.{problem}"


def test_every_field_of_a_metric_is_checked_and_every_cost_is_known():
    assert list(METRIC_FIELDS) == [field.name for field in dataclasses.fields(ftbench.Metric)]
    assert get_args(get_type_hints(ftbench.Metric)["cost"]) == COSTS


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
    known = "csv, digits, image-folder, letters, torchvision-data"
    with pytest.raises(SpecError, match=rf"there are {known} \('ftbench plugins' lists"):
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
        load_catalogue().build(ftbench.Strategy, "full", {})


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
    assert isinstance(catalogue.build(ftbench.Strategy, "mine", {}), Mine)


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
        load_catalogue().build(ftbench.Strategy, "partial", {"stage": 1})
    assert load_catalogue().build(ftbench.Strategy, "partial", {"stages": 2}).options.stages == 2


def test_a_reference_gives_its_components_with_their_identities():
    found = load_catalogue().resolve(ftbench.Strategy, "partial(stages=[1, 2])")
    assert [r.component.options.stages for r in found] == [1, 2]
    assert [r.identity.label for r in found] == ["partial", "partial(stages=2)"]
    assert {r.identity.owner for r in found} == {"ftbench"}


def test_what_a_plugin_raises_while_a_reference_is_resolved_names_it(tiny):
    class Broken(tiny.Task):
        def fingerprint(self):
            raise ValueError("no such file")

    catalogue = load_catalogue(extra={"mine": type(tiny)(task=Broken)})
    with pytest.raises(PluginError, match=r"the task 'tiny' of mine.*: ValueError: no such file"):
        catalogue.resolve(ftbench.Task, "tiny")


FORMAT = """
import ftbench

@ftbench.hookimpl
def ftbench_report_formats():
    return {"mine": ftbench.Format(str, ".txt")}
"""


@pytest.mark.parametrize(("entry_point", "loaded"), [("strategies", False), ("plugin", True)])
def test_an_entry_point_named_after_a_kind_is_loaded_for_that_kind_alone(
    tmp_path, monkeypatch, entry_point, loaded
):
    module = f"only_{entry_point}"
    text = STRATEGY.format(name="mine")
    distribution(tmp_path, "only", entry_points={entry_point: module}, modules={module: text})
    monkeypatch.syspath_prepend(tmp_path)
    assert load_catalogue(kinds=["format"]).errors == []
    assert (module in sys.modules) is loaded
    assert "mine" in load_catalogue(kinds=["strategy"]).names("strategy")
    assert "mine" in load_catalogue().names("strategy")
    del sys.modules[module]


def test_an_entry_point_named_after_a_kind_that_brings_another_is_an_error(tmp_path, monkeypatch):
    text = STRATEGY.format(name="mine") + FORMAT
    distribution(tmp_path, "both", entry_points={"strategies": "both"}, modules={"both": text})
    monkeypatch.syspath_prepend(tmp_path)
    catalogue = load_catalogue()
    [error] = catalogue.errors
    assert "brings ftbench_strategies() alone, and this one has ftbench_report_formats()" in (
        error.error
    )
    assert "mine" not in catalogue.names("strategy")
    del sys.modules["both"]


def test_a_catalogue_of_some_kinds_does_not_say_that_others_are_missing():
    with pytest.raises(ValueError, match="loaded for format, not task"):
        load_catalogue(kinds=["format"]).find("task", "digits")

import json

import pytest

from tests.support import distribution

HEAD = "import ftbench\n@ftbench.hookimpl\n"
SHARED = (
    HEAD + "def ftbench_strategies():\n    return [type('X', (ftbench.Strategy,), {'name': 'x'})]"
)


@pytest.fixture
def install(tmp_path, monkeypatch):
    """A function that makes a distribution with one module findable."""

    def add(name, module, text):
        folder = tmp_path / name
        distribution(folder, name, entry_points={"entry": module}, modules={module: text})
        monkeypatch.syspath_prepend(folder)

    return add


def test_everything_installed_is_listed_with_its_owner(ftbench_command):
    outcome = ftbench_command("plugins")
    assert (outcome.code, outcome.err) == (0, "")
    lines = [line.split() for line in outcome.out.splitlines()]
    for kind, name in (("strategy", "ewc"), ("task", "digits"), ("backbone", "glyphnet")):
        assert any(line[:3] == [kind, name, "ftbench"] for line in lines), name
    hooks = [line[0] for line in lines if line and line[0].startswith("ftbench_")]
    assert {"ftbench_strategies", "ftbench_run_finished"} <= set(hooks)


def test_json_parses_and_says_the_same(ftbench_command):
    listed = json.loads(ftbench_command("plugins", "--json").out)
    assert set(listed) == {"components", "hooks", "errors", "conflicts"}
    ewc = next(c for c in listed["components"] if c["name"] == "ewc")
    assert (ewc["kind"], ewc["owner"]) == ("strategy", "ftbench")
    assert ewc["version"]
    assert ewc["options"]["strength"] == 10.0
    progressive = next(c for c in listed["components"] if c["name"] == "progressive")
    assert isinstance(progressive["options"]["form"], str)
    assert "ftbench_run_started" in listed["hooks"]
    assert listed["errors"] == listed["conflicts"] == []


def test_an_option_without_a_default_is_required(ftbench_command, install):
    module = HEAD + "def ftbench_strategies():\n"
    module += "    class Options(ftbench.StrategyOptions):\n"
    module += "        where: str\n        many: tuple[int, ...] = (1, 2)\n"
    module += "    body = {'name': 'asks', 'Options': Options}\n"
    module += "    return [type('Asks', (ftbench.Strategy,), body)]\n"
    install("asking", "listing_asking", module)
    outcome = ftbench_command("plugins", "--json")
    assert outcome.code == 0
    asks = next(c for c in json.loads(outcome.out)["components"] if c["name"] == "asks")
    assert asks["options"] == {"where": "required", "many": [1, 2]}


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_a_plugin_that_fails_to_import_is_listed_with_its_error(ftbench_command, install, flags):
    install("broken-one", "listing_broken", "import no_such_module_at_all")
    outcome = ftbench_command("plugins", *flags)
    assert outcome.code == 1
    assert "broken-one" in outcome.out
    assert "No module named 'no_such_module_at_all'" in outcome.out
    assert "head-only" in outcome.out


def test_the_json_of_an_error_names_owner_version_and_entry_point(ftbench_command, install):
    install("broken-two", "listing_broken_two", "raise SystemExit(3)")
    [error] = json.loads(ftbench_command("plugins", "--json").out)["errors"]
    assert error == {
        "owner": "broken-two",
        "version": "1.0",
        "entry_point": "entry",
        "error": "SystemExit: 3",
    }


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_two_owners_of_one_name_are_listed(ftbench_command, install, flags):
    install("owner-one", "listing_one", SHARED)
    install("owner-two", "listing_two", SHARED)
    outcome = ftbench_command("plugins", *flags)
    assert outcome.code == 1
    assert "the strategy 'x' is claimed by owner-one 1.0 and owner-two 1.0" in outcome.out


def test_a_broken_plugin_keeps_no_sweep_from_running(
    ftbench_command, install, tiny_sweep, tmp_path
):
    install("broken-three", "listing_broken_three", "1 / 0")
    assert tiny_sweep().code == 0

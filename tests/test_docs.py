"""What the documents say about columns, hooks, flags and options is what the code does."""

import hashlib
import inspect
import re
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
import typer
from torch import nn

import ftbench
from ftbench import columns, hookspecs
from ftbench.cli.app import app
from ftbench.config import SweepSpec, parse_spec, read_toml
from ftbench.recipe import PARTS, Recipe
from ftbench.report.formats.comparisons import comparisons
from ftbench.report.formats.csv import comma_separated
from ftbench.report.frame import to_frame
from ftbench.report.summary import Standing
from ftbench.report.tables import summarize
from ftbench.store import RUNS, SPEC, TORN
from ftbench.sweep import expand, run_sweep
from tests.support import ROOT, TESTS, data_of, grid, tiny_sweep
from tests.tasks.images import write
from tests.tiny import TinyPlugin

HOOKS = [name for name in vars(hookspecs) if name.startswith("ftbench_")]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PLUGINS = (ROOT / "plugins" / "README.md").read_text(encoding="utf-8")
RESULTS = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")


def table_after(text, heading):
    """Return the first cells of the Markdown table whose first heading is ``heading``."""
    rows = re.split(r"\n\n", text.split(f"| {heading} |", 1)[1])[0].splitlines()[2:]
    return [row.split(" | ")[0].removeprefix("| ") for row in rows]


def documented(heading):
    """Return the names in backquotes in the first column of that table of docs/results.md."""
    return {name for cell in table_after(RESULTS, heading) for name in re.findall("`(.+?)`", cell)}


# docs/results.md


def test_every_column_of_load_results_is_documented_and_no_other(tmp_path, catalogue):
    run_sweep(tiny_sweep(strategies=("full",)), tmp_path, catalogue=catalogue)
    found = set(ftbench.load_results(tmp_path))
    scores = documented("score")
    assert scores == {metric.name for metric in ftbench.ClassificationTask.metrics}
    # A preset is resolved before a run is made; drift is measured where no source task is.
    recipe = {f"recipe_{name}" for name in ftbench.Recipe.model_fields if name != "preset"}
    drift = {"drift_kl", "drift_agreement"}
    declared = {column.name for column in columns.COLUMNS} - drift
    assert found == (declared - {"recipe_*"}) | recipe | scores
    assert columns.with_table(RESULTS) == RESULTS, "python -m ftbench.columns docs/results.md"


def test_every_file_of_a_sweep_is_documented(tmp_path, catalogue):
    run_sweep(tiny_sweep(strategies=("full",)), tmp_path, catalogue=catalogue)
    files = {path.name for path in tmp_path.iterdir()}
    assert documented("file") == files | {TORN, ".lock-owner"}
    assert {RUNS, SPEC} <= files
    assert to_frame([]).empty


def test_every_standing_and_format_is_documented():
    assert documented("standing") == set(get_args(Standing))
    summary = summarize(to_frame(grid({"a": [0.5, 0.6, 0.7], "b": [0.1, 0.2, 0.4]})))
    rows = re.findall(r"^\| `(csv|comparisons)` \| .*? \| (.*) \|$", RESULTS, re.MULTILINE)
    written = {"csv": comma_separated(summary), "comparisons": comparisons(summary)}
    assert {name: re.findall("`(.+?)`", columns) for name, columns in rows} == {
        name: text.splitlines()[0].split(",") for name, text in written.items()
    }


# plugins/README.md


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_is_in_the_reference_with_its_signature_and_purpose(hook):
    function = getattr(hookspecs, hook)
    assert f"| `{hook}{inspect.signature(function, eval_str=False)}` |".replace("'", "") in (
        PLUGINS.replace("'", "")
    )
    assert inspect.getdoc(function).count("\n") == 0
    assert f"| {inspect.getdoc(function)} |" in PLUGINS


def test_the_reference_lists_no_hook_that_is_not_there():
    assert set(re.findall(r"\| `(ftbench_\w+)\(", PLUGINS)) == set(HOOKS)


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_has_a_test(hook):
    assert f"def test_{hook}_" in (TESTS / "test_hookspecs.py").read_text(encoding="utf-8")


def test_every_method_of_a_strategy_is_in_the_table_and_no_other():
    methods = {
        f"{name}({', '.join(list(inspect.signature(value).parameters)[1:])})"
        for name, value in vars(ftbench.Strategy).items()
        if inspect.isfunction(value)
    }
    assert {cell.strip("`") for cell in table_after(PLUGINS, "method")} == methods


def python_blocks(document, containing):
    """Return the Python blocks of a document that contain a text."""
    text = (ROOT / document).read_text(encoding="utf-8")
    return [b for b in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if containing in b]


@pytest.mark.parametrize("document", ["README.md", "plugins/README.md"])
def test_the_strategies_that_the_documents_show_work(document):
    [code] = python_blocks(document, "def ftbench_strategies")
    namespace = {}
    exec(code, namespace)
    [strategy] = namespace["ftbench_strategies"]()
    assert issubclass(strategy, ftbench.Strategy)
    assert strategy().trains(ftbench.Stage(5, 5, "head"), 0.0)
    assert not strategy().trains(ftbench.Stage(0, 5, "stem"), 0.0)


def test_the_pull_that_the_operators_page_shows_works(tiny_model):
    [code] = python_blocks("docs/operators.md", "class PullToStart")
    namespace = {}
    exec(code, namespace)
    model, strategy = tiny_model(), namespace["PullToStart"]()
    strategy.prepare(model, data_of())
    penalty = strategy.penalty(model)
    assert penalty.add_gradient_().item() == 0
    shared = list(model.shared_parameters().values())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 2.0
    values = sum(parameter.numel() for parameter in shared)
    assert penalty.value().item() == pytest.approx(0.5 * 0.1 * 4 * values)
    penalty.add_gradient_()
    assert all(torch.allclose(p.grad, torch.tensor(0.2)) for p in shared)
    assert model.head.weight.grad is None
    assert not strategy.decays(ftbench.Stage(0, 5, "stem"))


def test_the_measurement_that_the_benchmark_page_shows_gives_its_number(capsys):
    [code] = python_blocks("docs/benchmark.md", "subsets.draw")
    exec(code, {})
    assert capsys.readouterr().out == "88.7\n"
    assert "| 74.4 | 84.0 | 88.7 | 93.1 | 95.2 |" in (ROOT / "docs" / "benchmark.md").read_text(
        encoding="utf-8"
    )


def test_the_task_and_backbone_that_the_reference_shows_work(tmp_path):
    [code] = python_blocks("plugins/README.md", "class MyTask")
    example = TinyPlugin.Task()
    shown = {
        "ftbench": ftbench,
        "images": example.pool().inputs,
        "labels": example.pool().targets,
        "test_images": example.test().inputs,
        "test_labels": example.test().targets,
        "stem": lambda: nn.Conv2d(1, 4, 1),
        "body": lambda: nn.Sequential(nn.Flatten(), nn.Linear(4 * 64, 64), nn.ReLU()),
    }
    exec(code, shown)
    plugin = TinyPlugin(task=shown["MyTask"], backbone=shown["MyBackbone"])
    catalogue = ftbench.load_catalogue(extra={"mine": plugin})
    assert catalogue.errors == []
    spec = tiny_sweep(strategies=("full", "head-only"))
    spec = spec.model_copy(update={"tasks": ("my-task",), "backbones": ("my-net",)})
    run_sweep(spec, tmp_path, catalogue=catalogue)
    frame = ftbench.load_results(tmp_path)
    assert frame["status"].tolist() == ["ok", "ok"], frame["message"].tolist()


def test_the_image_task_backbone_and_augmentation_that_the_reference_shows_work(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("FTBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)

    def my_model():
        return nn.Sequential(
            nn.Sequential(nn.Conv2d(3, 8, 8, 8), nn.BatchNorm2d(8), nn.ReLU()),
            nn.Sequential(nn.Conv2d(8, 32, 8), nn.BatchNorm2d(32), nn.ReLU(), nn.Flatten()),
            nn.Linear(32, 5),
        )

    torch.manual_seed(0)
    torch.save(my_model().state_dict(), "my-net.pth")
    for index in range(24):
        write(tmp_path / "birds" / f"{'crow' if index % 2 else 'wren'}_{index}.jpg", "red", index)
    shown = {"ftbench": ftbench, "Path": Path, "np": np, "torch": torch, "my_model": my_model}
    shown["hashlib"] = hashlib
    lines = 0
    for needle in ("class Birds", "class MyNet", "class Posterize"):
        [code] = python_blocks("plugins/README.md", needle)
        exec(code, shown)
        lines += len([line for line in code.splitlines() if line.strip()])
    assert lines < 3 * 16

    class Plugin(TinyPlugin):
        @ftbench.hookimpl
        def ftbench_augmentations(self):
            return [shown["Posterize"]]

    catalogue = ftbench.load_catalogue(extra={"mine": Plugin([], shown["Birds"], shown["MyNet"])})
    assert catalogue.errors == []
    spec = ftbench.SweepSpec(
        tasks=(f"birds(path={str(tmp_path / 'birds')!r})",),
        backbones=("my-cut-net",),
        strategies=("full", "head-only"),
        sizes=(8,),
        seeds=(0,),
        recipe={"steps": 2, "augmentation": "posterize(bits=3)"},
    )
    run_sweep(spec, tmp_path / "out", catalogue=catalogue)
    frame = ftbench.load_results(tmp_path / "out")
    assert frame["status"].tolist() == ["ok", "ok"], frame["message"].tolist()
    assert frame["drift_agreement"].notna().all()


def test_the_report_format_that_the_reference_shows_works():
    [code] = python_blocks("plugins/README.md", "def ftbench_report_formats")
    shown = {"ftbench": ftbench}
    exec(code, shown)
    summary = summarize(to_frame(grid({"a": [0.9], "b": [0.5]})))
    assert shown["ftbench_report_formats"]()["names"].render(summary) == "a\nb"


def test_every_public_name_that_the_documents_use_is_public():
    for text in (README, PLUGINS):
        used = set(re.findall(r"\bftbench\.([A-Za-z_]+)", text))
        # Modules that are run, and files that are read.
        assert used - {"pretrain", "testing", "toml"} <= set(ftbench.__all__), text[:40]


# README.md


def commands():
    """Return the ``ftbench`` command lines of the documents."""
    for text in (README, PLUGINS):
        for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL):
            yield from (line.split(" #")[0] for line in block.splitlines() if "ftbench " in line)
        yield from re.findall(r"`(ftbench [a-z][^`]*)`", text)


def test_every_flag_that_the_documents_show_exists():
    group = typer.main.get_command(app)
    flags = {
        name: {option for parameter in command.params for option in parameter.opts} | {"--help"}
        for name, command in group.commands.items()
    }
    found = list(commands())
    assert len(found) > 5
    for line in found:
        name = line.split()[1]
        assert name in flags, line
        assert set(re.findall(r"--[a-z][a-z-]*", line)) <= flags[name], line


def test_every_flag_of_a_sweep_that_was_promised_exists():
    sweep = typer.main.get_command(app).commands["sweep"]
    options = {option for parameter in sweep.params for option in parameter.opts}
    assert {
        *("--tasks", "--backbones", "--strategies", "--sizes", "--seeds", "--num-seeds", "--steps"),
        *("--device", "--set", "--out", "--dry-run", "--retry", "--quick"),
    } <= options


def test_the_spec_that_the_readme_shows_is_valid(tmp_path):
    [toml] = re.findall(r"```toml\n(.*?)```", README, re.DOTALL)
    (tmp_path / "shown.toml").write_text(toml, encoding="utf-8")
    spec = parse_spec(read_toml(tmp_path / "shown.toml"), "README.md")
    assert expand(spec, ftbench.load_catalogue())


def test_the_readme_lists_every_strategy_with_its_options():
    catalogue = ftbench.load_catalogue()
    section = README.split("## Strategies", 1)[1]
    rows = {
        re.match(r"\| `(.+?)`", row).group(1): row
        for row in section.split("\n\n")[1].splitlines()[2:]
    }
    assert set(rows) == set(catalogue.names("strategy"))
    for name, row in rows.items():
        for option in catalogue.find("strategy", name).value.Options.model_fields:
            assert f"`{option}`" in row, f"{name}: {option}"


def test_the_readme_has_no_placeholder_left():
    assert "@@" not in README
    assert "| strategy | 20 " in README


@pytest.mark.parametrize(
    "path", ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "plugins/README.md", "LICENSE"]
)
def test_links_between_documents_lead_somewhere(path):
    document = ROOT / path
    text = document.read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", text):
        assert (document.parent / target).exists(), target


@pytest.mark.parametrize("model", [SweepSpec, Recipe])
def test_every_key_of_a_spec_is_documented_with_its_default_and_meaning(model):
    rows = [line.split(" | ") for line in (ROOT / "docs/spec.md").read_text().splitlines()]
    documented = {row[0].strip("| `"): row[1:] for row in rows if len(row) == 3}
    for name, field in model.model_fields.items():
        default, meaning = documented[name]
        assert meaning.removesuffix(" |") == field.description
        shown = field.default
        if isinstance(shown, tuple):
            shown = ", ".join(map(str, shown))
        if name != "recipe":
            assert default.strip("`").lower() == str(shown).lower()


def test_every_built_in_part_of_a_recipe_is_documented_with_its_options():
    page = (ROOT / "docs/spec.md").read_text(encoding="utf-8")
    for entry in ftbench.load_catalogue().entries:
        if entry.kind not in PARTS or entry.owner.distribution != "ftbench":
            continue
        options = ", ".join(
            f"`{name}={field.default!r}` ({field.description})"
            for name, field in entry.value.Options.model_fields.items()
        )
        first = inspect.getdoc(entry.value).splitlines()[0]
        assert f"| {entry.kind} | `{entry.name}` | {first} | {options} |" in page


# CONTRIBUTING.md

CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def test_what_the_house_and_its_table_name_is_there():
    table = CONTRIBUTING.split("## To change one thing")[1].split("## Tests")[0]
    named = set(re.findall(r"`((?:ftbench|docs|tests|plugins)/[\w./]*|README\.md)`", table))
    assert len(named) > 25
    missing = sorted(path for path in named if not (ROOT / path).exists())
    assert missing == []


def test_every_room_is_in_the_picture_of_the_house():
    picture = CONTRIBUTING.split("```text")[1].split("```")[0]
    rooms = {
        path.stem if path.is_file() else f"{path.name}/"
        for path in (ROOT / "ftbench").iterdir()
        if (path.suffix == ".py" or (path / "__init__.py").exists()) and path.name[0] != "_"
    }
    words = set(re.findall(r"[\w]+/?", picture))
    # The ground floor ends with …, and these stand beside the house.
    ground = {
        "source",
        "environment",
        "memory",
        "answers",
        "class_names",
        "pretrain",
        "predictions",
    }
    assert rooms - words - ground == set()


@pytest.mark.parametrize("room", ["sweep", "run", "train", "report", "plugins"])
def test_every_file_of_a_room_is_in_its_row(room):
    (row,) = re.findall(rf"^\| `{room}/` \|.*$", CONTRIBUTING, re.MULTILINE)
    inside = {p.stem for p in (ROOT / "ftbench" / room).glob("*.py") if p.stem != "__init__"}
    named = set(re.findall(r"`(\w+)/?`", row)) - {room}
    assert inside - named <= {"losses"}
    assert {name for name in named if name.islower()} - inside <= {"formats"}


# docs/operators.md: what the compiled operators are worth

PEERS = {
    "timm": "timm",
    "torchvision": "torchvision v2",
    "autograd": "a loop over parameters, through autograd",
    "`torch.compile`": "torch.compile of the loop",
    "`_foreach`": "torch._foreach",
    "`torch.compile` without autograd": "torch.compile of a loop without autograd",
}


def cells_of(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def rounds_to(text, value):
    """Return whether a number of the page is the measured one, rounded to its last digit."""
    decimals = len(text.partition(".")[2])
    return abs(float(text) - value) <= 0.5001 * 10**-decimals


def test_the_table_of_the_operators_is_of_the_committed_measurement():
    measured = (ROOT / "benchmarks" / "results" / "amd-epyc-2-cores.md").read_text(encoding="utf-8")
    ours, peers, name = {}, {}, ""
    for title, *cells in map(cells_of, measured.split("\n\n")[0].splitlines()[2:]):
        if title.startswith("**"):
            name = title.strip("*").replace("64×3×224×224 ", "").removesuffix(", ResNet-50")
            ours[name] = cells
        else:
            peers[name, title] = cells
    page = (ROOT / "docs/operators.md").read_text(encoding="utf-8")
    lines = page.split("| on two cores of an EPYC")[1].split("\n\n")[0].splitlines()[2:]
    assert len(lines) == 7
    for name, time, share, others in map(cells_of, lines):
        median, _, copies = ours[name][:3]
        number, unit = median.lstrip("~").split()
        milliseconds = float(number) * {"ms": 1, "µs": 1e-3}[unit]
        assert time.startswith("~") == median.startswith("~"), name
        assert rounds_to(time.strip("~ ms"), milliseconds), name
        assert share.replace(" ", "") == copies.split()[0], name
        for peer, factor in (each.rsplit(" ", 1) for each in others.split(", ")):
            (cells,) = (
                cells
                for (of, title), cells in peers.items()
                if of == name and title.startswith(PEERS[peer])
            )
            assert rounds_to(factor, float(cells[3].partition("×")[0])), (name, peer)

"""docs/images.md and docs/models.md, run as they are written."""

import re
import shlex

import pytest
import timm
import torch
from typer.testing import CliRunner

from ftbench.cli.app import app
from ftbench.tasks.listing import ImageTaskOptions
from tests.support import ROOT
from tests.tasks.images import COLOURS, folder, write

PAGES = ("images.md", "models.md")


def commands(page):
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A folder with what the pages speak of."""
    root = tmp_path_factory.mktemp("docs")
    folder(root / "photos", each=20)
    lines = ["file,species,weight,ring,seen"]
    for index in range(30):
        colour = sorted(COLOURS)[index % 3]
        write(root / "birds" / f"{index}.png", colour, index)
        seen = "sea;shore" if index % 2 else "shore"
        lines.append(f"birds/{index}.png,{colour},{10 + index / 7:.3f},r{index // 3},{seen}")
    (root / "birds.csv").write_text("\n".join(lines) + "\n")
    torch.manual_seed(0)
    torch.save(timm.create_model("tf_efficientnet_lite0").state_dict(), root / "lite0.pth")
    return root


@pytest.mark.slow
@pytest.mark.parametrize(("page", "command"), [(p, c) for p in PAGES for c in commands(p)])
def test_every_command_runs(here, monkeypatch, page, command):
    monkeypatch.chdir(here)
    monkeypatch.setenv("FTBENCH_CACHE", str(here / "cache"))
    program, *arguments = shlex.split(command)
    assert program == "ftbench"
    found = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert found.exit_code == 0, found.output
    assert "error" not in found.output
    if "sweep" in command:
        assert found.output.count("| head-only |") == 1
        again = CliRunner().invoke(app, arguments, catch_exceptions=False)
        assert "0 to run" in again.output + (again.stderr if again.stderr_bytes else "")


def test_the_pages_have_commands_and_every_option():
    assert len(commands("images.md")) == 5
    assert len(commands("models.md")) == 3
    page = (ROOT / "docs" / "images.md").read_text(encoding="utf-8")
    for name in ImageTaskOptions.model_fields.keys() - {"path"}:
        assert f"| `{name}` |" in page

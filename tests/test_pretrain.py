import functools
import hashlib
import re
import subprocess
import sys

import pytest
import torch

from ftbench import pretrain
from ftbench.backbones.glyphnet import GlyphNet, GlyphNetOptions
from ftbench.tasks import letters


@pytest.fixture
def short(monkeypatch):
    """Pre-train for a few steps on few letters; the command line then does so as well."""
    monkeypatch.setattr(letters, "POOL_LETTERS", 400)
    monkeypatch.setattr(letters, "TEST_LETTERS", 200)
    recipe = pretrain.RECIPE.model_copy(update={"epochs": None, "steps": 30, "batch_size": 64})
    shortened = functools.partial(pretrain.pretrain, recipe=recipe)
    monkeypatch.setattr(pretrain, "pretrain", shortened)
    return shortened


def test_a_few_steps_already_teach_letters(short):
    model, accuracy = short(0)
    held_out = letters.Letters().test()
    with torch.inference_mode():
        chosen = model.eval()(held_out.inputs).argmax(dim=1)
    assert accuracy == (chosen == held_out.targets).double().mean().item()
    assert accuracy > 3 / 52  # chance is 1/52


def test_its_norm_statistics_are_trained(short):
    model, _ = short(0)
    assert model.stages[0][1].running_mean.abs().max() > 0
    assert model.stages[0][1].num_batches_tracked == 30


@pytest.fixture
def written(short, tmp_path, capsys):
    """Run the command line; returns the file and what was printed."""

    def write(name, *arguments):
        path = tmp_path / name
        pretrain.main(["--out", str(path), "--threads", "1", *arguments])
        return path, capsys.readouterr()

    return write


def test_the_command_line_writes_weights_that_glyphnet_loads_and_prints_their_hash(written):
    path, printed = written("new.safetensors")
    sha256, accuracy = re.fullmatch(
        r'WEIGHTS_SHA256 = "([0-9a-f]{64})"\nSOURCE_ACCURACY = (\S+)\n', printed.out
    ).groups()
    family = GlyphNet(GlyphNetOptions(weights=str(path)))
    assert sha256 == hashlib.sha256(path.read_bytes()).hexdigest() == family.fingerprint()
    backbone = family.build(pretrained=True)
    whole = torch.nn.Sequential(*(s for _, s in backbone.stages), backbone.source_head).eval()
    held_out = letters.Letters().test()
    with torch.inference_mode():
        right = whole(held_out.inputs).argmax(dim=1) == held_out.targets
    assert float(accuracy) == pytest.approx(right.double().mean().item(), abs=1e-9)
    assert "step 30 of 30" in printed.err


def test_a_seed_gives_the_same_bytes_twice_and_another_seed_others(written):
    first, again, other = (
        written(name, "--seed", seed)[0].read_bytes()
        for name, seed in (("a", "0"), ("b", "0"), ("c", "1"))
    )
    assert first == again
    assert first != other


def test_the_module_is_a_command():
    shown = subprocess.run(
        [sys.executable, "-m", "ftbench.pretrain", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "python -m ftbench.pretrain" in shown.stdout
    assert "--out" in shown.stdout

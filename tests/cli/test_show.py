"""``ftbench show``: what is known of one component, before anything trains."""

import pytest
import torch
from torchvision import models
from typer.testing import CliRunner

from ftbench.cli.app import app
from ftbench.errors import SpecError, WeightsError
from tests.tasks.images import folder, write


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("FTBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


def shown(*arguments):
    found = CliRunner().invoke(app, ["show", *map(str, arguments)], catch_exceptions=False)
    assert found.exit_code == 0, found.output
    return found.output


def test_a_backbones_stages_stand_in_order_with_parameters_and_shapes(monkeypatch):
    def unreachable(*args, **kwargs):
        raise OSError("no network in tests")

    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    output = shown("backbone", "torchvision/resnet18")
    rows = [line.split() for line in output.splitlines()]
    stages = [row[0] for row in rows if row and row[0].startswith(("stem", "layer"))]
    assert stages == ["stem", "layer1", "layer2", "layer3", "layer4"]
    assert ["layer1", "147,968", "64", "×", "56", "×", "56"] in rows
    assert ["layer4", "8,393,728", "512"] in rows
    assert "pooled features of width 512 from image" in output
    assert "shorter side to 256 px (bilinear), the middle 224 × 224, RGB" in output
    assert "not here: the weights resnet18-f37072fd.pth" in output
    assert "torch/hub/checkpoints/resnet18-f37072fd.pth" in output


@pytest.fixture
def weights(tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "mine.pth"
    torch.save(models.resnet18().state_dict(), path)
    return path


def test_weights_that_are_there_are_hashed_and_asked_about_a_photograph(weights):
    output = shown("backbone", f"torchvision/resnet18(weights='{weights}', size=32)")
    assert f"weights      {weights}" in output
    assert "SHA-256" in output
    assert "1000 outputs: tench, …, toilet tissue" in output
    assert "of scikit-learn's china.jpg, a Chinese palace: " in output


def test_check_weights_scores_the_source_head_on_a_users_images(weights, tmp_path):
    images = tmp_path / "images"
    for index, name in enumerate(("tench", "goldfish", "no class")):
        write(images / name / f"{index}.png", "red", index)
    (images / "tench" / "bad.png").write_bytes(b"")
    reference = f"torchvision/resnet18(weights='{weights}', size=32)"
    output = shown("backbone", reference, "--check-weights", images)
    assert "tench/bad.png" in output
    assert "unreadable: an empty file" in output
    assert "% of 3 whose folder names a class" in output
    alone = shown("backbone", reference, "--check-weights", images / "goldfish" / "1.png")
    assert "1.png" in alone


def test_the_embedded_parts_are_shown_too():
    assert "block4" in shown("backbone", "glyphnet")
    output = shown("task", "digits")
    assert "pool           1,297 rows" in output
    assert "smallest size  10" in output
    assert "starts from  pre-trained weights" in shown("strategy", "ewc")
    assert "random weights" in shown("strategy", "scratch")


def test_a_folder_of_images_is_described(tmp_path):
    root = folder(tmp_path / "data", each=10)
    (root / "red" / "bad.png").write_bytes(b"")
    write(root / "red" / "copy.png", "red", 200)
    output = shown("task", f"image-folder(path='{root}')")
    assert "classes        3, of 8 to" in output
    assert "24 × 20 to 24 × 20 pixels" in output
    assert "1 images are copies of another" in output
    assert "red/bad.png: an empty file" in output
    assert "  green" in output


def test_a_list_shows_each():
    output = shown("strategy", "partial(stages=[1, 2])")
    assert "partial(stages=2)" in output
    assert output.count("is        The last") == 2


def test_a_recipe_is_printed_as_toml():
    assert 'mixing = "none"' in shown("recipe", "bit-hyperrule", "--size", 500)
    for arguments, said in (
        (("recipe", "tllib"), "ftbench show recipe tllib --size 500"),
        (("recipe", "tlib", "--size", "5"), "did you mean 'tllib'"),
        (("backbones", "glyphnet"), "did you mean 'backbone'"),
        (("task", "digits", "--check-weights", "."), "--check-weights is of a backbone"),
        (("strategy", "l2"), "did you mean 'l2sp'"),
    ):
        with pytest.raises(SpecError, match=said):
            CliRunner().invoke(app, ["show", *arguments], catch_exceptions=False)
    with pytest.raises((SpecError, WeightsError), match="there is no image in"):
        CliRunner().invoke(
            app,
            ["show", "backbone", "glyphnet", "--check-weights", "/nowhere"],
            catch_exceptions=False,
        )

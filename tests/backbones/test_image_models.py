"""Models of torchvision and timm as backbones: names, weights, offers, and what is refused."""

import hashlib
import json
import random
from importlib.metadata import version

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision import models

from ftbench.backbone import BackboneFamily, Model
from ftbench.backbones.of_timm import TimmModel
from ftbench.backbones.survey import smallest_of_each_module, try_model
from ftbench.component import parse_reference
from ftbench.errors import SpecError, WeightsError
from ftbench.plugins import load_catalogue
from ftbench.recipes.optimizers import AdamW
from ftbench.strategies.full import Full
from ftbench.train.optimizer import build_optimizer
from tests.support import ROOT

CATALOGUE = load_catalogue(kinds=("backbone",))


@pytest.fixture(autouse=True)
def _no_network(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    def unreachable(*args, **kwargs):
        raise OSError("no network in tests")

    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)


def family(reference):
    [(name, options)] = parse_reference(reference)
    return CATALOGUE.build(BackboneFamily, name, options)


def identity(reference):
    return CATALOGUE.resolve(BackboneFamily, reference)[0].identity


def whole_of(backbone):
    return nn.Sequential(*(stage for _, stage in backbone.stages), backbone.source_head).eval()


@pytest.fixture(scope="module")
def resnet():
    torch.manual_seed(5)
    return models.resnet18(weights=None)


@pytest.fixture
def weights(resnet, tmp_path):
    path = tmp_path / "mine.pth"
    torch.save(resnet.state_dict(), path)
    return path


def test_a_file_makes_the_model_that_it_was_saved_from(resnet, weights):
    built = family(f"torchvision/resnet18(weights='{weights}', size=32)").build(pretrained=True)
    images = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(whole_of(built)(images), resnet.eval()(images))
    assert [name for name, _ in built.stages] == ["stem", "layer1", "layer2", "layer3", "layer4"]


def test_random_weights_for_scratch_have_no_source_head(weights):
    torch.manual_seed(0)
    built = family(f"torchvision/resnet18(weights='{weights}', size=32)").build(pretrained=False)
    assert built.source_head is None
    stem = dict(built.stages)["stem"].state_dict()["conv1.weight"]
    assert not torch.equal(stem, torch.load(weights)["conv1.weight"])


def test_the_class_count_is_that_of_the_file(tmp_path):
    torch.manual_seed(0)
    torch.save(models.resnet18(num_classes=7).state_dict(), tmp_path / "seven.pth")
    seven = family(f"torchvision/resnet18(weights='{tmp_path / 'seven.pth'}', size=32)")
    assert seven.build(pretrained=True).source_head.out_features == 7
    assert seven.source_classes() == ()


def test_offers_and_outline_need_no_weights():
    missing = family("torchvision/resnet50(size=64)")
    assert [offer.width for offer in missing.offers()] == [2048]
    outline = missing.outline()
    assert dict(zip(outline.names, outline.shapes, strict=True)) == {
        "stem": (64, 16, 16),
        "layer1": (256, 16, 16),
        "layer2": (512, 8, 8),
        "layer3": (1024, 4, 4),
        "layer4": (2048,),
    }
    whole = sum(p.numel() for p in models.resnet50().parameters())
    assert sum(outline.parameters) == whole - (2048 * 1000 + 1000)


def test_the_grain_chooses_blocks_or_stages():
    names = family("torchvision/resnet18(size=32, stages='block')").outline().names
    assert names == ("stem", *(f"layer{i}.{j}" for i in range(1, 5) for j in range(2)))


def test_preprocessing_is_the_librarys_own_and_scales_with_the_size():
    own = family("torchvision/resnet18").preprocessing()
    transforms = models.ResNet18_Weights.DEFAULT.transforms()
    assert [*own.size, own.resize] == [*transforms.crop_size * 2, *transforms.resize_size]
    assert (own.mean, own.std) == (tuple(transforms.mean), tuple(transforms.std))
    smaller = family("torchvision/resnet18(size=112)").preprocessing()
    assert (smaller.size, smaller.resize) == ((112, 112), 128)
    of_timm = family("timm/resnet18").preprocessing()
    config = timm.data.resolve_model_data_config(timm.create_model("resnet18"))
    assert (of_timm.interpolation, of_timm.resize) == ("bicubic", int(224 / config["crop_pct"]))


def test_a_key_holds_hash_and_preprocessing_and_no_path(weights, tmp_path):
    here = identity(f"torchvision/resnet18(weights='{weights}')")
    moved = tmp_path / "elsewhere" / "other.pth"
    moved.parent.mkdir()
    moved.write_bytes(weights.read_bytes())
    assert identity(f"torchvision/resnet18(weights='{moved}')").identity() == here.identity()
    assert str(tmp_path) not in json.dumps(here.identity())
    assert here.label == "torchvision/resnet18(weights='mine.pth')"
    smaller = identity(f"torchvision/resnet18(weights='{weights}', size=64)")
    assert smaller.fingerprint != here.fingerprint
    torch.save({**torch.load(weights), "fc.bias": torch.ones(1000)}, weights)
    assert identity(f"torchvision/resnet18(weights='{weights}')").fingerprint != here.fingerprint


def test_wrong_weights_say_what_does_not_fit(weights):
    with pytest.raises(WeightsError, match=r"mine\.pth does not fit ResNet: \d+ of the model's"):
        family(f"torchvision/resnet34(weights='{weights}', size=32)").build(pretrained=True)
    with pytest.raises(WeightsError, match=r"mine\.pth does not fit timm/resnet34: \d+ of the"):
        family(f"timm/resnet34(weights='{weights}', size=32)").build(pretrained=True)
    for name in ("torchvision/resnet34", "timm/resnet34"):  # as a sweep is planned
        with pytest.raises(WeightsError, match=r"mine\.pth does not fit"):
            family(f"{name}(weights='{weights}', size=32)").fingerprint()


def test_without_file_and_network_the_error_names_file_place_and_option(tmp_path):
    with pytest.raises(WeightsError) as caught:
        family("torchvision/resnet18").fingerprint()
    said = str(caught.value)
    for needed in (
        "resnet18-f37072fd.pth",
        str(tmp_path / "torch"),
        "TORCH_HOME",
        'weights="FILE"',
    ):
        assert needed in said
    with pytest.raises(WeightsError) as caught:
        family("timm/resnet18.a1_in1k").fingerprint()
    for needed in ("model.safetensors", "models--timm--resnet18.a1_in1k", "HF_HOME", "FILE"):
        assert needed in str(caught.value)


def test_a_file_in_the_librarys_cache_is_used_and_held_to_its_name(resnet, tmp_path):
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    path = folder / "resnet18-f37072fd.pth"
    torch.save(resnet.state_dict(), path)
    with pytest.raises(WeightsError, match="its name says f37072fd; delete it, and it is downl"):
        family("torchvision/resnet18").fingerprint()


def test_the_hubs_cache_is_read_without_network(tmp_path):
    torch.manual_seed(0)
    model = timm.create_model("resnet18", num_classes=1000)
    repository = tmp_path / "hub" / "models--timm--resnet18.a1_in1k"
    snapshot = repository / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0123")
    save_file(model.state_dict(), snapshot / "model.safetensors")
    found = family("timm/resnet18(size=32)")
    built = found.build(pretrained=True)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(whole_of(built)(images), model.eval()(images))
    digest = hashlib.sha256((snapshot / "model.safetensors").read_bytes()).hexdigest()
    assert hashlib.sha256(found.used_weights().read_bytes()).hexdigest() == digest
    assert found.source_classes()[0] == "tench, Tinca tinca"


def test_weights_without_a_classifier_have_no_source_head(tmp_path):
    torch.manual_seed(0)
    model = timm.create_model("resnet18", num_classes=0)
    save_file(model.state_dict(), tmp_path / "self-supervised.safetensors")
    found = family(f"timm/resnet18(weights='{tmp_path / 'self-supervised.safetensors'}', size=32)")
    built = found.build(pretrained=True)
    assert built.source_head is None
    trunk = nn.Sequential(*(stage for _, stage in built.stages)).eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(trunk(images), model.eval()(images))


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("torchvision/resnet1", "no image classifier 'resnet1'; did you mean 'resnet18'"),
        ("torchvision/resnet18(weights='IMAGENET')", "did you mean 'IMAGENET1K_V1'"),
        ("torchvision/squeezenet1_0", "it has no linear layer"),
        ("torchvision/vit_b_16(size=100)", "at 100 pixels: Input shape indivisible"),
        ("torchvision/resnet18(size=4)", "option 'size'"),
        ("timm/resnet1", "timm has no model 'resnet1'; did you mean"),
        ("timm/resnet50.nope", "has no weights 'nope'"),
        ("timm/resnet18(weights='IMAGENET1K_V1')", "write a tag after the model's name"),
        ("timm/volo_d1_224", "cannot be cut into stages"),
        ("torchvision/resnet18(stages='layer')", "option 'stages'"),
    ],
)
def test_what_cannot_be_is_refused_before_weights_are_read(reference, said):
    with pytest.raises(SpecError, match=said.replace("(", r"\(")):
        family(reference).offers()


def test_a_missing_file_names_the_librarys_own_place(tmp_path):
    with pytest.raises(WeightsError, match=r"there is no weights file .*gone\.pth; check the path"):
        family(f"timm/resnet18(weights='{tmp_path}/gone.pth')").fingerprint()


@pytest.mark.parametrize(
    ("reference", "undecayed"),
    [
        ("timm/vit_tiny_patch16_224(weights='random', size=32)", {(1, 1, 192), (1, 5, 192)}),
        ("torchvision/vit_b_16(weights='random', size=32)", {(1, 1, 768), (1, 5, 768)}),
        ("timm/resnet18(weights='random', size=32)", set()),
    ],
)
def test_tokens_and_positions_take_no_weight_decay(reference, undecayed):
    built = family(reference).build(pretrained=False)
    assert {tuple(p.shape) for p in built.undecayed} == undecayed
    model = Model(built.stages, nn.Linear(3, 2), undecayed=built.undecayed)
    optimizer = build_optimizer(model, Full(), 0.1, AdamW())
    decayed = {p for g in optimizer.param_groups if g["weight_decay"] for p in g["params"]}
    assert decayed.isdisjoint(built.undecayed)
    assert all(p.dim() > 1 for p in decayed)


# One small model of each of 40 of timm's modules, drawn by a fixed seed, or refused as documented.
SURVEYED = smallest_of_each_module()
SAMPLE = random.Random(0).sample(sorted(SURVEYED), 40)
TABLE = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")


def is_of_the_table(library):
    """Return whether the table was made with the version that is installed."""
    return f"| module | model of {library} {version(library)} | |" in TABLE


@pytest.mark.slow
@pytest.mark.parametrize("module", SAMPLE)
def test_models_of_timm_are_cut_or_refused_as_the_table_says(module):
    # At a size that takes a fifth of the time, where the model can have it.
    tried = try_model(TimmModel, SURVEYED[module], module, size=96)
    if tried.problem:
        tried = try_model(TimmModel, SURVEYED[module], module)
    if is_of_the_table("timm"):
        assert tried.row() in TABLE.splitlines()
    elif f"| {module} | `{tried.model}` | not cut" not in TABLE:
        assert tried.problem == ""  # another version may cut others, and no fewer


@pytest.mark.skipif(
    not (is_of_the_table("timm") and is_of_the_table("torchvision")),
    reason="docs/models.md was made with other versions of timm and torchvision",
)
def test_the_table_has_every_model_of_torchvision_and_every_module_of_timm():
    for name in models.list_models(module=models):
        assert f"| `{name}` |" in TABLE
    for module, model in SURVEYED.items():
        assert f"| {module} | `{model}` |" in TABLE


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["coat_tiny", "mvitv2_tiny", "pit_xs_224", "selecsls42", "hrnet_w18_small"]
)
def test_tuples_between_stages_are_dicts_of_tensors_with_the_models_gradients(name):
    torch.manual_seed(0)
    backbone = family(f"timm/{name}(weights='random')").build(pretrained=True)
    torch.manual_seed(0)
    whole = timm.create_model(name)
    side = whole.pretrained_cfg["input_size"][-1]
    images = torch.randn(2, 3, side, side)
    flows, kinds = images, set()
    for _, stage in backbone.stages:
        flows = stage.eval()(flows)
        kinds.add(type(flows))
    assert kinds == {dict, torch.Tensor}
    flows.square().sum().backward()
    whole.reset_classifier(0)
    whole.eval()(images).square().sum().backward()
    # One that several modules share has several names.
    expected = {n: p.grad for n, p in whole.named_parameters(remove_duplicate=False)}
    stages = nn.ModuleList(stage for _, stage in backbone.stages)
    assert len(list(stages.parameters())) == len(list(whole.parameters()))
    for stage in stages:
        for name, parameter in stage.named_parameters(remove_duplicate=False):
            assert torch.equal(parameter.grad, expected[name]), name

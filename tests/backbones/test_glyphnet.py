import hashlib
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import ftbench
from ftbench.backbones import glyphnet
from ftbench.backbones.glyphnet import GlyphNet, GlyphNetOptions
from ftbench.errors import WeightsError
from ftbench.tasks.digits import Digits

SHAPES = {
    "stem": (16, 16, 16), "block1": (16, 16, 16), "block2": (32, 8, 8), "block3": (64, 4, 4),
    "block4": (128, 2, 2),
}  # fmt: skip
# Convolutions of 3×3, and a scale and a shift for each of their outputs.
CONVOLUTIONS = ((1, 16), (16, 16), (16, 32), (32, 32), (32, 64), (64, 64), (64, 128), (128, 128))
PARAMETERS = sum(9 * inputs * outputs + 2 * outputs for inputs, outputs in CONVOLUTIONS)


@pytest.fixture(scope="module")
def shipped():
    return GlyphNet().build(pretrained=True)


def whole(backbone):
    stages = [module for _, module in backbone.stages]
    return nn.Sequential(*stages, *([backbone.source_head] if backbone.source_head else []))


def test_five_stages_in_order_end_in_128_features(shipped):
    x = torch.rand(2, 1, 32, 32)
    for name, stage in shipped.stages:
        x = stage.eval()(x)
        assert x.shape[1:] == SHAPES[name]
    assert [name for name, _ in shipped.stages] == list(SHAPES)
    assert GlyphNet().offers() == (
        ftbench.Offer("pooled", (128,)),
        ftbench.Offer("maps", (128,), strides=(32 // x.shape[2],)),
    )
    assert shipped.readouts["pooled"](x).shape == (2, 128)
    assert sum(p.numel() for _, s in shipped.stages for p in s.parameters()) == PARAMETERS


def test_stages_composed_are_a_plain_network_with_the_same_weights(shipped):
    """Against a network written out by hand, layer by layer, from the file's tensors alone."""
    tensors = load_file(glyphnet.WEIGHTS)
    x = images = torch.rand(3, 1, 32, 32)
    layers = [
        (0, 0, 2),
        (1, 0, 1),
        (2, 0, 2),
        (2, 3, 1),
        (3, 0, 2),
        (3, 3, 1),
        (4, 0, 2),
        (4, 3, 1),
    ]
    for stage, first, stride in layers:
        x = nn.functional.conv2d(x, tensors[f"stages.{stage}.{first}.weight"], None, stride, 1)
        mean, variance, scale, shift = (
            tensors[f"stages.{stage}.{first + 1}.{name}"].view(-1, 1, 1)
            for name in ("running_mean", "running_var", "weight", "bias")
        )
        x = ((x - mean) / (variance + 1e-5).sqrt() * scale + shift).clamp(min=0)
    logits = x.mean(dim=(2, 3)) @ tensors["head.weight"].T + tensors["head.bias"]
    with torch.no_grad():
        torch.testing.assert_close(whole(shipped).eval()(images), logits, rtol=1e-3, atol=1e-4)


def test_the_shipped_file_is_small_and_has_the_stated_hash():
    content = glyphnet.WEIGHTS.read_bytes()
    assert len(content) < 1_500_000
    assert hashlib.sha256(content).hexdigest() == glyphnet.WEIGHTS_SHA256
    assert GlyphNet().fingerprint() == glyphnet.WEIGHTS_SHA256


def test_the_shipped_weights_reach_the_stated_accuracy_on_held_out_letters(shipped):
    letters = Digits().source().held_out
    with torch.inference_mode():
        logits = whole(shipped).eval()(letters.inputs)
    accuracy = (logits.argmax(dim=1) == letters.targets).double().mean().item()
    # Half a point for processors that round otherwise.
    assert accuracy == pytest.approx(glyphnet.SOURCE_ACCURACY, abs=0.005)
    assert accuracy > 0.9


def test_without_pre_training_the_weights_are_random_and_there_is_no_source_head(shipped):
    torch.manual_seed(0)
    one = GlyphNet().build(pretrained=False)
    torch.manual_seed(0)
    same = GlyphNet().build(pretrained=False)
    assert one.source_head is None
    weights = [backbone.stages[0][1][0].weight for backbone in (one, same, shipped)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert one.stages[0][1][1].running_mean.abs().max() == 0


def test_each_build_is_a_fresh_copy(shipped):
    other = GlyphNet().build(pretrained=True)
    other.stages[0][1][0].weight.data.zero_()
    assert GlyphNet().build(pretrained=True).stages[0][1][0].weight.abs().max() > 0
    assert shipped.stages[0][1][0].weight.abs().max() > 0


class Bomb:
    def __reduce__(self):
        return (open, ("exploded", "w"))


def truncated(content):
    return content[: len(content) // 2]


def flipped_in_the_header(content):
    return content[:60] + bytes([content[60] ^ 4]) + content[61:]


def flipped_in_a_tensor(content):
    return content[:-500] + bytes([content[-500] ^ 4]) + content[-499:]


def pickled(content):
    return pickle.dumps({"stages.0.0.weight": Bomb()})


DAMAGES = [truncated, flipped_in_the_header, pickled, lambda content: b""]
DAMAGE_NAMES = ["truncated", "header", "pickle", "empty"]


@pytest.mark.parametrize("damage", DAMAGES, ids=DAMAGE_NAMES)
def test_a_damaged_file_of_ones_own_is_refused_with_a_way_out(tmp_path, monkeypatch, damage):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "own.safetensors"
    path.write_bytes(damage(glyphnet.WEIGHTS.read_bytes()))
    family = GlyphNet(GlyphNetOptions(weights=str(path)))
    expected = r"own.safetensors holds no usable .*remake them with python -m ftbench.pretrain"
    with pytest.raises(WeightsError, match=f"(?s){expected}"):
        family.build(pretrained=True)
    assert not (tmp_path / "exploded").exists()


@pytest.fixture
def damaged_installation(tmp_path, monkeypatch):
    def install(damage):
        path = tmp_path / "glyphnet.safetensors"
        path.write_bytes(damage(glyphnet.WEIGHTS.read_bytes()))
        monkeypatch.setattr(glyphnet, "WEIGHTS", path)
        monkeypatch.chdir(tmp_path)

    return install


EVERY_DAMAGE = pytest.mark.parametrize(
    "damage", [*DAMAGES, flipped_in_a_tensor], ids=[*DAMAGE_NAMES, "tensor"]
)


@EVERY_DAMAGE
def test_a_damaged_installation_has_no_fingerprint(damaged_installation, damage):
    damaged_installation(damage)
    with pytest.raises(WeightsError, match=r"is damaged: its SHA-256 .*reinstall ftbench"):
        GlyphNet().fingerprint()


@EVERY_DAMAGE
def test_a_damaged_installation_does_not_load(damaged_installation, damage):
    damaged_installation(damage)
    with pytest.raises(WeightsError, match=r"(?s)(reinstall ftbench|remake them with)"):
        GlyphNet().build(pretrained=True)


@pytest.mark.parametrize("wrong", ["missing", "extra", "shape"])
def test_tensors_of_another_network_are_refused(tmp_path, wrong):
    tensors = load_file(glyphnet.WEIGHTS)
    if wrong == "missing":
        del tensors["stages.0.0.weight"]
    elif wrong == "extra":
        tensors["stages.9.weight"] = torch.zeros(3)
    else:
        tensors["head.weight"] = torch.zeros(10, 128)
    path = tmp_path / "other.safetensors"
    save_file(tensors, path)
    with pytest.raises(WeightsError, match=r"(?s)other.safetensors holds no usable .*remake"):
        GlyphNet(GlyphNetOptions(weights=str(path))).build(pretrained=True)


def test_a_file_that_is_not_there_is_named(tmp_path):
    family = GlyphNet(GlyphNetOptions(weights=str(tmp_path / "none.safetensors")))
    for act in (family.fingerprint, lambda: family.build(pretrained=True)):
        with pytest.raises(WeightsError, match=r"cannot read the weights .*none.safetensors: No"):
            act()


def test_weights_of_ones_own_have_a_fingerprint_and_a_key_of_their_own(tmp_path):
    tensors = load_file(glyphnet.WEIGHTS)
    tensors["head.bias"] += 1
    path = tmp_path / "own.safetensors"
    save_file(tensors, path)
    family = ftbench.load_catalogue().build(
        ftbench.BackboneFamily, "glyphnet", {"weights": str(path)}
    )
    assert family.fingerprint() == hashlib.sha256(path.read_bytes()).hexdigest()
    assert torch.equal(family.build(pretrained=True).source_head[-1].bias, tensors["head.bias"])

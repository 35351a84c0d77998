"""Weights files: read as tensors alone, and refused with what is wrong and what to do."""

import hashlib
import io
import pickle

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from ftbench.backbones.weights import check_name, load_into, mismatch, read_weights, sha256_of
from ftbench.errors import WeightsError


@pytest.fixture
def tensors():
    return {"a.weight": torch.arange(6.0).view(2, 3), "a.bias": torch.ones(2)}


def saved(path, value):
    torch.save(value, path)
    return path


def same(found, expected):
    return found.keys() == expected.keys() and all(
        torch.equal(found[name], value) for name, value in expected.items()
    )


@pytest.mark.parametrize(
    "wrap",
    [
        lambda t: t,
        lambda t: {"state_dict": t, "epoch": 3},
        lambda t: {"model": {"state_dict": t}},
        lambda t: {"model": {}, "model_ema": t},
        lambda t: {f"module.{name}": value for name, value in t.items()},
    ],
    ids=["plain", "checkpoint", "nested", "average first", "data parallel"],
)
def test_tensors_are_found_in_whatever_wraps_them(tmp_path, tensors, wrap):
    assert same(read_weights(saved(tmp_path / "w.pth", wrap(tensors))), tensors)


def test_safetensors_are_read(tmp_path, tensors):
    save_file(tensors, tmp_path / "w.safetensors")
    assert same(read_weights(tmp_path / "w.safetensors"), tensors)


class Evil:
    def __reduce__(self):
        return exec, ("raise SystemExit('executed')",)


def test_nothing_in_a_file_is_executed(tmp_path):
    with pytest.raises(WeightsError, match=r"w\.pth cannot be read as weights"):
        read_weights(saved(tmp_path / "w.pth", {"a": Evil()}))
    (tmp_path / "raw.pth").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(WeightsError, match=r"raw\.pth cannot be read"):
        read_weights(tmp_path / "raw.pth")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not a zip", b"x" * 100])
@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_a_damaged_file_is_named(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=f"{name} cannot be read as weights: ."):
        read_weights(tmp_path / name)


def test_a_truncated_file_is_named(tmp_path, tensors):
    buffer = io.BytesIO()
    torch.save(tensors, buffer)
    (tmp_path / "w.pth").write_bytes(buffer.getvalue()[:-200])
    with pytest.raises(WeightsError, match=r"w\.pth cannot be read"):
        read_weights(tmp_path / "w.pth")


def test_a_file_of_something_else_says_what_it_holds(tmp_path):
    with pytest.raises(WeightsError, match="holds a dict with 'epoch'; expected tensors by name"):
        read_weights(saved(tmp_path / "w.pth", {"epoch": 3}))
    with pytest.raises(WeightsError, match="holds a list"):
        read_weights(saved(tmp_path / "l.pth", [1, 2]))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(WeightsError, match=r"there is no weights file .*gone\.pth"):
        read_weights(tmp_path / "gone.pth")


def test_differences_are_counted_by_kind_with_the_first_names(tmp_path):
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    given = {
        "0.weight": torch.zeros(2, 4),
        "0.bias": torch.zeros(2),
        "head.weight": torch.zeros(1),
    }
    assert mismatch(model.state_dict(), given) == (
        "2 of the model's 4 tensors are missing (1.weight, 1.bias), 1 of its 3 tensors are not in "
        "the model (head.weight), 1 of its 3 tensors have another shape (0.weight is (2, 4) "
        "instead of (2, 3))"
    )
    before = model[0].bias.detach().clone()
    with pytest.raises(WeightsError, match="does not fit Sequential: 2 of the model's 4"):
        load_into(model, given, tmp_path / "w.pth")
    assert torch.equal(model[0].bias, before)


def test_a_name_with_a_hash_is_held_to_it(tmp_path):
    content = b"weights"
    digest = hashlib.sha256(content).hexdigest()
    good = tmp_path / f"net-{digest[:8]}.pth"
    good.write_bytes(content)
    check_name(good, "it is downloaded again")
    (tmp_path / "net.pth").write_bytes(content)
    check_name(tmp_path / "net.pth", "")
    bad = tmp_path / "net-01234567.pth"
    bad.write_bytes(content)
    wrong = f"its SHA-256 begins with {digest[:8]}, its name says 01234567; delete it, and it is"
    with pytest.raises(WeightsError, match=wrong):
        check_name(bad, "it is downloaded again")


def test_a_changed_file_has_another_hash(tmp_path):
    path = tmp_path / "w"
    path.write_bytes(b"one")
    first = sha256_of(path)
    path.write_bytes(b"three")
    assert (first, sha256_of(path)) == tuple(
        hashlib.sha256(content).hexdigest() for content in (b"one", b"three")
    )

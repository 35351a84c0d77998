"""A sweep's table does not depend on which operators served."""

import pytest
import torch

import ftbench
from ftbench import ops
from ftbench.ops import serving


@pytest.fixture
def sweep(tiny, tmp_path, monkeypatch):
    def run(name):
        monkeypatch.setenv("FTBENCH_OPS", "" if name == "compiled" else name)
        serving.choose_again()
        if name == "compiled" and ops.implementation().name != name:
            pytest.skip(f"nothing is compiled: {ops.implementation().reason}")
        spec = ftbench.SweepSpec(
            tasks=("tiny",),
            backbones=("tiny-net",),
            strategies=("full", "l2sp", "ewc", "progressive"),
            sizes=(20,),
            seeds=(0, 1),
            recipe={"steps": 30, "batch_size": 8, "mixing": "mixup-or-cutmix(mixup=0.4)"},
        )
        catalogue = ftbench.load_catalogue(extra={"tiny": tiny})
        ftbench.run_sweep(spec, tmp_path / name, catalogue=catalogue)
        return ftbench.load_results(tmp_path / name)

    yield run
    monkeypatch.undo()
    serving.choose_again()


@pytest.mark.slow
def test_a_sweep_by_the_reference_and_one_compiled_give_the_same_table(sweep):
    plain, compiled = sweep("reference"), sweep("compiled")
    assert set(plain["env_operators"]) == {"reference"}
    assert compiled["env_operators"].str.startswith("compiled ").all()
    assert plain["key"].equals(compiled["key"])
    scores = [name for name in ("nll", "ece", "accuracy", "source_accuracy_after") if name in plain]
    assert {"nll", "accuracy"} <= set(scores)
    for score in scores:
        found, expected = (
            torch.tensor(frame[score].to_numpy(float)) for frame in (compiled, plain)
        )
        # Thirty steps carry a rounding of the first a little further.
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4, msg=score)


def test_operators_that_cannot_be_had_are_named_before_anything_is_written(sweep, tmp_path):
    with pytest.raises(ftbench.FtbenchError, match="FTBENCH_OPS is 'fast'; expected reference or"):
        sweep("fast")
    assert not (tmp_path / "fast").exists()

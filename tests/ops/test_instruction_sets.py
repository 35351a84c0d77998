"""Which kernels a processor uses: the best it has, or those that a user names."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ftbench.ops import QuadraticPenalty, mix, serving
from tests.ops.cases import draw_values, each_set, same_bits
from tests.ops.conftest import INSTRUCTION_SETS
from tests.support import ROOT, make_plan

pytestmark = pytest.mark.usefixtures("compiled")


def test_every_set_that_a_processor_may_have_is_tested(compiled):
    names = compiled.instruction_sets()
    assert names == [name for name in INSTRUCTION_SETS if name in names]
    assert names[0] == "baseline"


@pytest.mark.deep
def test_the_best_set_is_the_first_choice(compiled):
    code = "from ftbench.ops import serving; m = serving.implementation().module\n"
    done = run(code + "print(m.instruction_set(), *m.instruction_sets())")
    chosen, *names = done.stdout.split()
    assert chosen == names[-1]
    assert names == compiled.instruction_sets()


def test_a_set_can_be_chosen_and_says_so(compiled):
    for name in compiled.instruction_sets():
        compiled.use_instruction_set(name)
        assert compiled.instruction_set() == name
        active = serving.implementation()
        assert active.instruction_set == name
        assert active.serving(torch.device("cpu")) == f"compiled {name}"


@pytest.mark.parametrize("name", ["avx1024", "", "AVX2", "avx2 "])
def test_an_unknown_set_is_refused_with_the_known_ones(compiled, name):
    kept = compiled.instruction_set()
    known = ", ".join(compiled.instruction_sets())
    with pytest.raises(ValueError, match=f"instruction set '{name}' is not .*: {known}"):
        compiled.use_instruction_set(name)
    assert compiled.instruction_set() == kept


def run(code, **environ):
    """Run Python code in a process of its own."""
    command = [sys.executable, "-W", "error", "-c", code]
    environ = {**{k: v for k, v in os.environ.items() if k != "FTBENCH_ISA"}, **environ}
    return subprocess.run(command, env=environ, cwd=ROOT, capture_output=True, text=True)


USE = """
import torch
from ftbench import ops
plan = ops.MixPlan(torch.tensor([1, 0]), torch.tensor([0.3, 0.6]),
                   torch.tensor([[0, 0, 2, 3]] * 2, dtype=torch.int32), 5, 37)
images = torch.arange(2 * 3 * 5 * 37.0).view(2, 3, 5, 37)
print(ops.implementation().instruction_set)
print(float(ops.mix(images, plan, dtype=torch.bfloat16).double().sum()))
"""


def test_the_environment_names_the_set(compiled):
    found = {}
    for name in {compiled.instruction_sets()[0], compiled.instruction_sets()[-1]}:
        done = run(USE, FTBENCH_ISA=name)
        assert done.returncode == 0, done.stderr
        used, found[name] = done.stdout.split()
        assert used == name
    assert len(set(found.values())) == 1
    best = run(USE, FTBENCH_ISA="").stdout.split()[0]
    assert best == compiled.instruction_sets()[-1]


@pytest.mark.deep
@pytest.mark.parametrize("first", ["ops.implementation().instruction_set", "use"])
def test_an_unknown_set_in_the_environment_is_an_error_that_names_the_known_ones(compiled, first):
    code = USE if first == "use" else f"from ftbench import ops; print({first})"
    if first == "use":
        code = code.replace("print(ops.implementation().instruction_set)\n", "")
    done = run(code, FTBENCH_ISA="avx1024")
    assert done.returncode == 1, f"exit {done.returncode}: {done.stderr}"
    last = done.stderr.strip().splitlines()[-1]
    known = ", ".join(compiled.instruction_sets())
    assert "instruction set 'avx1024' is not one of this processor's" in done.stderr
    assert known in done.stderr
    assert last.startswith(("ValueError", "ftbench.errors.FtbenchError", "FtbenchError"))


def test_results_do_not_depend_on_the_set_unless_they_are_normalised(compiled):
    values = draw_values((5, 3, 31, 77), torch.float32, 0)
    plan = make_plan([4, 3, 2, 1, 0], [0.3, 1, 0, 0.7, 0.2], [[3, 5, 20, 60]] * 5, 31, 77)
    parameter = draw_values((100_003,), torch.float32, 1)
    penalty = QuadraticPenalty([parameter], [torch.ones(100_003)], [0.1])
    mixed, summed = [], []
    for _ in each_set(compiled):
        mixed.append(mix(values, plan, dtype=torch.bfloat16))
        summed.append(penalty.value())
    assert all(same_bits(each, mixed[0]) for each in mixed)
    assert all(same_bits(each, summed[0]) for each in summed)


MIB = 2**20


@pytest.mark.parametrize(
    ("reported", "cores", "share"),
    [
        (480 * MIB, 2, 10 * MIB),  # two cores of a Xeon's virtual machine: the host's cache
        (32 * MIB, 2, 10 * MIB),  # two cores of an EPYC's
        (32 * MIB, 8, 32 * MIB),  # all that share one
        (105 * MIB, 56, 105 * MIB),  # a Xeon of one's own
        (2 * MIB, 8, 2 * MIB),
        (0, 4, 20 * MIB),  # not known
        (32 * MIB, 0, 5 * MIB),
    ],
)
def test_of_the_last_cache_no_more_is_counted_on_than_the_cores_share(
    compiled, reported, cores, share
):
    assert compiled.cache_share(reported, cores) == share


@pytest.mark.parametrize(
    ("text", "cores"),
    [("200000 100000\n", 2), ("150000 100000", 2), ("5000 100000", 1), ("max 100000", 0), ("", 0)],
)
def test_a_containers_quota_counts_as_cores(compiled, tmp_path, text, cores):
    (tmp_path / "cpu.max").write_text(text)
    assert compiled.quota_cores(str(tmp_path / "cpu.max")) == cores
    assert compiled.quota_cores(str(tmp_path / "missing")) == 0


SHARE = """
import os, sys
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(sys.argv[1])])
from ftbench.ops import serving
module = serving.implementation().module
quota = module.quota_cores("/sys/fs/cgroup/cpu.max")
cores = min(len(os.sched_getaffinity(0)), quota or 10**6)
assert module.usable_cores() == cores
print(cores, module.last_cache_bytes())
"""


@pytest.mark.deep
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cores cannot be chosen here")
def test_the_share_is_of_the_cores_that_the_process_may_use_and_can_be_set(compiled):
    units = {"K": 2**10, "M": 2**20}
    folder = Path("/sys/devices/system/cpu/cpu0/cache")
    sizes = [path.read_text(encoding="ascii").strip() for path in folder.glob("index*/size")]
    reported = max((int(size[:-1]) * units[size[-1]] for size in sizes), default=0)
    for wanted in ("1", "1000"):
        command = [sys.executable, "-c", SHARE, wanted]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        cores, share = map(int, done.stdout.split())
        assert share == compiled.cache_share(reported, cores)
    compiled.set_last_cache_bytes(12345)
    assert compiled.last_cache_bytes() == 12345


def test_what_the_binary_was_built_from_can_be_read(compiled):
    stamp = serving.build.read_stamp(serving.implementation().path)
    assert str(stamp) == compiled.stamp
    assert stamp.torch == torch.__version__

"""What the tests of the operators share: plain torch and every set of kernels in turn."""

import pytest
import torch

from ftbench.ops import serving
from tests.ops import emulated as emulation

# Every set that any processor has kernels for; test_instruction_sets.py sees that none is missing.
INSTRUCTION_SETS = ("baseline", "avx2", "avx512", "avx512_bf16")


@pytest.fixture(scope="module")
def compiled():
    """The extension module; its operators are torch.ops.ftbench."""
    active = serving.implementation()
    if active.name != "compiled":
        pytest.skip(f"nothing is compiled: {active.reason}")
    return active.module


@pytest.fixture(scope="module")
def emulated(compiled):
    """The GPU's kernels on the CPU: torch.ops.ftbench_emulated."""
    if emulation.MISSING:
        pytest.skip(emulation.MISSING)
    return emulation.operators()


@pytest.fixture(autouse=True)
def _settings_put_back(request):
    """Leave the kernels as the test found them, whatever it tried and wherever it failed."""
    if "compiled" not in request.fixturenames:
        yield
        return
    module = request.getfixturevalue("compiled")
    kept, cache_bytes = module.instruction_set(), module.last_cache_bytes()
    yield
    module.use_instruction_set(kept)
    module.set_last_cache_bytes(cache_bytes)
    if "emulated" in request.fixturenames:
        torch.ops.ftbench_emulated.run_blocks_at_ends(0)


# Two stand for all: test_compiled_*.py hold every set of kernels against plain torch.
IMPLEMENTATIONS = (
    "reference",
    "best",
    *(pytest.param(name, marks=pytest.mark.deep) for name in INSTRUCTION_SETS),
)


# For a module and not for a test: hypothesis asks for that.
@pytest.fixture(scope="module", params=IMPLEMENTATIONS)
def implementation(request):
    """Let plain torch, then compiled kernels, serve the public functions."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "reference":
            plain = serving.Implementation("reference", "the tests ask for it")
            patch.setattr(serving, "implementation", lambda: plain)
            yield request.param
            return
        module = request.getfixturevalue("compiled")
        *others, best = module.instruction_sets()
        if request.param not in (*others, "best"):
            pytest.skip(f"this processor has no {request.param}, or no better one")
        kept = module.instruction_set()
        module.use_instruction_set(best if request.param == "best" else request.param)
        yield request.param
        module.use_instruction_set(kept)


@pytest.fixture
def threads():
    """A function that sets the number of threads for the rest of the test."""
    kept = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(kept)

import hashlib
import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from ftbench import rng

PURPOSES = st.lists(st.integers() | st.text(max_size=8), min_size=1, max_size=4).map(tuple)
MASK = (1 << 64) - 1


def philox_words(count, *purpose):
    """Philox-4x64-10 written out from Salmon et al. 2011, with NumPy's counter start of one."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in purpose)
    digest = hashlib.sha256(text.encode()).digest()
    key = [int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:16], "little")]
    drawn = []
    for block in range(1, -(-count // 4) + 1):
        x, k = [block, 0, 0, 0], list(key)
        for _ in range(10):
            first, second = 0xD2E7470EE14C6C93 * x[0], 0xCA5A826395121157 * x[2]
            x = [
                (second >> 64) ^ x[1] ^ k[0],
                second & MASK,
                (first >> 64) ^ x[3] ^ k[1],
                first & MASK,
            ]
            k = [(k[0] + 0x9E3779B97F4A7C15) & MASK, (k[1] + 0xBB67AE8584CAA73B) & MASK]
        drawn += x
    return drawn[:count]


def global_state():
    numpy_state = np.random.get_state()
    return (
        torch.get_rng_state().tolist(),
        random.getstate(),
        (numpy_state[0], numpy_state[1].tolist(), *numpy_state[2:]),
    )


def test_streams_keep_the_values_that_stored_results_were_made_with():
    assert rng.uniforms(2, 0, "a").tolist() == [0.4505469264822419, 0.2698561911397681]
    assert rng.permutation(6, 7, "b").tolist() == [1, 2, 4, 0, 5, 3]
    assert rng.torch_seed(1, "x") == 3919703748465270580


@pytest.mark.parametrize("purpose", [(0, "a"), (3, "mix", 17), ("glyphs", "ünïcode")])
def test_words_are_philox_keyed_by_the_purpose(purpose):
    assert rng.words(11, *purpose).tolist() == philox_words(11, *purpose)


def test_streams_are_the_same_in_another_process():
    code = "from ftbench import rng; print(rng.words(3, 5, 'order').tolist())"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == str(rng.words(3, 5, "order").tolist())


@given(PURPOSES, st.integers(0, 20), st.integers(0, 20))
def test_a_longer_stream_begins_with_the_shorter_one(purpose, short, more):
    assert np.array_equal(
        rng.uniforms(short + more, *purpose)[:short], rng.uniforms(short, *purpose)
    )


def test_number_and_text_of_one_spelling_are_different_purposes():
    keys = [(1,), ("1",), (1, 1), (11,), ("1", 1), (1, "1"), ("a", "b"), ("b", "a"), ("ab",)]
    assert len({rng.words(1, *key).item() for key in keys}) == len(keys)


def test_uniforms_are_uniform_and_streams_of_neighbouring_seeds_are_independent():
    long = rng.uniforms(20_000, 0, "ks")
    assert long.min() >= 0
    assert long.max() < 1
    assert stats.kstest(long, "uniform").pvalue > 1e-3
    firsts = np.array([rng.uniforms(2, seed, "ks") for seed in range(3000)])
    assert stats.kstest(firsts[:, 0], "uniform").pvalue > 1e-3
    for pair in (firsts, np.stack([firsts[:-1, 0], firsts[1:, 0]], axis=1)):
        assert stats.pearsonr(pair[:, 0], pair[:, 1]).pvalue > 1e-3


@given(st.integers(0, 60), PURPOSES)
def test_permutation_holds_every_index_once(count, purpose):
    order = rng.permutation(count, *purpose)
    assert order.dtype == np.int64
    assert sorted(order.tolist()) == list(range(count))


def test_every_permutation_is_equally_likely():
    counts: dict[tuple[int, ...], int] = {}
    for step in range(4800):
        order = tuple(rng.permutation(4, "bias", step).tolist())
        counts[order] = counts.get(order, 0) + 1
    assert len(counts) == 24
    assert stats.chisquare(list(counts.values())).pvalue > 1e-3


def test_streams_neither_read_nor_move_global_state():
    before = global_state()
    first = (rng.words(4, 1), rng.uniforms(4, 1), rng.permutation(4, 1), rng.torch_seed(1))
    assert global_state() == before
    with rng.isolated("elsewhere"):
        again = (rng.words(4, 1), rng.uniforms(4, 1), rng.permutation(4, 1), rng.torch_seed(1))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))


@given(PURPOSES)
def test_torch_seed_fits_a_torch_generator(purpose):
    seed = rng.torch_seed(*purpose)
    assert 0 <= seed < 2**63
    torch.Generator().manual_seed(seed)


def draw_from_globals():
    return torch.rand(1).item(), float(np.random.rand()), random.random()


@settings(max_examples=10)
@given(PURPOSES)
def test_isolated_code_is_a_function_of_its_purpose(purpose):
    drawn = []
    for before in (1, 2):
        torch.manual_seed(before)
        np.random.seed(before)
        random.seed(before)
        with rng.isolated(*purpose):
            drawn.append(draw_from_globals())
    with rng.isolated(*purpose, "other"):
        other = draw_from_globals()
    assert drawn[0] == drawn[1]
    assert all(a != b for a, b in zip(drawn[0], other, strict=True))


def test_isolated_restores_every_generator():
    before = global_state()
    with rng.isolated(0, "inside"):
        draw_from_globals()
        with rng.isolated(0, "nested"):
            draw_from_globals()
    assert global_state() == before


def test_isolated_restores_every_generator_when_the_block_raises():
    def fail():
        with rng.isolated(0, "inside"):
            draw_from_globals()
            raise RuntimeError("inside")

    before = global_state()
    with pytest.raises(RuntimeError, match="inside"):
        fail()
    assert global_state() == before


def test_a_nested_block_leaves_no_trace_on_the_outer_one():
    with rng.isolated(0, "outer"):
        draw_from_globals()
        plain = draw_from_globals()
    with rng.isolated(0, "outer"):
        draw_from_globals()
        with rng.isolated(0, "inner"):
            draw_from_globals()
        assert draw_from_globals() == plain


def test_seed_global_points_the_global_generators_at_the_purpose():
    with rng.isolated("surroundings"):
        rng.seed_global(3, "dropout")
        drawn = torch.rand(3)
        torch.rand(7)
        rng.seed_global(3, "dropout")
        assert torch.equal(torch.rand(3), drawn)
        assert torch.equal(
            torch.rand(3, generator=torch.Generator().manual_seed(rng.torch_seed(3, "dropout"))),
            drawn,
        )

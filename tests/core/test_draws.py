"""Draws: uniform, independent of one another, and a function of what they are drawn for."""

import pytest
import torch
from scipy import stats

from trimtab.core import IGNORE, TokenBatch
from trimtab.core.draws import hashed_uniform, inverse_cdf

N = 20_000


def along_positions(n=N, *, seed=0, step=0, row=0, stream=0):
    return hashed_uniform(seed, step, torch.full((n,), row), torch.arange(n), stream)


def along_rows(n=N, *, seed=0, step=0, position=0):
    return hashed_uniform(seed, step, torch.arange(n), torch.full((n,), position))


def p_uniform(u, bins=64):
    return stats.chisquare(torch.histc(u, bins, 0, 1).numpy()).pvalue


def p_independent(u, v, bins=16):
    cells = (u * bins).long() * bins + (v * bins).long()
    return stats.chisquare(torch.bincount(cells, minlength=bins * bins).numpy()).pvalue


def test_draws_lie_in_the_half_open_unit_interval_with_24_bits():
    u = along_positions()
    assert u.dtype == torch.float32
    assert u.min() >= 0
    assert u.max() < 1
    assert torch.equal(u * 2**24, (u * 2**24).round())
    assert (u * 2**24 % 2 == 1).any()  # the lowest of the bits is in use


UNIFORM = {
    "positions": along_positions,
    "rows": along_rows,
    "seed 1": lambda: along_positions(seed=1),
    "seed -1": lambda: along_positions(seed=-1),
    "large": lambda: along_positions(step=10**6, row=10**9),
    "rows x positions": lambda: torch.cat([along_rows(200, position=p) for p in range(100)]),
    "steps": lambda: torch.cat([along_positions(10, step=s, row=3) for s in range(2000)]),
    "seeds": lambda: torch.cat([along_positions(1, seed=s) for s in range(5000)]),
}


@pytest.mark.parametrize("made", UNIFORM.values(), ids=UNIFORM)
def test_draws_are_uniform(made):
    u = made()
    assert p_uniform(u) > 0.001
    assert abs(u.mean().item() - 0.5) < 4 * (1 / 12) ** 0.5 / len(u) ** 0.5


INDEPENDENT = {
    "seed": lambda: (along_positions(), along_positions(seed=1)),
    "step": lambda: (along_positions(), along_positions(step=1)),
    "row": lambda: (along_positions(), along_positions(row=1)),
    "stream": lambda: (along_positions(), along_positions(stream=1)),
    "next position": lambda: (along_positions()[:-1], along_positions()[1:]),
    "next row": lambda: (along_rows()[:-1], along_rows()[1:]),
    "position of rows": lambda: (along_rows(), along_rows(position=1)),
    "seed and step swapped": lambda: (along_positions(seed=1, step=2), along_positions(seed=2, step=1)),
    "step and row swapped": lambda: (along_positions(step=1, row=2), along_positions(step=2, row=1)),
    "row and position swapped": lambda: (along_positions(), along_rows()),
}


@pytest.mark.parametrize("made", INDEPENDENT.values(), ids=INDEPENDENT)
def test_draws_for_different_places_are_independent(made):
    assert p_independent(*made()) > 0.001


def test_a_draw_depends_on_each_of_its_five_coordinates():
    def draw(seed=3, step=4, row=5, position=6, stream=0):
        return hashed_uniform(seed, step, torch.tensor([row]), torch.tensor([position]), stream).item()

    alone = {draw(), draw(seed=4), draw(step=5), draw(row=6), draw(position=7), draw(stream=1)}
    assert len(alone) == 6
    assert draw() == draw()


def test_draws_do_not_read_or_move_the_global_generator():
    torch.manual_seed(1)
    first, state = along_positions(8), torch.get_rng_state()
    torch.manual_seed(2)
    assert torch.equal(along_positions(8), first)
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("seed", [2**63, 2**64 - 1, -(2**63), 2**70 + 1])
def test_seeds_beyond_64_bits_wrap_around(seed):
    assert torch.equal(along_positions(4, seed=seed), along_positions(4, seed=seed % 2**64))


def labels_of(lengths, width=12):
    labels = torch.full((len(lengths), width), IGNORE)
    for i, length in enumerate(lengths):
        labels[i, 2 : 2 + length] = 7
    return labels


def test_the_draws_of_a_batch_are_the_same_for_any_cut_grouping_order_and_padding():
    labels, row_id = labels_of([5, 0, 3, 8]), torch.tensor([11, 12, 40, 3])
    whole = TokenBatch.from_labels(labels, row_id=row_id, seed=9, step=4)
    wanted = dict(zip(zip(row_id[whole.row].tolist(), whole.position.tolist()), whole.uniform().tolist()))
    assert len(wanted) == 16
    assert torch.cat([whole[i : i + 3].uniform() for i in range(0, 16, 3)]).tolist() == whole.uniform().tolist()

    for rows in ([0], [3, 2], [2, 1, 0]):
        padded = torch.cat([torch.full((len(rows), 3), IGNORE), labels[rows]], dim=1)
        part = TokenBatch.from_labels(padded, row_id=row_id[rows], seed=9, step=4)
        for row, position, u in zip(row_id[rows][part.row].tolist(), part.position.tolist(), part.uniform().tolist()):
            assert u == wanted[row, position]


def test_the_draws_of_a_batch_change_with_seed_step_and_stream():
    labels = labels_of([5])
    draws = {
        tuple(TokenBatch.from_labels(labels, seed=seed, step=step).uniform(stream).tolist())
        for seed, step, stream in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))
    }
    assert len(draws) == 4


def test_inverse_cdf_of_a_known_distribution():
    probabilities = torch.tensor([0.25, 0.0, 0.5, 0.25])
    uniform = torch.tensor([0.0, 0.2499, 0.25, 0.5, 0.7499, 0.75, 0.999])
    found = inverse_cdf(probabilities.expand(len(uniform), -1), uniform)
    assert found.tolist() == [0, 0, 2, 2, 2, 3, 3]


def test_inverse_cdf_reads_each_row_with_its_own_uniform():
    probabilities = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5], [0.5, 0.5]])
    assert inverse_cdf(probabilities, torch.tensor([0.9, 0.0, 0.4, 0.6])).tolist() == [0, 1, 0, 1]


def test_inverse_cdf_normalises_each_row():
    probabilities = torch.tensor([0.25, 0.0, 0.5, 0.25]).expand(3, -1)
    u = torch.tensor([0.1, 0.3, 0.8])
    for factor in (1e-6, 0.5, 3.0, 1e6):
        assert inverse_cdf(factor * probabilities, u).tolist() == [0, 2, 3]


LAST = 1 - 2.0**-24  # the largest draw there is


@pytest.mark.parametrize("u", [0.0, 2.0**-24, 0.5, LAST])
def test_inverse_cdf_never_returns_an_id_of_probability_zero(u):
    probabilities = torch.rand(4000, 30) * (torch.rand(4000, 30) < 0.3)
    probabilities[:, 0] = 0
    probabilities[:, -1] = 0
    probabilities[:, 7] += 1e-3
    found = inverse_cdf(probabilities, torch.full((4000,), u))
    assert probabilities.gather(1, found[:, None]).gt(0).all()


@pytest.mark.parametrize("v", [1000, 50_000])
def test_inverse_cdf_never_returns_a_masked_id_at_the_ends_of_a_large_vocabulary(v):
    probabilities = torch.softmax(3 * torch.randn(40, v), dim=-1)
    probabilities[:, :5] = 0
    probabilities[:, -5:] = 0
    for u in (0.0, LAST):
        found = inverse_cdf(probabilities, torch.full((40,), u))
        assert probabilities.gather(1, found[:, None]).gt(0).all()


def test_the_ends_of_the_unit_interval_give_the_first_and_the_last_possible_id():
    probabilities = torch.tensor([[0.0, 0.3, 0.4, 0.3, 0.0]])
    assert inverse_cdf(probabilities, torch.tensor([0.0])).item() == 1
    assert inverse_cdf(probabilities, torch.tensor([LAST])).item() == 3


def test_draws_follow_the_probabilities():
    probabilities = torch.tensor([0.4, 0.0, 0.3, 0.05, 0.25], dtype=torch.float64)
    found = inverse_cdf(probabilities.expand(N, -1), along_positions())
    counts = torch.bincount(found, minlength=5)
    assert counts[1] == 0
    kept = probabilities > 0
    assert stats.chisquare(counts[kept].numpy(), (N * probabilities[kept]).numpy()).pvalue > 0.001


def test_draws_from_bfloat16_probabilities_are_summed_in_float32():
    # 1000 equal shares: their running sum in bfloat16 stops growing long before the end
    probabilities = torch.full((1, 1000), 1.0, dtype=torch.bfloat16)
    assert inverse_cdf(probabilities, torch.tensor([0.75])).item() == 750

"""Runs of one recipe with several seeds: means with intervals, and differences seed by seed, by hand."""

import io
import math

import numpy as np
import pytest
from rich.console import Console
from run_folders import RECIPE, event, rows, write_run
from scipy import stats

from trimtab.metrics.intervals import student_mean
from trimtab.report import load, seeds_table, write
from trimtab.report.measures import PERPLEXITY, REWARD_LOSS
from trimtab.report.seeds import groups, headline, over_seeds, paired

ENDS = {"kd": (2.0, 2.2, 2.4), "sft": (2.6, 2.7, 3.1)}
"""perplexity after training, for seeds 0 to 2"""


@pytest.fixture
def runs(tmp_path):
    found = []
    for method, ends in ENDS.items():
        for seed, end in enumerate(ends):
            nll = math.log(end)
            metrics = [event("eval", 0, nll=2.0), event("eval", 2, nll=nll), event("finished", 2, seconds=1.0)]
            samples = [*rows(0, nll=2.0), *rows(2, nll=nll)]
            recipe = {**RECIPE, "method": method, "seed": seed, "output": f"runs/{method}-seed{seed}"}
            recipe["seeds"] = [0, 1, 2]
            found.append(load(write_run(tmp_path / f"{method}-seed{seed}", metrics, samples, recipe)))
    return found


def test_the_mean_and_its_interval_by_hand():
    found = student_mean([1.0, 2.0, 3.0])
    assert found.estimate == 2.0
    assert found.high - found.estimate == pytest.approx(4.303 * 1.0 / math.sqrt(3), rel=1e-3)
    assert found.low == pytest.approx(4 - found.high)
    assert not student_mean([1.0]).known
    assert not student_mean([1.0, math.nan]).known


def test_the_interval_is_students_t_whatever_the_number():
    for number in (2, 3, 40, 1000):
        found = student_mean([0.0, 1.0] * (number // 2) + [0.5] * (number % 2))
        spread = np.std([0.0, 1.0] * (number // 2) + [0.5] * (number % 2), ddof=1) / math.sqrt(number)
        assert (found.low, found.high) == pytest.approx(stats.t.interval(0.95, number - 1, 0.5, spread))


def test_runs_are_grouped_by_their_recipe_without_its_seed(runs):
    found = groups(runs)
    assert [group.name for group in found] == ["kd", "sft"]
    assert [group.seeds for group in found] == [["0", "1", "2"]] * 2


def test_one_seed_each_makes_no_groups(runs):
    assert groups([runs[0], runs[3]]) == []
    assert seeds_table([runs[0], runs[3]]) is None


def test_means_and_paired_differences(runs):
    kd, sft = groups(runs)
    value, number = over_seeds(kd, PERPLEXITY)
    assert (round(value.estimate, 4), number) == (2.2, 3)
    gap, number = paired(kd, sft, PERPLEXITY)
    assert number == 3
    assert gap.estimate == pytest.approx((0.6 + 0.5 + 0.7) / 3)
    assert gap.high - gap.estimate == pytest.approx(4.303 * 0.1 / math.sqrt(3), rel=1e-3)
    assert gap.excludes_zero
    assert paired(kd, sft, REWARD_LOSS) is None
    assert over_seeds(kd, REWARD_LOSS) is None


def test_pairs_are_of_equal_seeds_whatever_their_order(runs):
    kd, sft = groups([*runs[:3], *runs[:2:-1]])
    assert sft.seeds == ["2", "1", "0"]
    assert paired(kd, sft, PERPLEXITY)[0].estimate == pytest.approx(0.6)
    kd, sft = groups([*runs[:3], *runs[4:]])
    assert paired(kd, sft, PERPLEXITY)[1] == 2


def test_the_page_shows_means_differences_and_who_is_best(runs, tmp_path):
    text = write([run.folder for run in runs], tmp_path / "x.html").read_text()
    assert "Over seeds" in text
    assert "seeds 0, 1, 2" in text
    assert "Paired differences from kd" in text
    assert "+0.600" in text
    said = headline(groups(runs))
    ends = "ends with the lowest mean perplexity, 2.20 [1.70, 2.70]; next is sft with 2.80."
    assert said == f"Of 2 recipes with 3 seeds each, kd {ends}"
    assert said.partition(",")[0] in text


def test_a_difference_that_may_be_chance_is_called_so(runs):
    kd, _ = groups(runs)
    wide = [kd, groups([runs[0], runs[4], *runs[3:5]])[-1]]
    assert "may be chance" in headline(wide)


def test_the_terminal_shows_the_same(runs):
    out = io.StringIO()
    Console(file=out, width=160).print(seeds_table(runs, 160))
    text = out.getvalue()
    assert "2.20" in text
    assert "[1.70, 2.70]" in text
    assert "sft minus kd, paired" in text
    assert "+0.600" in text


def test_one_recipe_alone_has_means_and_no_differences(runs, tmp_path):
    text = write([run.folder for run in runs[:3]], tmp_path / "x.html").read_text()
    assert "3 seeds of kd: perplexity 2.20 [1.70, 2.70]." in text
    assert "Paired differences" not in text

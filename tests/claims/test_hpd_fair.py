"""The fair comparison of HPD: its task, how settings are chosen, and the script from end to end with tiny sizes."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import hpd_fair
import pytest
from chains import SPLITS, chains
from hpd_fair import LADDER, TUNING_SEED, Bench, Cell
from hpd_worlds import WORLDS

from trimtab.rewards.final import is_correct


def test_a_chain_is_worked_out_rightly_line_by_line():
    for row in chains("train", 50):
        asked, said = (message["content"] for message in row["messages"])
        (total, *terms), lines = _terms(asked), said.split("\n")
        for number, line in zip(terms, lines):
            before, total = total, total + number
            shown = line.partition(":")[2]
            left, _, right = shown.rpartition("=")
            assert int(right) == total
            assert left in ("", f"{before}{number:+d}", f"{number}+{before}")
        assert row["answer"] == str(total)
        assert lines[-1] == f"so {row['answer']}"
        assert len(lines) == 12
        assert is_correct(said, row["answer"])
        assert not is_correct(f"{said}0", row["answer"])


def _terms(asked: str) -> list[int]:
    signs = "".join(letter if not letter.isalpha() else " " for letter in asked)
    return [int(number) for number in signs.split()]


def test_no_task_is_in_two_splits():
    asked = {split: {row["messages"][0]["content"] for row in chains(split, 300, terms=3)} for split in SPLITS}
    assert not asked["train"] & asked["tuning"]
    assert not asked["train"] & asked["heldout"]
    assert not asked["tuning"] & asked["heldout"]


class Known(Bench):
    """Cells whose KL is told by a rule and not by training."""

    def _carried_out(self, cell: Cell) -> dict[str, list[float]]:
        kl = self.rule(cell.rate, cell.steps)
        measures = {name: [0.0, 0.0] for name in hpd_fair.TOKENS}
        return {**measures, "tokens": [2, 2], "forward_kl": [3 * kl, kl], "greedy": [0, 0], "sampled": [0, 0]}


def known(tmp_path: Path, rule) -> Known:
    bench = Known(WORLDS["sums"], tmp_path)
    bench.rule = rule
    return bench


def test_the_ladder_goes_on_while_its_end_is_best(tmp_path):
    first = LADDER.index(WORLDS["sums"].rate)
    wanted = first + 3
    bench = known(tmp_path, lambda rate, steps: abs(LADDER.index(rate) - wanted) + (steps < WORLDS["sums"].steps))
    best = hpd_fair.tuned(bench, "hpd")["kl"]
    assert (best.rate, best.steps, best.seed) == (LADDER[wanted], WORLDS["sums"].steps, TUNING_SEED)
    assert {cell.rate for cell in bench.found} == set(LADDER[first - 1 : wanted + 2])


def test_every_ladder_begins_on_one_of_its_rungs():
    assert all(world.rate in LADDER for world in WORLDS.values())


def test_half_the_length_is_taken_where_it_is_better(tmp_path):
    bench = known(tmp_path, lambda rate, steps: steps)
    assert hpd_fair.tuned(bench, "hpd")["kl"].steps == WORLDS["sums"].steps // 2
    bench.world = replace(bench.world, halves=False)
    assert hpd_fair.tuned(bench, "JSD")["kl"].steps == WORLDS["sums"].steps


def test_what_is_measured_is_kept_and_not_trained_again(tmp_path):
    calls = []
    bench = known(tmp_path, lambda rate, steps: calls.append(rate) or 0.5)
    cell = bench.cell("hpd", 1e-3, 10, 0)
    first = bench.measured(cell)
    again = known(tmp_path, lambda rate, steps: 1 / 0)
    assert again.measured(cell) == bench.measured(cell) == first
    assert calls == [1e-3]


def test_cells_say_what_they_are_trained_and_measured_on():
    bench = object.__new__(Bench)
    bench.world = WORLDS["sums"]
    assert bench.cell("hpd", 1e-3, 10, 0)[3:] == (0, 0.25, "heldout")
    assert bench.cell("hpd", 1e-3, 10, TUNING_SEED).split == "tuning"
    assert bench.cell("sft", 1e-3, 10, 0).share == 0.0
    assert bench.cell("hpd", 1e-3, 10, 0, share=0.0).share == 0.0


def test_means_are_over_tokens_and_over_tasks():
    found = {name: [1.0, 5.0] for name in hpd_fair.TOKENS} | {"tokens": [2, 10], "greedy": [1, 0], "sampled": [1, 1]}
    assert hpd_fair.means(found) == {**dict.fromkeys(hpd_fair.TOKENS, 0.5), "greedy": 0.5, "sampled": 1.0}


@pytest.mark.slow
def test_the_script_runs_from_end_to_end(tmp_path):
    out = tmp_path / "result.json"
    command = [sys.executable, hpd_fair.__file__, "sums", "--smoke", "--alone", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    written = json.loads(out.read_text())
    means = written["means"]["kl"]
    assert {"teacher", "warmed", "sft", "forward KL", "hpd", "hpd, teacher's rows alone"} <= means.keys()
    assert means["teacher"]["forward_kl"][0] == pytest.approx(0, abs=1e-6)
    assert means["hpd"]["forward_kl"][0] < means["warmed"]["forward_kl"][0]
    differences = written["differences"]["kl"]
    assert {"hpd - sft", "hpd, teacher's rows alone - sft", "hpd, teacher's rows alone - hpd"} <= differences.keys()
    assert {len(cell["cell"]) for cell in written["per_seed"]} == {6}

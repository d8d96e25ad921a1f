"""Runs that differ in one number are drawn against it."""

import re

import pytest
from run_folders import RECIPE, event, rows, write_run

from trimtab.report import load, write
from trimtab.report.measures import MEASURES, PERPLEXITY
from trimtab.report.page import render
from trimtab.report.reading import distinct_names
from trimtab.report.sweeps import against_option, ordered, sweeps

LENGTH = next(measure for measure in MEASURES if measure.key == "answer_length")


def made(tmp_path, name, method="trra", seed=0, nll=1.0, length=20.0, **options):
    metrics = [event("eval", 0, nll=2.0, answer_length=40.0), event("eval", 2, nll=nll, answer_length=length)]
    samples = [*rows(0, nll=2.0), *rows(2, nll=nll)]
    samples += [{"kind": "generation", "step": step, "prompt": "p", "text": f"{name} {step}"} for step in (0, 2)]
    recipe = {**RECIPE, "method": method, "options": options, "seed": seed, "output": f"runs/{name}"}
    return load(write_run(tmp_path / name, metrics, samples, recipe))


def names(found):
    return [(sweep.option, [run.name for run in sweep.runs], sweep.values) for sweep in found]


def test_runs_of_a_method_that_differ_in_one_number_are_a_sweep_in_its_order(tmp_path):
    runs = [
        made(tmp_path, "brief", "sft"),
        made(tmp_path, "two", strength=2, mask="completion"),
        made(tmp_path, "none", strength=0.0, mask="completion"),
        made(tmp_path, "half", strength=0.5, mask="completion", seed=1),
    ]
    [sweep] = sweeps(runs)
    assert names([sweep]) == [("strength", ["none", "half", "two"], [0.0, 0.5, 2.0])]
    assert [(run.name, label) for run, label in ordered(runs, [sweep])] == [
        ("brief", ""),
        ("none", "strength 0"),
        ("half", "strength 0.5"),
        ("two", "strength 2"),
    ]


@pytest.mark.parametrize(
    "one, other",
    [
        ({"strength": 1, "mask": "all"}, {"strength": 2, "mask": "completion"}),  # two differences
        ({"strength": 1}, {"strength": 1}),  # none
        ({"strength": 1}, {"strength": 2, "method": "kd"}),  # another method
        ({"mask": "all"}, {"mask": "completion"}),  # words
        ({"compat": True}, {"compat": False}),
        ({"epsilon": 0.2}, {"epsilon": None}),  # no number
    ],
)
def test_other_runs_are_no_sweep(tmp_path, one, other):
    assert sweeps([made(tmp_path, "a", **one), made(tmp_path, "b", **other)]) == []


def test_a_run_without_a_number_is_left_out_of_a_sweep(tmp_path):
    runs = [made(tmp_path, name, epsilon=epsilon) for name, epsilon in (("a", None), ("b", 0.3), ("c", 0.1))]
    assert names(sweeps(runs)) == [("epsilon", ["c", "b"], [0.1, 0.3])]


def test_of_a_grid_each_row_and_each_column_is_a_sweep(tmp_path):
    runs = [made(tmp_path, f"{g}{b}", gamma=g, beta=b) for g in (1, 2) for b in (3, 4)]
    assert names(sweeps(runs)) == [
        ("gamma", ["13", "23"], [1, 2]),
        ("gamma", ["14", "24"], [1, 2]),
        ("beta", ["13", "14"], [3, 4]),
        ("beta", ["23", "24"], [3, 4]),
    ]
    assert [label for _, label in ordered(runs, sweeps(runs))] == ["gamma 1", "gamma 1", "gamma 2", "gamma 2"]


def test_a_measure_is_drawn_at_the_options_values_with_bars_where_rows_were_measured(tmp_path):
    runs = [made(tmp_path, f"r{s}", strength=s, nll=1 + s, length=30 - s) for s in (0, 0.5, 2)]
    [sweep] = sweeps(runs)
    with_bars, without = (against_option(sweep, measure, runs, measure.key) for measure in (PERPLEXITY, LENGTH))
    for svg in (with_bars, without):
        texts = re.findall(r"<text[^>]*>([^<]*)</text>", svg)
        assert texts[:4] == ["0", "0.5", "2", "strength"]
        assert svg.count("var(--run-0)") > 0
        assert svg.count("var(--run-2)") > 0
    assert with_bars.count("var(--run-1)") > without.count("var(--run-1)")


def test_nothing_finite_is_no_drawing(tmp_path):
    runs = [made(tmp_path, f"r{s}", strength=s, length=None) for s in (0, 1)]
    assert against_option(sweeps(runs)[0], LENGTH, runs, "x") == ""


def test_a_wide_range_of_positive_values_has_a_logarithmic_axis(tmp_path):
    runs = [made(tmp_path, f"g{g}", gamma=g) for g in (0.1, 1, 2)]
    svg = against_option(sweeps(runs)[0], PERPLEXITY, runs, "x")
    places = [float(x) for x in re.findall(r'<use href="#[^"]*" x="([0-9.]+)"[^>]*style="fill: var\(--run', svg)]
    assert len(places) == 3
    assert places[1] - places[0] > 2 * (places[2] - places[1])


def test_the_comparison_shows_the_sweep_and_texts_in_its_order(tmp_path):
    runs = [made(tmp_path, "brief", "sft"), made(tmp_path, "b", strength=2), made(tmp_path, "a", strength=0.5)]
    html = write([run.folder for run in runs]).read_text()
    text = " ".join(re.sub(r"<style.*?</style>|<svg.*?</svg>|<[^>]*>", " ", html, flags=re.DOTALL).split())
    assert "Against strength 2 runs of trra whose recipes differ in options.strength alone" in text
    assert "brief (step 2) brief 2 a: strength 0.5 (step 2) a 2 b: strength 2 (step 2) b 2" in text
    section = html[html.index("<h2>Against strength") : html.index("<h2>Over the course")]
    assert re.findall(r"<figcaption><b>([^<]*)", section) == ["Perplexity", "Answer length"]
    ids = re.findall(r"<(?:path|clipPath) id=\"([^\"]*)\"", html)
    assert len(ids) == len(set(ids))
    assert "Against" not in render(distinct_names(runs[:2]))


def test_the_name_of_an_option_is_escaped_and_is_no_formula(tmp_path):
    runs = [made(tmp_path, f"r{s}", **{"<script>$x^": s}) for s in (0, 1)]
    page = render(distinct_names(runs))
    assert "<script" not in page
    assert "Against &lt;script&gt;$x^" in page

import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from run_folders import METRICS, RECIPE, SAMPLES, SIGNATURE, event, heldout, rows, write_run

from trimtab.data.counts import REMARKS, Counts
from trimtab.report import ReportError, labels, load, write
from trimtab.report.curves import curves, is_log, points, running_mean
from trimtab.report.rollouts import kinds, shown, spread
from trimtab.report.words import duration, student_name


class Page(HTMLParser):
    """The text, the attributes and the balance of tags of a page."""

    VOID = ("meta", "link", "br", "img", "input", "hr")

    def __init__(self, html):
        super().__init__()
        self.tags, self.attributes, self.open, self.words = [], [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"style", "svg"} & set(self.open):
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def read(path):
    page = Page(path.read_text())
    assert page.open == []
    return page


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """The page of one run."""
    return write([write_run(tmp_path_factory.mktemp("one") / "a")])


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """The page of two runs, the second with a higher perplexity and lower divergence."""
    folder = tmp_path_factory.mktemp("two")
    after = {"entropy": 2.5, "top1": 0.5, "forward_kl": 0.25, "reverse_kl": 0.25, "agreement": 0.75}
    samples = [*SAMPLES[:5], *rows(2, nll=2.0, teacher_nll=0.5, **after)]
    samples.append({"kind": "generation", "step": 2, "prompt": "Name a colour.", "text": "Red."})
    recipe = {**RECIPE, "method": "kd", "output": "runs/b"}
    start = event("start", 0, method={"name": "kd"}, data={"train": {"rows": 90}})
    other = write_run(folder / "b", [start, *METRICS[1:]], samples, recipe)
    return write([write_run(folder / "a"), other])


def test_one_run_is_written_into_its_folder_and_nothing_else_is(one):
    assert one.name == "report.html"
    assert sorted(path.name for path in one.parent.iterdir()) == [
        "metrics.jsonl",
        "recipe.yaml",
        "report.html",
        "samples.jsonl",
        "signature.txt",
    ]


def test_several_runs_are_written_into_their_common_parent(two):
    assert two.name == "comparison.html"
    assert (two.parent / "a" / "metrics.jsonl").exists()
    assert not (two.parent / "a" / "report.html").exists()


def test_the_output_can_be_named(tmp_path):
    output = tmp_path / "new" / "page.html"
    assert write([write_run(tmp_path / "a")], output) == output
    assert output.exists()


@pytest.mark.parametrize("broken", ["trimtab.report.page.render", "pathlib.Path.replace"])
def test_an_old_page_survives_an_error_and_no_half_page_stays(tmp_path, monkeypatch, broken):
    folder = write_run(tmp_path / "a")
    (folder / "report.html").write_text("old")
    monkeypatch.setattr(broken, lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write([folder])
    assert (folder / "report.html").read_text() == "old"
    assert not list(folder.glob("*.part")) + list(folder.glob(".*"))


def test_no_folder_and_a_wrong_folder_are_errors_of_one_line(tmp_path):
    with pytest.raises(ReportError, match="no run folder given"):
        write([])
    with pytest.raises(ReportError, match="does not exist"):
        write([write_run(tmp_path / "a"), tmp_path / "b"])


@pytest.mark.parametrize("page", ["one", "two"])
def test_nothing_is_loaded_from_anywhere(page, request):
    path = request.getfixturevalue(page)
    html, parsed = path.read_text(), read(path)
    assert "http://" not in html
    assert "https://" not in html
    assert "@import" not in html
    assert all(value.startswith("#") for name, value in parsed.attributes if name in ("src", "href", "xlink:href"))
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", html))
    assert not {"script", "link", "img", "iframe"} & set(parsed.tags)


@pytest.mark.parametrize("page", ["one", "two"])
def test_drawings_do_not_share_ids_unless_they_mean_the_same(page, request):
    html = request.getfixturevalue(page).read_text()
    defined = re.findall(r"<(?:path|clipPath) id=\"([^\"]*)\"", html)
    assert defined
    assert set(re.findall(r"(?:href=\"#|url\(#)([^\")]*)", html)) == set(defined)
    assert len(defined) == len(set(defined))


def test_drawings_take_their_colours_from_the_style_sheet(one):
    html = one.read_text()
    assert "var(--run-0)" in html
    assert not re.findall(r"#0[ac]0", html)


def test_text_of_a_user_is_escaped_wherever_it_stands(tmp_path):
    bad = "<script>alert(1)</script>"
    metrics = [
        event("start", 0, method={"name": bad, "claim": bad, "equation": bad, "summary": bad}, data={bad: 1}),
        *METRICS[1:],
        event("train", 2, **{bad: 1.0}),
        event("note", 0, text=bad),
    ]
    samples = [*SAMPLES, {"kind": "generation", "step": 2, "prompt": bad, "text": bad}]
    recipe, signature = {**RECIPE, "note": bad}, {**SIGNATURE, bad: bad}
    folders = [write_run(tmp_path / name, metrics, samples, recipe, signature) for name in ("a", "b<script>")]
    for page in (write(folders[:1]), write(folders[1:]), write(folders)):
        parsed = read(page)
        assert "script" not in parsed.tags
        assert parsed.text.count(bad) >= 10


def test_the_headline_says_what_was_done_and_what_changed(one):
    text = read(one).text
    assert "hpd trained tiny for 2 steps: forward KL to the teacher fell from 1.50 to 0.500." in text
    assert "Perplexity fell from 7.39 to 2.72." in text
    assert "finished after 2 steps 12.5 s of training 800 answer tokens trained seed 0" in text


def test_a_page_shows_method_data_signature_and_recipe(one):
    text = read(one).text
    for words in ("Pulls the student up", "L = -( w*", "arXiv:2604.20244", "Keeps entropy", "rows in the source 100"):
        assert words in text
    assert "policy tiny 9ba1684f9789bbcb" in text
    assert "output: runs/a" in text


def test_before_after_and_change_stand_side_by_side(one):
    text = read(one).text
    assert (
        "Perplexity equally likely tokens, lower is better 7.39 [7.39, 7.39] 2.72 [2.72, 2.72] "
        "−4.67 [−4.67, −4.67] better 1.65 [1.65, 1.65]"
    ) in text
    assert "share of tokens, higher is better 30.0% [30.0, 30.0] 60.0% [60.0, 60.0] +30.0 points" in text


def test_samples_stand_side_by_side(one, two):
    assert "Name a colour. before (step 0) the the the after (step 2) Blue." in read(one).text
    assert "Name a colour. before (step 0) the the the a (step 2) Blue. b (step 2) Red." in read(two).text


TABLE = event("table", 2, title="Tokens clipped most", rows=[{"token": "' wait'", "times": 1200}, {"token": "x"}])


def test_tables_stand_on_the_page_of_the_run_and_of_a_comparison(tmp_path):
    metrics = [*METRICS, TABLE, event("table", 2, title="Nothing <b>", rows=[])]
    folders = [write_run(tmp_path / "a", metrics), write_run(tmp_path / "b")]
    assert (
        "Tables Tokens clipped most token times ' wait' 1,200 x – Nothing <b> no entries"
        in read(write(folders[:1])).text
    )
    assert "Tokens clipped most a token times" in read(write(folders)).text
    assert "Tables" not in read(write(folders[1:])).text


def test_the_kl_to_the_initial_policy_and_the_length_of_answers_are_shown_and_called_neither_better_nor_worse(tmp_path):
    metrics = [event("eval", 0, answer_length=40.0), event("eval", 2, answer_length=30.0, kl_to_initial=0.25)]
    samples = [*rows(0, nll=2.0, kl_to_initial=0.0), *rows(2, nll=1.0, kl_to_initial=0.25)]
    text = read(write([write_run(tmp_path / "a", metrics, samples, {"method": "psft"})])).text
    assert "KL to the initial policy nats per token 0 [0, 0] 0.250 [0.250, 0.250] +0.250 [+0.250, +0.250]" in text
    assert "Answer length tokens 40.0 30.0 −10.0" in text
    assert "KL to the initial policy rose from 0 to 0.250. Answer length fell from 40.0 to 30.0." in text


def test_metrics_of_any_method_are_drawn(tmp_path):
    logged = {"clip_fraction": 0.1, "ratio": 1.0, "margin": -0.5, "weak_ratio": 0.2, "something_new": 3.0}
    drawn = curves([load(write_run(tmp_path / "a", [event("train", 1, loss=1.0, **logged)], []))])
    assert [curve.key for curve in drawn] == ["loss", *logged]
    assert [bool(curve.meaning) for curve in drawn] == [True] * 5 + [False]


def test_a_change_that_may_be_chance_is_called_so(tmp_path):
    samples = [heldout(0, i, tokens=1, nll=1.0) for i in range(40)]
    samples += [heldout(2, i, tokens=1, nll=1.0 + (-1) ** i) for i in range(40)]
    folder = write_run(tmp_path / "a", [event("eval", 0, nll=1.0), event("eval", 2, nll=1.0)], samples)
    text = read(write([folder])).text
    assert "which may be chance" in text
    assert "better [" not in text


def test_few_rows_and_one_seed_are_said(one):
    text = read(one).text
    assert "4 held-out rows with 40 answer tokens. With so few rows the intervals tend to be too narrow." in text
    assert "One run with one seed" in text


def test_a_run_that_did_not_finish_says_so(tmp_path):
    folder = write_run(tmp_path / "a", [*METRICS[:4], event("interrupted", 2)], SAMPLES[:5])
    text = read(write([folder])).text
    assert "interrupted at step 2" in text
    assert "a was interrupted after step 2; its numbers were measured at step 0." in text
    assert f"To continue a: trimtab train {folder}/recipe.yaml --resume" in text
    assert "measured once so far, at step 0: forward KL to the teacher 1.50" in text
    assert "after not generated" in text


def test_a_run_without_held_out_rows_or_samples_has_a_page(tmp_path):
    text = read(write([write_run(tmp_path / "a", [event("train", 1, loss=1.0)], [])])).text
    assert "nothing was measured on held-out data" in text
    assert "Sample texts" not in text


def test_a_run_without_any_event_has_a_page(tmp_path):
    assert "hpd trained tiny for 0 steps" in read(write([write_run(tmp_path / "a", [], [])])).text


def test_a_run_without_a_teacher_shows_no_teacher(tmp_path):
    metrics = [event("eval", 0, nll=2.0), event("eval", 2, nll=1.0), event("finished", 0)]
    samples = [*rows(0, nll=2.0), *rows(2, nll=1.0)]
    recipe = {"method": "sft", "models": {"policy": "tiny"}}
    text = read(write([write_run(tmp_path / "a", metrics, samples, recipe, {"policy": "tiny"})])).text
    assert "sft trained tiny for 0 steps: perplexity fell from 7.39 to 2.72." in text
    assert "teacher" not in text.lower()


def test_a_perplexity_that_is_no_number_is_called_so(tmp_path):
    metrics = [event("eval", 0, nll=2.0), event("train", 1, loss=None), event("eval", 1, nll=None)]
    folder = write_run(tmp_path / "a", metrics, [*rows(0, nll=2.0), *[{**r, "nll": None} for r in rows(1, nll=0.0)]])
    text = read(write([folder])).text
    assert "perplexity went from 7.39 to not a number" in text
    assert "no finite value was logged" in text


def test_runs_are_compared_with_the_first_on_the_same_rows(two):
    text = read(two).text
    assert "Of 2 runs with one seed each, b ends with the lowest forward KL to the teacher, 0.250; next is a" in text
    after = text[text.index("Difference from a") :]
    assert "lower is better +4.67 [+4.67, +4.67] worse" in after
    assert "nats per token, lower is better −0.250 [−0.250, −0.250] better" in after
    assert "One seed for each setting: differences between methods may be chance." in text
    assert "initial policy" in text


def test_recipes_are_compared(two):
    text = read(two).text
    after = text[text.index("The recipes differ in:") :]
    assert "method hpd kd output runs/a runs/b" in after
    assert "models.policy tiny" not in after[: after.index("recipe.yaml of a")]


def test_runs_on_different_rows_are_shown_without_differences(tmp_path):
    samples = [*rows(0, nll=2.0, num_rows=3), *rows(2, nll=1.0, num_rows=3)]
    folders = [write_run(tmp_path / "a"), write_run(tmp_path / "b", samples=samples)]
    text = read(write(folders)).text
    assert "they cannot be ranked" in text
    assert (
        "b cannot be compared with a: they were measured on different held-out rows (a: 4, b: 3, in both: 3). "
        "No differences are shown."
    ) in text
    assert "Difference from" not in text
    assert "a 4, b 3" in text


def test_several_seeds_of_one_setting_are_counted(tmp_path):
    folders = [write_run(tmp_path / f"s{seed}", recipe={**RECIPE, "seed": seed}) for seed in (0, 1)]
    text = read(write(folders)).text
    assert "Seeds for each setting: s0, s1: 2." in text
    assert "One seed" not in text
    assert "2 seeds of s0, s1: forward KL to the teacher 0.500 [0.500, 0.500]." in text


def test_runs_of_different_length_are_said_to_be(tmp_path):
    longer = [*METRICS[:-1], event("train", 5, loss=1.0), event("finished", 5, seconds=30, tokens=2000)]
    text = read(write([write_run(tmp_path / "a"), write_run(tmp_path / "b", longer)])).text
    assert "not trained equally long: a 2 steps, b 5 steps." in text


def test_every_logged_number_is_drawn_once(tmp_path):
    drawn = curves([load(write_run(tmp_path / "a"))])
    assert [curve.key for curve in drawn] == ["perplexity", "forward_kl", "loss", "nll", "pull", "learning_rate"]
    assert all(curve.svg.startswith("<svg viewBox=") for curve in drawn)


def test_values_that_are_not_finite_are_left_out_and_counted(tmp_path):
    metrics = [event("train", step, loss=loss) for step, loss in enumerate([1.0, None, float("nan"), 2.0])]
    [curve] = curves([load(write_run(tmp_path / "a", metrics, []))])
    assert "2 non-finite values are omitted" in curve.remarks


def test_words_and_truths_among_the_metrics_are_not_drawn(tmp_path):
    metrics = [event("train", 1, loss=1.0, state="warm", clipped=True)]
    assert [curve.key for curve in curves([load(write_run(tmp_path / "a", metrics, []))])] == ["loss"]


def test_points_keep_the_logged_steps():
    steps, values = points([event("train", 4, loss=2.0), event("train", 8, loss=None), event("train", 9)], "loss")
    assert steps.tolist() == [4, 8]
    np.testing.assert_equal(values, [2.0, np.nan])


@pytest.mark.parametrize(
    "values, log", [([1, 101], True), ([1, 100], False), ([0, 1000], False), ([-1, 1000], False), ([], False)]
)
def test_more_than_two_positive_decades_are_drawn_on_a_log_scale(values, log):
    assert is_log(np.array(values, dtype=float)) is log


def test_a_log_scale_is_announced(tmp_path):
    metrics = [event("train", 1, loss=1000.0), event("train", 2, loss=1.0)]
    [curve] = curves([load(write_run(tmp_path / "a", metrics, []))])
    assert curve.remarks == "logarithmic scale"


def test_a_running_mean_takes_fewer_values_at_the_ends():
    np.testing.assert_allclose(running_mean(np.array([0.0, 3.0, 6.0, 9.0]), 3), [1.5, 3.0, 6.0, 7.5])


@pytest.mark.parametrize(
    "seconds, text", [(0.25, "0.250 s"), (42, "42.0 s"), (59.7, "1 min 0 s"), (185, "3 min 5 s"), (7800, "2 h 10 min")]
)
def test_durations_are_readable(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    "models, name",
    [
        ({"policy": "tiny"}, "tiny"),
        ({"student": "tiny"}, "tiny"),
        ({"policy": {"from": "teacher", "layers": 6}, "teacher": "big"}, "6 layers of big"),
        ({"policy": {"from": "other", "layers": [0, 2, 4]}}, "3 layers of other"),
        ({}, "the student"),
    ],
)
def test_the_student_is_named_as_in_the_recipe(tmp_path, models, name):
    assert student_name(load(write_run(tmp_path / "a", recipe={"models": models}))) == name


def test_neither_torch_nor_a_model_library_is_imported(one):
    code = (
        "import sys; from trimtab.report import write; write(sys.argv[1:]); "
        "print([m for m in ('torch', 'transformers', 'trl') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(one.parent)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_only_a_student_that_was_cut_is_called_untrained(tmp_path):
    cut = {**RECIPE, "models": {"student": {"from": "teacher", "layers": 2}, "teacher": "smollm2-135m"}}
    folders = [write_run(tmp_path / name, recipe=cut) for name in "ab"]
    text = read(write(folders)).text
    assert "untrained student" in text
    assert "initial policy" not in text


def test_counts_and_tables_have_labels_and_no_keys(tmp_path):
    data = {"train": {"rows": 100, "no_end": 3, "first": {"no_end": 7}}, "heldout": {"left_out_of_each_epoch": 1}}
    table = event("table", 2, title="Clipped", rows=[{"token": "a", "clip_fraction": 0.5}])
    metrics = [event("start", 0, method=METRICS[0]["method"], data=data), *METRICS[1:], table]
    text = read(write([write_run(tmp_path / "a", metrics)])).text
    assert "training rows: answers without an end token 3 (first: row 7)" in text
    assert "held-out rows: rows left out of each epoch 1" in text
    assert "share of tokens clipped" in text
    for key in ("train.no_end", "left_out_of_each_epoch", "clip_fraction"):
        assert key not in text


def rollout(step, reward, credits=None):
    return {
        "kind": "rollout", "step": step, "prompt": f"task {step}", "completion": "a b", "reward": reward,
        "tokens": ["a", " b"], "advantages": credits,
    }  # fmt: skip


def test_rollouts_are_the_best_the_worst_and_the_typical_ones(tmp_path):
    rewards = [0.0, 1.0, 0.5, 0.4, 0.9, 0.1, 0.55, 0.45, 0.6, 0.8, 0.2, 0.3]
    samples = [rollout(step, reward, [reward - 0.5, 0.0]) for step, reward in enumerate(rewards)]
    folder = write_run(tmp_path / "a", samples=[*SAMPLES, *samples])
    found = dict(shown(load(folder)))
    assert [row["reward"] for row in found["best"]] == [1.0, 0.9, 0.8, 0.6]
    assert [row["reward"] for row in found["worst"]] == [0.0, 0.1, 0.2, 0.3]
    assert sorted(row["reward"] for row in found["typical"]) == [0.4, 0.45, 0.5, 0.55]
    best, worst = found["best"][0]["tokens"][0], found["worst"][0]["tokens"][0]
    assert best == ("a", 0.5, 1.0, "high")
    assert worst == ("a", -0.5, 1.0, "low")
    assert found["best"][3]["tokens"][0][2] == pytest.approx(0.2)  # faint beside the others
    text = read(write([folder])).text
    assert text.index("Best") < text.index("Typical") < text.index("Worst")


def test_few_rollouts_are_shown_once_each(tmp_path):
    found = kinds([{"reward": reward} for reward in (0.0, 1.0, 1.0)])
    assert [kind for kind, _ in found] == ["best", "typical", "worst"]
    assert [len(rows) for _, rows in found] == [1, 1, 1]
    assert [kind for kind, _ in kinds([{"reward": 1.0}])] == ["best"]
    assert kinds([]) == []


def test_rollouts_that_are_kept_reach_from_the_lowest_reward_to_the_highest():
    rows = [{"reward": reward} for reward in (0.5, 1.0, 0.0, 0.2, 0.7, 0.9)]
    assert [row["reward"] for row in spread(rows, 4)] == [0.5, 1.0, 0.0, 0.7]
    assert spread(rows, 9) == rows
    assert len(spread([{"reward": 1.0}] * 6, 4)) == 4


def test_all_that_a_run_counts_of_its_rows_is_said_in_words():
    first = dict.fromkeys((*REMARKS, "truncated"), 7)
    counts = Counts(rows=9, truncated=1, plain=2, first_plain=4, first=first, remarks=dict.fromkeys(REMARKS, 3))
    found = labels.counted({"train": {**vars(counts), "left_out_of_each_epoch": 1}, "heldout": vars(Counts(rows=2))})
    assert found["training rows: rows with a truncated answer"] == "1 (first: row 7)"
    assert found["training rows: rows of plain texts, without the chat template"] == "2 (first: row 4)"
    assert found["held-out rows: rows in the source"] == "2"
    assert not [key for key in found if "plain" in key and key.startswith("held")]
    known = {*labels.LABELS.values()}
    assert [key for key in found if key.partition(": ")[2] not in known] == []
    assert len([key for key in found if found[key] == "3 (first: row 7)"]) == len(REMARKS)

"""`trimtab score`: every number against a plain loop with full logits, folders gone on with and never mixed."""

import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoModelForTokenClassification

import tiny
import tiny_folder
from trimtab.commands.score import ScoreSettings, score_into
from trimtab.common import fingerprint
from trimtab.common.errors import Interrupted
from trimtab.common.workdir import WorkdirError
from trimtab.data.sources import DataError
from trimtab.evals import scoring
from trimtab.evals.scored import Answer, Scored, read
from trimtab.evals.scoring import encode, score
from trimtab.evals.worth import worth
from trimtab.metrics.step_f1 import verification
from trimtab.metrics.step_scores import RULES, step_scores
from trimtab.models.loading import load_model, load_tokenizer
from trimtab.models.scalar_head import with_scalar_head
from trimtab.signals.reward_model import ScoreSpec, load_reward_model

QUIET = Console(quiet=True)


def user(text: str) -> list[dict]:
    return [{"role": "user", "content": text}]


def said(text: str) -> list[dict]:
    return [{"role": "assistant", "content": text}]


def planted(i: int) -> dict:
    """A pair with one wrong result and a number that follows from it, in the form of planted errors."""
    right, wrong = f"{i} + 2 = {i + 2}.\nSo {i + 2}.", f"{i} + 2 = {i + 3}.\nSo {i + 3}. Yes"
    start = wrong.index("=") + 2
    end, after = start + len(str(i + 3)), wrong.index("So ") + 3
    return {
        "prompt": user(f"what is {i} + 2?"),
        "chosen": said(right),
        "rejected": said(wrong),
        "error": {"kind": "slip" if i % 2 else "carry", "step": 0, "start": start, "end": end},
        "wrong": [[after, after + end - start]],
        "answer": str(i + 2),
    }


PAIRS = [planted(i) for i in range(7, 15)]
ANSWERS = [
    {
        "prompt": row["prompt"],
        "completion": row["chosen" if right else "rejected"],
        "label": right,
        "error": None if right else row["error"],
        "answer_text": row["answer"] if right else str(int(row["answer"]) + 1),
    }
    for row in PAIRS
    for right in (True, False)
]
STEPS = [
    {
        "prompt": user(f"count {i}"),
        "completions": [f"step {'abcdefg'[j]} of {i}." for j in range(2 + i % 3)],
        "labels": [i % 2 == 0 or j < i % 3 for j in range(2 + i % 3)],
    }
    for i in range(24)
]
ROWS = {"pairs": PAIRS, "answers": ANSWERS, "steps": STEPS}


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """Reward models: `ratio` learnt from outcomes, `scalar` from pairs; rows; a language model."""
    folder = tmp_path_factory.mktemp("files")
    start = tiny_folder.save(folder / "start", seed=1)
    tiny_folder.save(folder / "ratio", seed=2)
    ScoreSpec("ratio", "prefix_mean", 10.0, True, start, fingerprint.of_model(load_model(start)), "ipvrm").write(
        folder / "ratio"
    )
    scorer = with_scalar_head(load_model(str(folder / "ratio")), seed=0)
    with torch.no_grad():
        scorer.score.weight.mul_(30)  # type: ignore[union-attr]
    scorer.save_pretrained(folder / "scalar")
    ScoreSpec("scalar", "mean", 1.0, False, method="q_rm").write(folder / "scalar")
    tiny_folder.byte_tokenizer().save_pretrained(folder / "scalar")
    for name, rows in ROWS.items():
        tiny_folder.write_jsonl(folder / f"{name}.jsonl", rows)
    return folder


def plain(folder: Path, kind: str, row: dict, answer: str) -> tuple[list[float], list[float]]:
    """Scores and values of one answer, alone, from full logits."""
    tokenizer = tiny_folder.byte_tokenizer()
    prompt = f"<|user|>{row['prompt'][0]['content']}<|end|>\n<|assistant|>"
    before, after = (tokenizer(text, add_special_tokens=False).input_ids for text in (prompt, f"{answer}<|end|>"))
    ids = torch.tensor([before + after])
    with torch.no_grad():
        if kind == "scalar":
            model = AutoModelForTokenClassification.from_pretrained(folder / kind).eval()
            scores = model(ids).logits[0, len(before) :, 0].double()
            steps = torch.arange(1, len(after) + 1)
            return scores.tolist(), (scores.cumsum(0) / steps).tolist()
        total = torch.zeros(len(after), dtype=torch.float64)
        for name, sign in (("ratio", 1), ("start", -1)):
            logits = AutoModelForCausalLM.from_pretrained(folder / name).eval()(ids).logits[0].double()
            logprobs = logits.log_softmax(-1)[len(before) - 1 : -1]
            total += sign * logprobs.gather(1, torch.tensor(after)[:, None])[:, 0]
    return total.tolist(), [10 * float(total[: t + 1].sum()) / (t + 1) for t in range(len(total))]


def run(files: Path, out: Path, rows: str = "pairs", model: str = "ratio", **changes) -> tuple[list[dict], dict]:
    """Lines and measures of the folder."""
    source = None if "processbench" in changes else str(files / f"{rows}.jsonl")
    score_into(ScoreSettings(model=str(files / model), out=out, source=source, **changes), QUIET)
    lines = [json.loads(line) for line in (out / "scores.jsonl").read_text().splitlines()]
    return lines, json.loads((out / "measures.json").read_text())


def value(measures: dict, name: str, group: str = "all") -> float:
    (found,) = [one for one in measures["measures"] if (one["name"], one["group"]) == (name, group)]
    return found["value"][0]


# ---------------------------------------------------------------- scores


@pytest.mark.parametrize("kind", ["ratio", "scalar"])
def test_scores_and_values_are_those_of_a_plain_loop_with_full_logits(files, kind):
    model, tokenizer = load_reward_model(str(files / kind)), load_tokenizer(str(files / kind))
    found = list(score(model, tokenizer, PAIRS[:4], batch_size=3))
    assert sorted((one.row, one.side) for one in found) == [(i, s) for i in range(4) for s in ("chosen", "rejected")]
    for one in found:
        row = PAIRS[one.row]
        assert one.answer == row[one.side][0]["content"]
        scores, values = plain(files, kind, row, one.answer)
        assert one.scores == pytest.approx(scores, rel=1e-4, abs=1e-5)
        assert one.values == pytest.approx(values, rel=1e-4, abs=1e-4)


def test_changes_of_value_add_up_to_the_last_value():
    one = Scored(0, "answer", "ab", ["a", "b", "c"], [(0, 1), (1, 2), (2, 2)], [1, 2, 3], [0.5, 2.0, 1.25])
    assert one.td == [0.5, 1.5, -0.75]
    assert sum(one.td) == one.values[-1]


def test_tokens_are_the_answer_with_its_white_space_and_then_the_end(files):
    tokenizer = tiny_folder.byte_tokenizer()
    row = {"prompt": user("x"), "completion": said("a é\nb")}
    (one,), _ = encode(read([row]), tokenizer, 100)
    assert one.tokens == ["a", " ", "é", "�", "\n", "b", "<|end|>"]
    assert one.offsets == [(0, 1), (1, 2), (2, 3), (2, 3), (3, 4), (4, 5), (5, 5)]


def test_white_space_belongs_to_the_token_behind_it_where_the_tokenizer_leaves_it_out():
    tokenizer = tiny.tokenizer(["<unk>", "q", "a", "b"])
    (one,), _ = encode(read([{"prompt": "q", "completion": "a  b"}]), tokenizer, 100)
    assert one.offsets == [(0, 1), (3, 4)]
    assert one.tokens == ["a", "  b"]


def test_plain_texts_are_scored_from_their_first_token_that_something_predicts(files):
    model, tokenizer = load_reward_model(str(files / "scalar")), tiny_folder.byte_tokenizer()
    (one,) = score(model, tokenizer, [{"prompt": "", "completion": "abc"}])
    assert one.tokens == ["b", "c", "<|end|>"]
    assert one.offsets == [(1, 2), (2, 3), (3, 3)]
    (two,) = score(model, tokenizer, [{"prompt": "x", "completion": "abc"}])
    assert two.tokens == ["a", "b", "c", "<|end|>"]


def test_of_a_conversation_the_last_answer_is_scored(files):
    model, tokenizer = load_reward_model(str(files / "scalar")), tiny_folder.byte_tokenizer()
    (one,) = score(model, tokenizer, [{"messages": user("a") + said("first") + user("b") + said("last")}])
    assert one.answer == "last"
    assert len(one.scores) == 5


def test_batches_hold_answers_of_like_length_the_longest_first_and_change_nothing(files):
    model, tokenizer = load_reward_model(str(files / "ratio")), load_tokenizer(str(files / "ratio"))
    alone = list(score(model, tokenizer, PAIRS, batch_size=1))
    together = list(score(model, tokenizer, PAIRS, batch_size=5))
    assert [len(one.tokens) for one in alone] == sorted([len(one.tokens) for one in alone], reverse=True)
    assert [one.id for one in together] == [one.id for one in alone]
    for one, other in zip(alone, together):
        assert one.scores == pytest.approx(other.scores, rel=1e-4, abs=1e-5)


def test_a_long_answer_loses_its_end_and_one_with_a_long_prompt_is_left_out(files):
    model, tokenizer = load_reward_model(str(files / "scalar")), tiny_folder.byte_tokenizer()
    rows = [{"prompt": "12345", "completion": "abcdef"}, {"prompt": "12345678", "completion": "x"}]
    encoded, counts = encode(read(rows), tokenizer, 8)
    assert [one.tokens for one in encoded] == [["a", "b", "c"]]
    assert (counts.answers, counts.truncated) == (1, 1)
    assert counts.left_out == {"rows whose prompt alone is too long": 1}
    (one,) = score(model, tokenizer, rows, max_length=8)
    (whole, _) = score(model, tokenizer, rows)
    assert one.truncated
    assert not whole.truncated
    assert one.scores == pytest.approx(whole.scores[:3], rel=1e-4)


# ---------------------------------------------------------------- what is measured


def by_hand(scores: list[float], wrong: list[bool]) -> float:
    bad = [s for s, w in zip(scores, wrong) if w]
    good = [s for s, w in zip(scores, wrong) if not w]
    return float(np.mean([(b < g) + (b == g) / 2 for b in bad for g in good]))


def test_of_two_conversations_that_part_early_the_last_answers_are_scored():
    words = ("a", "b", "c", "d"), ("a", "x", "c", "yz")
    chosen, rejected = ([{"role": r, "content": c} for r, c in zip(["user", "assistant"] * 2, one)] for one in words)
    found, _ = encode(read([{"chosen": chosen, "rejected": rejected}], "rows"), tiny_folder.byte_tokenizer(), 99)
    assert [one.tokens for one in found] == [["d", "<|end|>"], ["y", "z", "<|end|>"]]


@pytest.mark.parametrize("kind", ["ratio", "scalar"])
def test_pairs_and_their_planted_errors_by_hand(files, tmp_path, kind):
    lines, measures = run(files, tmp_path / "out", model=kind)
    finals = {line["id"]: line["values"][-1] for line in lines}
    wins = [finals[f"{i}/chosen"] > finals[f"{i}/rejected"] for i in range(1, 9)]
    assert value(measures, "pair accuracy") == np.mean(wins)
    assert value(measures, "pair accuracy", "kind=slip") == np.mean(wins[::2])

    error, follows, before, after, numbers = [], [], [], [], []
    for line in sorted((line for line in lines if line["side"] == "rejected"), key=lambda line: line["row"]):
        row = PAIRS[line["row"]]
        first, (later,) = (row["error"]["start"], row["error"]["end"]), row["wrong"]
        places = range(len(line["tokens"]))  # one token a character, and the end
        error.append(by_hand(line["scores"], [first[0] <= at < first[1] for at in places]))
        digits = [at for at in places if line["tokens"][at].isdigit()]
        of_numbers = [first[0] <= at < first[1] for at in digits]
        if any(of_numbers) and not all(of_numbers):
            numbers.append(by_hand([line["scores"][at] for at in digits], of_numbers))
        both = [any(a <= at < b for a, b in (first, later)) for at in places]
        follows.append(by_hand(line["scores"], both))
        seen = [1 / (1 + math.exp(-v)) for v in line["values"]] if kind == "ratio" else line["values"]
        before.append(np.mean(seen[: first[0]]))
        after.append(np.mean(seen[first[1] :]))
    assert value(measures, "token AUC of the error") == pytest.approx(np.mean(error))
    assert value(measures, "token AUC of the error", "kind=carry") == pytest.approx(np.mean(error[1::2]))
    assert value(measures, "token AUC of the error and what follows from it") == pytest.approx(np.mean(follows))
    assert numbers
    assert value(measures, "token AUC of the error among numbers") == pytest.approx(np.mean(numbers))
    what = "probability" if kind == "ratio" else "value"
    assert value(measures, f"mean {what} before the error") == pytest.approx(np.mean(before), rel=1e-5)
    assert value(measures, f"mean {what} after the error") == pytest.approx(np.mean(after), rel=1e-5)


def test_answers_of_a_model_that_learnt_from_outcomes_by_hand(files, tmp_path):
    lines, measures = run(files, tmp_path / "out", "answers")
    lines.sort(key=lambda line: line["row"])
    right = [bool(ANSWERS[line["row"]]["label"]) for line in lines]
    finals = [line["values"][-1] for line in lines]
    assert value(measures, "accuracy of the sign") == np.mean([(v > 0) == y for v, y in zip(finals, right)])
    own = [np.mean([(1 / (1 + math.exp(-v)) - y) ** 2 for v in line["values"]]) for line, y in zip(lines, right)]
    assert value(measures, "Brier score of prefixes") == pytest.approx(np.mean(own))
    assert value(measures, "Brier score of always saying the share of right answers") == pytest.approx(0.25)
    area = by_hand(finals, [not y for y in right])
    assert value(measures, "AUC of the final value") == pytest.approx(area)
    assert len(measures["calibration"]) == len(measures["reliability"]) == 10
    assert sum(one["answers"] for one in measures["reliability"]) == 16


def test_values_that_are_no_probabilities_are_held_against_labels_by_their_order_alone(files, tmp_path):
    _, measures = run(files, tmp_path / "out", "answers", "scalar")
    names = {one["name"] for one in measures["measures"]}
    assert "AUC of the final value" in names
    assert not {"accuracy of the sign", "Brier score of prefixes"} & names
    assert measures["calibration"] == measures["reliability"] == []


def test_answers_without_labels_are_scored_and_not_measured(files, tmp_path):
    rows = [{key: row[key] for key in ("prompt", "completion")} for row in ANSWERS]
    tiny_folder.write_jsonl(files / "bare.jsonl", rows)
    lines, measures = run(files, tmp_path / "out", "bare")
    assert len(lines) == 16
    assert measures["measures"] == []


def test_prompts_with_several_answers_give_best_of_n_by_hand(files, tmp_path):
    lines, measures = run(files, tmp_path / "out", "answers")
    finals = {line["row"]: line["values"][-1] for line in lines}  # 2i is right, 2i + 1 wrong, of one prompt
    two = measures["best_of_n"][-1]
    assert two["n"] == 2
    assert two["accuracy"]["highest"][0] == np.mean([finals[2 * i] > finals[2 * i + 1] for i in range(8)])
    assert two["accuracy"]["majority"][0] == two["accuracy"]["random"][0] == 0.5
    assert two["accuracy"]["weighted"][0] == two["accuracy"]["highest"][0]
    assert two["accuracy"]["oracle"][0] == 1


def answer(row: int, prompt: str, right: bool, final: float, text: str | None = None) -> tuple[Answer, Scored]:
    asked = Answer(row, "answer", {"prompt": prompt, "completion": "x"}, "x", right, final=text)
    return asked, Scored(row, "answer", "x", ["x"], [(0, 1)], [final], [final])


def test_of_unequal_numbers_of_answers_the_n_that_uses_most_is_taken():
    sizes = {"a": 3, "b": 3, "c": 2, "d": 1}  # n = 3 uses 6, n = 2 uses 6: the larger one
    found = [answer(i, prompt, i == 0, -i) for prompt, size in sizes.items() for i in range(size)]
    result = worth(found, "scalar", outcomes=False)
    assert result.best_of_n[-1].n == 3
    assert result.best_of_n[-1].accuracy["highest"].estimate == 1
    assert "2 prompts with fewer than 3 answers are left out" in result.notes[0]
    assert "majority" not in result.best_of_n[-1].accuracy
    assert "Rows do not say their final answers" in result.notes[1]


@pytest.mark.parametrize(("kind", "rules"), [("ratio", RULES[:4]), ("scalar", RULES[4:])])
def test_steps_are_verified_by_the_rules_that_fit_the_scores(files, tmp_path, kind, rules):
    lines, measures = run(files, tmp_path / "out", "steps", kind)
    lines.sort(key=lambda line: line["row"])
    assert tuple(dict.fromkeys(one["rule"] for one in measures["steps"])) == rules
    thresholds = ["oracle", "grid", "held out"] if kind == "ratio" else ["oracle", "held out"]
    assert [one["threshold"] for one in measures["steps"]] == thresholds * len(rules)
    labels = [next((j for j, good in enumerate(row["labels"]) if not good), -1) for row in STEPS]
    for rule in rules:
        scores = []
        for line, row in zip(lines, STEPS):
            ends, at = [], -1
            for step in row["completions"]:  # one token a character, newlines between
                at += len(step) + bool(ends)
                ends.append(at)
            scores.append(step_scores(line["scores"], ends, rule))
        wanted = verification(scores, labels, [row["prompt"][0]["content"] for row in STEPS])
        for one in (one for one in measures["steps"] if one["rule"] == rule):
            assert one["f1"] == pytest.approx(list(wanted[one["threshold"]].f1))
            assert one["traces"] == 24


def test_too_few_traces_of_a_kind_are_said_and_not_measured(files, tmp_path):
    _, measures = run(files, tmp_path / "out", "steps", limit=2)
    assert measures["steps"] == []
    assert measures["cautions"] == ["all: 1 right and 1 erroneous traces are too few."]


def test_processbench_is_rendered_as_the_authors_do_and_measured_by_split(files, tmp_path):
    folder = tmp_path / "bench"
    folder.mkdir()
    for split in ("gsm8k", "math", "olympiadbench", "omnimath"):
        rows = [
            {"id": f"{split}-{i}", "problem": f"{split} {i}?", "steps": [f"{i} is.", "So."], "label": i % 3 - 1}
            for i in range(14)
        ]
        (folder / f"{split}.json").write_text(json.dumps(rows))
    lines, measures = run(files, tmp_path / "out", processbench=folder, limit=12)
    assert len(lines) == 48
    assert {line["answer"] for line in lines if line["row"] % 12 == 3} == {"Step 1: 3 is.\n\nStep 2: So."}
    groups = [one["group"] for one in measures["steps"] if (one["rule"], one["threshold"]) == ("sum-diff", "oracle")]
    assert groups == ["gsm8k", "math", "olympiadbench", "omnimath", "mean"]
    own = {one["group"]: one for one in measures["steps"] if (one["rule"], one["threshold"]) == ("mean", "held out")}
    mean = np.mean([one["f1"][0] for group, one in own.items() if group != "mean"])
    assert own["mean"]["f1"][0] == pytest.approx(mean)


# ---------------------------------------------------------------- the folder


def test_the_command_writes_scores_numbers_a_signature_and_a_page(trimtab, files, tmp_path):
    out = tmp_path / "new" / "out"
    code, text, err = trimtab("score", "--model", files / "ratio", files / "pairs.jsonl", "--out", out)
    assert (code, err) == (0, "")
    assert {path.name for path in out.iterdir()} >= {"scores.jsonl", "measures.json", "signature.txt", "report.html"}
    for words in ("pair accuracy", "token AUC of the error", "Over all answers", "signature:", "left 0"):
        assert words in text, words
    assert re.search(r"score  \d+/\d+ tokens  [\d,]+/s", text)
    assert text.endswith(f"report: {out / 'report.html'}\n")
    line = json.loads((out / "scores.jsonl").read_text().splitlines()[0])
    assert sum(line["td"]) == pytest.approx(line["values"][-1], rel=1e-6)
    assert len(line["tokens"]) == len(line["offsets"]) == len(line["scores"]) == len(line["td"])
    assert "ratio, prefix_mean, beta 10" in (out / "signature.txt").read_text()


def test_a_folder_that_is_complete_is_measured_again_and_nothing_is_scored(files, tmp_path, monkeypatch):
    lines, measures = run(files, tmp_path / "out")
    monkeypatch.setattr("trimtab.evals.scoring.score_batch", lambda *a: pytest.fail("scored"))
    assert run(files, tmp_path / "out") == (lines, measures)


def test_a_killed_call_is_gone_on_with_to_the_same_bits_and_nothing_is_scored_twice(files, tmp_path, monkeypatch):
    whole, measures = run(files, tmp_path / "whole", batch_size=4)
    path = tmp_path / "out" / "scores.jsonl"
    run(files, tmp_path / "out", batch_size=4)
    kept = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(kept[:8]) + kept[8][:30])
    (tmp_path / "out" / "measures.json").unlink()
    asked = []
    real = scoring.score_batch
    monkeypatch.setattr(scoring, "score_batch", lambda *a: asked.extend(one.answer.id for one in a[2]) or real(*a))
    again, measured = run(files, tmp_path / "out", batch_size=4)
    assert again == whole
    assert measured == measures
    assert len(asked) == len(set(asked)) == len(whole) - 8


def test_ctrl_c_keeps_what_is_there(files, tmp_path, monkeypatch):
    real = scoring.score_batch

    def stop(*args):
        if (tmp_path / "out" / "scores.jsonl").exists():
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(scoring, "score_batch", stop)
    with pytest.raises(Interrupted, match=r"stopped; 4 answers are in .*: run the same command again to continue"):
        run(files, tmp_path / "out", batch_size=4)


@pytest.mark.fast("changes3*")
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": "scalar"}, "a different model "),
        ({"rows": "answers"}, "different rows .8 of"),
        ({"limit": 3}, "different rows .8 of"),
        ({"max_length": 40}, "a different max_length .512 there, 40 here"),
        ({"dtype": "bfloat16"}, "a different dtype .float32 there, bfloat16 here"),
    ],
)
def test_other_scores_are_never_mixed_in_and_force_replaces_them(files, tmp_path, changes, said):
    before, _ = run(files, tmp_path / "out")
    with pytest.raises(WorkdirError, match=said) as error:
        run(files, tmp_path / "out", **changes)
    assert "add --force to replace it or choose another --out" in str(error.value)
    assert [json.loads(line) for line in (tmp_path / "out" / "scores.jsonl").read_text().splitlines()] == before
    lines, _ = run(files, tmp_path / "out", **changes, force=True)
    fresh, _ = run(files, tmp_path / "fresh", **changes)
    assert lines == fresh != before


def test_scores_without_a_signature_and_torn_ones_are_refused(files, tmp_path):
    run(files, tmp_path / "out")
    path = tmp_path / "out" / "scores.jsonl"
    path.write_text('{"id": "1/chosen"}\n')
    with pytest.raises(scoring.ScoreError, match="holds a line that is not a score"):
        run(files, tmp_path / "out")
    (tmp_path / "out" / "signature.txt").unlink()
    with pytest.raises(WorkdirError, match=r"holds scores\.jsonl but no signature\.txt"):
        run(files, tmp_path / "out")


def test_two_calls_at_once_do_not_share_a_folder(files, tmp_path):
    (tmp_path / "out").mkdir()
    with (
        FileLock(tmp_path / "out" / ".lock"),
        pytest.raises(WorkdirError, match="is being written by another process"),
    ):
        run(files, tmp_path / "out")


# ---------------------------------------------------------------- what is said


def test_what_is_cut_is_said_with_its_share(files, tmp_path):
    rows = [{"prompt": user("a"), "completion": said("b" * n)} for n in (1, 2, 60, 70)]
    tiny_folder.write_jsonl(files / "long.jsonl", rows)
    _, measures = run(files, tmp_path / "out", "long", max_length=40)
    assert measures["cautions"] == [
        "2 of 4 answers (50%) are cut before their end token, at 40 tokens: their last values are for a prefix."
    ]


def test_answers_without_an_end_token_are_said(files, tmp_path):
    (files / "endless").mkdir(exist_ok=True)
    tokenizer = tiny_folder.byte_tokenizer("{% for m in messages %}{{ m['content'] }}{% endfor %}")
    (one, _), counts = encode(read(ANSWERS[:2]), tokenizer, 100)
    assert one.tokens[-1] == "."
    assert (counts.answers, counts.truncated, counts.no_end) == (2, 0, 2)


def test_pairs_that_say_nothing_are_counted_and_left_out(files, tmp_path):
    same = {**PAIRS[0], "rejected": PAIRS[0]["chosen"], "error": None}
    empty = {**PAIRS[0], "chosen": said(" ")}
    tiny_folder.write_jsonl(files / "some.jsonl", [same, PAIRS[1], empty, PAIRS[2]])
    lines, measures = run(files, tmp_path / "out", "some")
    assert {line["row"] for line in lines} == {1, 3}
    assert measures["cautions"] == [
        "Left out: 1 pairs with two answers that are the same.",
        "Left out: 1 pairs with an empty side.",
    ]
    (accuracy,) = [one for one in measures["measures"] if one["name"] == "pair accuracy" and one["group"] == "all"]
    assert accuracy["number"] == 2


BAD = {
    "no label": ([ANSWERS[0], {**ANSWERS[1], "label": None}], "row 2 has no label; expected 1 or true"),
    "label": ([{**ANSWERS[0], "label": 2}], "row 1 has the label 2; expected 1 or true"),
    "step label": ([{**STEPS[0], "labels": [True, 3]}], "row 1 has the step label 3"),
    "no step labels": ([{**STEPS[0], "labels": None}], "row 1 has no labels for 2 steps"),
    "no steps": ([{**STEPS[0], "completions": [], "labels": []}], "row 1 has no steps"),
    "empty step": ([STEPS[0], {**STEPS[3], "completions": [" ", "a"]}], "row 2: step 1 has no token of its own"),
    "mixed": ([PAIRS[0], ANSWERS[0]], "row 2 holds answers and row 1 pairs"),
    "no answer": ([{"prompt": user("a")}], "row 1 has the columns prompt; expected an answer to score"),
    "a question": ([{"messages": user("a")}], "row 1 has no answer: expected a text, or messages that end with one"),
    "empty": ([{"prompt": user("a"), "completion": said(" ")}], "row 1 has an empty answer"),
    "text": ([{"text": "abc"}], "row 1 has the columns text; expected an answer to score"),
    "span": ([{**PAIRS[0], "error": {"start": 3, "end": 300}}], "row 1: the wrong characters 3 to 300 are none of"),
    "no span": ([{**PAIRS[0], "error": {"start": 3}}], "row 1: error needs start and end"),
    "all equal": ([{**PAIRS[0], "rejected": PAIRS[0]["chosen"], "error": None}], "nothing is left to score: 1 pairs"),
}


@pytest.mark.parametrize("name", BAD)
def test_rows_that_cannot_be_scored_cost_one_line(trimtab, files, tmp_path, name):
    rows, message = BAD[name]
    path = tiny_folder.write_jsonl(tmp_path / "rows.jsonl", rows)
    code, _, err = trimtab("score", "--model", files / "ratio", path, "--out", tmp_path / "out")
    assert code == 2
    assert err.count("\n") == 1
    assert message in err
    assert not (tmp_path / "out" / "measures.json").exists()


def test_models_that_cannot_score_cost_one_line(trimtab, files, tmp_path):
    def said_of(*words) -> str:
        code, _, err = trimtab("score", *words, "--out", tmp_path / "out")
        assert code == 2, err
        assert err.count("\n") == 1
        return err

    rows = files / "pairs.jsonl"
    assert "is not a reward model" in said_of("--model", files / "start", rows)
    assert "there is no folder" in said_of("--model", tmp_path / "nowhere", rows)
    assert "the weights differ" in said_of("--model", files / "ratio", rows, "--reference", files / "ratio")
    gone = said_of("--model", files / "ratio", rows, "--reference", tmp_path / "gone")
    assert "--reference: there is no folder" in gone
    moved = tmp_path / "moved"
    shutil.copytree(files / "ratio", moved)
    record = moved / "trimtab_reward.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "reference": str(tmp_path / "gone")}))
    assert "was not found" in (gone := said_of("--model", moved, rows))
    assert "--reference PLACE" in gone
    assert "name rows to score" in said_of("--model", files / "ratio")
    assert "name rows to score" in said_of("--model", files / "ratio", rows, "--processbench", tmp_path)
    assert "has no gsm8k.json" in said_of("--model", files / "ratio", "--processbench", tmp_path)
    learnt = tmp_path / "learnt"
    with_scalar_head(load_model(tiny_folder.save(learnt, "gpt2", n_positions=64)), seed=0).save_pretrained(learnt)
    assert "the model reads 64 tokens at most" in said_of("--model", learnt, rows, "--max-length", "600")
    assert not (tmp_path / "out" / "scores.jsonl").exists()


def test_rotary_positions_beyond_the_training_are_read_where_that_is_asked_for_and_said(trimtab, files, tmp_path):
    row = {**PAIRS[0], "chosen": [{"role": "assistant", "content": "a" * 530}], "error": None}
    rows = tiny_folder.write_jsonl(tmp_path / "rows.jsonl", [row])
    code, out, err = trimtab("score", "--model", files / "scalar", rows, "--out", tmp_path / "out", "--max-length", 600)
    assert code == 0, err
    assert "was trained for 512 (max_position_embeddings)" in " ".join(out.split())


def test_a_reference_that_has_moved_gives_the_same_scores(files, tmp_path):
    moved = tmp_path / "moved"
    tiny_folder.save(moved, seed=1)
    lines, _ = run(files, tmp_path / "out")
    again, _ = run(files, tmp_path / "again", reference=str(moved))
    assert again == lines


def test_a_token_that_the_model_does_not_know_is_named(files):
    small = with_scalar_head(load_model(tiny_folder.save(files / "small", vocab_size=100)), seed=0)
    small.save_pretrained(files / "small_rm")
    model = load_reward_model(str(files / "small_rm"))
    with pytest.raises(scoring.ScoreError, match=r"row 1 holds the token id \d+, which the reward model's vocabulary"):
        list(score(model, tiny_folder.byte_tokenizer(), PAIRS[:1]))


def test_scores_that_are_not_finite_are_refused(files):
    model = load_reward_model(str(files / "scalar"))
    with torch.no_grad():
        model.model.score.weight.fill_(math.nan)  # type: ignore[union-attr]
    with pytest.raises(scoring.ScoreError, match=r"row \d has a score that is not finite; try --dtype float32"):
        list(score(model, tiny_folder.byte_tokenizer(), PAIRS))


def test_a_slow_tokenizer_or_a_template_that_rewrites_the_answer_is_refused(files):
    tokenizer = tiny_folder.byte_tokenizer(tiny_folder.TEMPLATE.replace("m['content']", "m['content'] | upper"))
    with pytest.raises(DataError, match="row 1: the chat template changes the text of the answer"):
        encode(read([{"prompt": user("a"), "completion": said("answer")}]), tokenizer, 100)


def test_a_worker_refuses_another_model_under_the_name_of_the_commands(files):
    right = fingerprint.of_model(load_reward_model(str(files / "scalar")).model)
    assert scoring.scorer(str(files / "scalar"), right, "rows")
    with pytest.raises(
        scoring.ScoreError, match=f"scalar is another model on .* than where the command runs .{right[::-1]}"
    ):
        scoring.scorer(str(files / "scalar"), right[::-1], "rows")

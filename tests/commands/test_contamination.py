"""`trimtab contamination`: three sets, the gaps between their scores, and a page."""

import json
import shutil
from pathlib import Path

import pytest
from rich.console import Console

import tiny_folder
from trimtab.commands import clean as cleaning
from trimtab.commands.contamination import ContaminationError, ContaminationSettings, contamination, folder_of
from trimtab.common.errors import Unanswered
from trimtab.evals.models import Reply
from trimtab.rewriting.rules import Rules

QUIET = Console(quiet=True)


def question(i: int, kind: str = "car") -> dict:
    text = f"If a {kind} costs {i} dollars, what is the price of {i + 2} of them in a big shop?"
    return {"id": f"{kind}{i}", "question": text, "options": ["a lot", "nothing"], "answer": "AB"[i % 2]}


class Remembers:
    """Right where it has read the very words; else it says A, or nothing that is an option."""

    batch = 4

    def __init__(self, seen: list[dict], otherwise: str):
        self.answers = {row["question"]: row["answer"] for row in seen}
        self.otherwise, self.asked = otherwise, 0

    def facts(self) -> dict[str, str]:
        return {"model": "one that remembers"}

    def answer(self, chats, max_new_tokens) -> list[Reply]:
        self.asked += len(chats)
        texts = [chat[-1]["content"] for chat in chats]
        return [
            Reply(next((a for question, a in self.answers.items() if question in text), self.otherwise))
            for text in texts
        ]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sets")
    original = tiny_folder.write_jsonl(folder / "original.jsonl", [question(i) for i in range(8)])
    how = cleaning.CleanSettings(file=original, out=folder / "clean.jsonl", detector="none")
    cleaning.clean(how, Rules(4), console=QUIET)
    tiny_folder.write_jsonl(folder / "control.jsonl", [question(i, "boat") for i in range(6)])
    return folder


def asked(sets, models, out, **more) -> ContaminationSettings:
    return ContaminationSettings(clean=sets[0], control=sets[1], model=models, out=out, **more)


@pytest.fixture
def sets(made, tmp_path) -> tuple[str, str]:
    """Clean rows, of 8 questions, and 6 control rows; A is right for half of each."""
    shutil.copytree(made, tmp_path / "sets")
    return str(tmp_path / "sets" / "clean.jsonl"), str(tmp_path / "sets" / "control.jsonl")


@pytest.fixture
def answerers(monkeypatch) -> dict[str, Remembers]:
    """Their names are no models that could be loaded."""
    monkeypatch.setattr("trimtab.runs.early.check_model", lambda name, where: None)
    monkeypatch.setattr("trimtab.models.loading.load_config", lambda name: None)
    found = {"seen": Remembers([question(i) for i in range(8)], "A"), "fresh": Remembers([], "A")}
    monkeypatch.setattr("trimtab.commands.contamination.model_of", lambda settings, folder: found[settings.model])
    return found


def test_who_knows_the_words_has_a_gap_and_who_does_not_has_none(sets, answerers, tmp_path):
    out = tmp_path / "out"
    settings = asked(sets, ["seen", "fresh"], out, baseline="fresh")
    seen, fresh = contamination(settings, QUIET)
    assert {name: value.estimate for name, value in seen.scores.items()} == {
        "original": 1.0, "clean": 0.5, "control": 0.5,
    }  # fmt: skip
    assert (seen.gap.estimate, seen.excess.estimate, seen.shift and seen.shift.estimate) == (0.5, 0.5, 0.5)
    assert seen.recovery == 1.0
    assert (fresh.gap.estimate, fresh.recovery) == (0.0, None)
    facts = json.loads((out / "contamination.json").read_text())
    assert [one["model"] for one in facts["models"]] == ["seen", "fresh"]
    assert facts["models"][0]["gap"][0] == 0.5
    assert facts["items"] == {"original": 8, "clean": 8, "control": 6}
    assert facts["rewriter"] == Rules(4).name
    assert facts["unchanged wording"] == 0


def test_the_page_says_who_and_links_to_every_answer(sets, answerers, tmp_path):
    out = tmp_path / "out"
    contamination(asked(sets, ["seen", "fresh"], out, baseline="fresh"), QUIET)
    page = (out / "report.html").read_text()
    assert "seen loses 0.500 [" in page
    assert "fresh is not clearly above a random option (0.500) on the original items" in page
    assert "Few items (original 8, clean 8, control 6)" in page
    for model in ("seen", "fresh"):
        for name in ("original", "clean", "control"):
            assert f'href="{model}/{name}/report.html"' in page
            assert (out / model / name / "report.html").is_file()


def test_items_that_were_not_rewritten_are_counted(sets, answerers, tmp_path):
    rows = [json.loads(line) for line in Path(sets[0]).read_text().splitlines()]
    for row in rows[:3]:
        row["clean"] = {"question": row["question"]}
    tiny_folder.write_jsonl(Path(sets[0]), rows)
    (seen,) = contamination(asked(sets, ["seen"], tmp_path / "out"), QUIET)
    assert seen.scores["clean"].estimate == (3 + 2) / 8  # of the other five it says A, which is right for two
    assert "Items with the same wording in both sets: 3" in (tmp_path / "out" / "report.html").read_text()


def test_no_item_is_asked_twice(sets, answerers, tmp_path):
    settings = asked(sets, ["seen"], tmp_path / "out")
    contamination(settings, QUIET)
    assert answerers["seen"].asked == 22
    contamination(settings, QUIET)
    assert answerers["seen"].asked == 22


def test_a_model_that_made_the_clean_set_is_refused_unless_it_is_allowed(sets, answerers, tmp_path, monkeypatch):
    meta = Path(sets[0]).with_suffix(".meta.json")
    meta.write_text(json.dumps({**json.loads(meta.read_text()), "rewriter": "seen and others"}))
    with pytest.raises(ValueError, match="seen made the clean set"):
        contamination(asked(sets, ["seen"], tmp_path / "out"), QUIET)
    assert answerers["seen"].asked == 0
    contamination(asked(sets, ["seen"], tmp_path / "out", allow_same=True), QUIET)


def test_a_control_set_is_fresh_in_any_case_and_wording(sets, answerers, tmp_path):
    clean = json.loads(Path(sets[0]).read_text().splitlines()[1])
    near = [
        {**question(20, "boat"), "question": question(0)["question"].upper().replace("?", " ?")},
        {**question(21, "boat"), "question": clean["clean"]["question"]},
        question(22, "boat"),
    ]
    control = tiny_folder.write_jsonl(tmp_path / "near.jsonl", near)
    with pytest.raises(ContaminationError, match="2 of its questions"):
        contamination(asked((sets[0], control), ["seen"], tmp_path / "out"), QUIET)


def test_a_clean_file_that_was_cut_is_refused(sets, answerers, tmp_path):
    path = Path(sets[0])
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:3]))
    with pytest.raises(ContaminationError, match="has 3 rows, but its meta file says 8"):
        contamination(asked(sets, ["seen"], tmp_path / "out"), QUIET)


def test_items_that_ended_in_an_error_are_told(sets, answerers, tmp_path, monkeypatch):
    answer = Remembers.answer

    def fails_once(self, chats, max_new_tokens):
        found = answer(self, chats, max_new_tokens)
        return [Reply("", "a timeout"), *found[1:]] if self.asked == 4 else found

    monkeypatch.setattr(Remembers, "answer", fails_once)
    out = tmp_path / "out"
    contamination(asked(sets, ["seen"], out), QUIET)
    assert json.loads((out / "contamination.json").read_text())["errors"]["seen"]["original"] == 1
    assert (
        "items failed with an error and are excluded (original 1, clean 0, control 0)"
        in (out / "report.html").read_text()
    )
    monkeypatch.setattr(Remembers, "answer", lambda self, chats, number: [Reply("", "no connection")] * len(chats))
    with pytest.raises(Unanswered, match="the first 8 requests failed, the first with: no connection"):
        contamination(asked(sets, ["fresh"], out), QUIET)


def test_a_ctrl_c_says_what_is_kept(trimtab, sets, answerers, tmp_path, monkeypatch):
    def stopped(self, chats, max_new_tokens):
        raise KeyboardInterrupt

    monkeypatch.setattr(Remembers, "answer", stopped)
    code, _, err = trimtab("contamination", sets[0], "--control", sets[1], "--model", "seen", "--out", tmp_path / "out")
    assert code == 130
    assert "stopped; nothing of " in err


def test_a_file_in_the_place_of_a_folder_costs_one_line(trimtab, sets, answerers, monkeypatch):
    code, _, err = trimtab("contamination", sets[0], "--control", sets[1], "--model", "seen", "--out", sets[1])
    assert code == 2
    assert f"{sets[1]} cannot be written: file exists; choose another --out" in err


def test_folders_of_models_are_told_apart():
    assert folder_of("runs/a/model") == "runs-a-model"
    assert folder_of("/runs/b/model/") == "runs-b-model"
    assert folder_of("org/name-1.5") == "org-name-1.5"
    assert folder_of("..") == "model"


def test_a_clean_set_without_its_meta_is_refused(sets, tmp_path):
    Path(sets[0]).with_suffix(".meta.json").unlink()
    with pytest.raises(ContaminationError, match=r"clean\.meta\.json"):
        contamination(asked(sets, ["seen"], tmp_path / "out"), QUIET)


def test_mistakes_cost_one_line(trimtab, sets, tmp_path):
    clean, control = sets
    base = ("contamination", clean, "--out", tmp_path / "out", "--model", "characters-1m")
    for words, said in (
        (("--control", clean), "8 of its questions are also in"),
        (("--control", control, "--baseline", "b"), "--baseline b is not one of the models: characters-1m"),
        (("--control", control, "--model", "characters-1m"), "a model is listed twice"),
        (("--control", control, "which=clean"), "the files are CLEAN.jsonl and --control FILE"),
        (("--control", control, "answer"), "write KEY=VALUE"),
        (("--control", control, "answr=x"), "answr"),
        (("--control", tmp_path / "none.jsonl"), "none.jsonl"),
        (("--control", control, "--model", "no-such-model"), "no-such-model"),
    ):
        code, _, err = trimtab(*base, *words)
        assert code == 2, words
        assert said in err, (words, err)
        assert len(err.strip().splitlines()) == 1
    assert not (tmp_path / "out" / "contamination.json").exists()


def test_the_command_asks_a_model_in_memory(trimtab, sets, tmp_path):
    model = tiny_folder.save(tmp_path / "tiny", max_position_embeddings=4096)
    out = tmp_path / "out"
    code, said, err = trimtab(
        "contamination", sets[0], "--control", sets[1], "--model", model, "--out", out, "--mode", "loglikelihood"
    )
    assert (code, err) == (0, "")
    assert f"report: {out / 'report.html'}" in said
    assert "original - clean" in said
    assert (out / folder_of(model) / "clean" / "samples.jsonl").is_file()

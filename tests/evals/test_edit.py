"""The suite `edit`: what is asked, what counts, and every number by hand."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

import tiny_folder
from fixed_model import Fixed
from trimtab.data.tokens import prompt_text
from trimtab.evals import suites
from trimtab.evals.models import HFModel
from trimtab.evals.runner import measures
from trimtab.evals.suite import Answered, SuiteError
from trimtab.evals.suites._edit_finish import legacy
from trimtab.evals.suites.edit import SUITE, ask

ADA = {
    "id": "ada",
    "prompt": "Which country is Ada Brook a citizen of?",
    "target_new": "Norway",
    "aliases": ["Kingdom of Norway"],
    "subject": "Ada Brook",
    "ground_truth": "Canada",
    "rephrases": ["Whose passport does Ada Brook hold?", "Ada Brook is a citizen of", "Where is Ada Brook a citizen?"],
    "locality": [{"prompt": "Who wrote Emma?", "answer": "Jane Austen"}, "Who is Bo?"],
    "hops": [["What is the capital of Ada Brook's country?", "Oslo"]],
    "negations": [{"prompt": "Is Ada Brook a citizen of Canada?", "answer": "No"}],
    "reversal": {"prompt": "Which Brook is a citizen of Norway?", "answer": "Ada Brook"},
    "longform": "Write a paragraph about Ada Brook.",
}
BO = {
    "id": "bo",
    "prompt": "The mother tongue of Bo Lind is",
    "target_new": "Finnish",
    "subject": "Bo Lind",
    "ground_truth": "Swedish",
    "rephrases": ["Which language did Bo Lind grow up with?"],
}


@pytest.fixture
def file(tmp_path) -> str:
    return tiny_folder.write_jsonl(tmp_path / "edits.jsonl", [ADA, BO])


def items(file, **settings):
    return SUITE.items(suites.check("edit", {"file": file, "general": 1, **settings}))


def replied(given, replies: dict[str, str], otherwise: str = "no idea") -> dict[tuple[str, str], object]:
    found = []
    for item in given:
        reply = replies.get(item.id, otherwise)
        found.append(Answered(item, (reply,), SUITE.score(item, reply)))
    return {(one.name, one.group): one for one in measures(SUITE, found)}


def of(found, name, group="all"):
    one = found[name, group]
    return one.value.estimate, one.number


# ---------------------------------------------------------------- what is asked


def test_every_probe_of_every_edit_is_asked_in_every_mode(file):
    made = items(file, modes=["chat", "question"])
    assert len(made) == 2 * (11 - 1 + 2 + 1)
    kinds = [item.groups["probe"] for item in made if item.groups["mode"] == "chat" and item.data.get("edit") == "ada"]
    assert kinds == [
        "reliability", *["generalisation"] * 3, *["locality"] * 2, "portability", "negation", "reversal", "longform",
    ]  # fmt: skip
    assert {item.id: item.target for item in made}["ada.reliability.0.chat"] == ("Norway", "Kingdom of Norway")


@pytest.mark.parametrize(
    ("mode", "question", "cloze"),
    [
        ("question", "Which country is Ada Brook a citizen of?", "The mother tongue of Bo Lind is"),
        (
            "instruction",
            "Answer the question with a few words.\nQuestion: Which country is Ada Brook a citizen of?\nAnswer:",
            "Complete the sentence with a few words.\nSentence: The mother tongue of Bo Lind is",
        ),
        (
            "chat",
            "<|user|>Which country is Ada Brook a citizen of?<|end|>\n<|assistant|>",
            "<|user|>Complete this sentence: The mother tongue of Bo Lind is<|end|>\n<|assistant|>",
        ),
    ],
)
def test_a_question_and_a_stem_as_the_model_reads_them(file, mode, question, cloze):
    made = {item.id: item for item in items(file, modes=[mode])}
    for name, wanted in (("ada", question), ("bo", cloze)):
        chat = ask(made[f"{name}.reliability.0.{mode}"], ())
        found, plain = prompt_text(tiny_folder.byte_tokenizer(), chat, "here")
        assert (found, plain) == (wanted, mode != "chat")


def test_reasoning_asks_for_steps_and_a_boxed_answer_and_has_room_for_them(file):
    made = {item.id: item for item in items(file, modes=["reasoning"])}
    item = made["ada.reliability.0.reasoning"]
    assert "step by step" in ask(item, ())[0]["content"]
    assert item.max_new_tokens == 512
    assert ask(made["ada.longform.0.reasoning"], ())[0]["content"] == ADA["longform"]


def test_general_facts_are_about_no_country_that_an_edit_names(file):
    asked = [item.text for item in items(file, general=60) if item.groups["probe"] == "general"]
    assert len(asked) == 58
    assert "What is the capital of Sweden?" in asked
    assert not any("Norway" in text or "Canada" in text for text in asked)


# ---------------------------------------------------------------- what counts


def test_nothing_ends_a_reply_but_its_end(file):
    (item,) = [item for item in items(file) if item.id == "ada.reliability.0.chat"]
    reply = "I had to look that up. Here it is.\n\nNorway"
    assert SUITE.score(item, reply)["contains"].value == 1.0
    assert SUITE.score(item, reply)["match"].value == 0.0
    assert SUITE.score(item, "the kingdom of Norway!")["match"].value == 1.0
    assert SUITE.score(item, "")["contains"].value is None


def test_reasoning_counts_by_its_conclusion(file):
    (item,) = [item for item in items(file, modes=["reasoning"]) if item.id == "ada.reliability.0.reasoning"]
    wrong = "Norway comes to mind. <answer> \\boxed{Canada} </answer>"
    assert SUITE.score(item, wrong)["contains"].value == 0.0
    assert SUITE.score(item, "Canada? No. <answer> \\boxed{Norway} </answer>")["match"].value == 1.0
    assert SUITE.score(item, "It is Norway.")["contains"].value == 1.0  # nothing marked: the whole reply


def test_a_probe_with_yes_or_no_wants_that_word_first(file):
    (item,) = [item for item in items(file) if item.groups["probe"] == "negation"]
    assert SUITE.score(item, "No, of Norway.")["contains"].value == 1.0
    assert SUITE.score(item, "Yes, no doubt.")["contains"].value == 0.0
    assert SUITE.score(item, "She is Norwegian.")["contains"].value is None


# ---------------------------------------------------------------- numbers


def test_means_are_over_edits_and_not_over_probes(file):
    found = replied(
        items(file),
        {
            "ada.reliability.0.chat": "Norway", "ada.generalisation.0.chat": "It is Norway.",
            "ada.generalisation.1.chat": "Norway", "bo.reliability.0.chat": "Swedish",
            "ada.locality.0.chat": "Jane Austen", "ada.negation.0.chat": "No.", "ada.reversal.0.chat": "Bo",
            "ada.longform.0.chat": "Once of Canada, she lives in Norway.", "general-0.general.0.chat": "Stockholm",
        },
    )  # fmt: skip
    assert of(found, "reliability (contains)") == (0.5, 2)
    assert of(found, "generalisation (contains)") == (pytest.approx((2 / 3 + 0) / 2), 2)
    assert of(found, "generalisation (match)") == (pytest.approx((1 / 3 + 0) / 2), 2)
    assert of(found, "locality (contains)") == (1.0, 1)  # the neighbour without an answer is not judged
    assert of(found, "portability (contains)") == (0.0, 1)
    assert of(found, "negation (contains)") == (1.0, 1)
    assert of(found, "longform (contains)") == (1.0, 1)
    assert of(found, "general (contains)") == (1.0, 1)
    assert of(found, "says the old fact") == (pytest.approx((0 + 1 / 2) / 2), 2)
    assert of(found, "longform says the old fact") == (1.0, 1)
    assert ("longform (match)", "all") not in found
    assert ("locality (identical)", "all") not in found
    # Ada: 7 of 8 verdicts alike ("It is Norway."), Bo: 2 of 2, the general fact: 1 of 1
    assert of(found, "agreement of contains and match") == (pytest.approx((7 / 8 + 1 + 1) / 3), 3)


def test_several_modes_have_numbers_of_their_own_and_a_mean(file):
    found = replied(items(file, modes=["chat", "question"]), {"ada.reliability.0.chat": "Norway"})
    assert of(found, "reliability (contains)", "mode=chat") == (0.5, 2)
    assert of(found, "reliability (contains)", "mode=question") == (0.0, 2)
    assert of(found, "reliability (contains)") == (0.25, 2)


def evaluated(folder: Path, made, replies: dict[str, str], **facts) -> str:
    """A folder as `trimtab eval edit` writes it."""
    folder.mkdir()
    rows = [{"id": item.id, "item": {"text": item.text}, "answers": [replies.get(item.id, "no idea")]} for item in made]
    tiny_folder.write_jsonl(folder / "samples.jsonl", rows)
    (folder / "evaluation.json").write_text(json.dumps({"suite": "edit", "finished": True, "model": "m", **facts}))
    return str(folder)


def test_what_was_known_before_is_no_edit_and_the_rest_is_compared_with_before(file, tmp_path):
    before = evaluated(tmp_path / "before", items(file), {"bo.reliability.0.chat": "It is Finnish."})
    found = replied(
        items(file, before=before),
        {"ada.reliability.0.chat": "Norway", "bo.reliability.0.chat": "Finnish", "ada.locality.0.chat": "Jane Austen"},
    )
    assert of(found, "known before") == (0.5, 2)
    assert of(found, "reliability (contains)") == (1.0, 1)
    assert of(found, "generalisation (contains)") == (0.0, 1)
    assert of(found, "locality (identical)") == (0.5, 1)
    assert of(found, "locality (contains)") == (1.0, 1)
    assert of(found, "general (identical)") == (1.0, 1)


def test_an_evaluation_of_other_questions_is_not_taken_for_before(file, tmp_path):
    made = items(file)
    short = evaluated(tmp_path / "short", made[:-1], {})
    with pytest.raises(SuiteError, match=r"has no answer to general-0.general.0.chat .* the same edit.file"):
        items(file, before=short)
    changed = tiny_folder.write_jsonl(tmp_path / "other.jsonl", [{**ADA, "prompt": "Where is Ada Brook from?"}, BO])
    with pytest.raises(SuiteError, match="another question as ada.reliability.0.chat"):
        items(changed, before=evaluated(tmp_path / "whole", made, {}))
    with pytest.raises(SuiteError, match="was interrupted; run its command again"):
        items(file, before=evaluated(tmp_path / "half", made, {}, finished=False))
    with pytest.raises(SuiteError, match=r"before: .*nowhere is not an evaluation"):
        items(file, before=str(tmp_path / "nowhere"))


def test_the_score_over_prefixes_is_of_the_prompts_that_were_asked(file):
    made = items(file, modes=["chat", "question", "reasoning"])
    answered = [Answered(item, ("x",), SUITE.score(item, "x")) for item in made]
    tokenizer = tiny_folder.byte_tokenizer()
    only = {tokenizer.convert_tokens_to_ids("n"): 1.0}
    estimates = legacy(answered, SimpleNamespace(model=Fixed(only), tokenizer=tokenizer))
    found = {(one.name, one.group): one for one in estimates}
    name = "reliability (legacy: over prefixes of the target)"
    assert {group for _, group in found} == {"all", "mode=chat", "mode=question"}
    finnish, norway = 2 / 7, 0.0
    assert of(found, name, "mode=chat") == (pytest.approx((finnish + norway) / 2), 2)
    assert of(found, name, "mode=question") == (pytest.approx((2 / 8 + 0.0) / 2), 2)  # a space parts them


# ---------------------------------------------------------------- the command


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    how = {"max_position_embeddings": 4096}
    return [tiny_folder.save(folder / str(seed), seed=seed, **how) for seed in (0, 1)]


FEW = ("--max-new-tokens", "6", "edit.general=2", "edit.drift=3")


def table_of(folder: Path) -> dict[str, list]:
    facts = json.loads((folder / "edit" / "evaluation.json").read_text())
    return {one["name"]: one["value"] for one in facts["measures"] if one["group"] == "all"}


def test_before_and_after_as_a_user_runs_them(trimtab, file, models, tmp_path):
    words = ("eval", "edit", f"edit.file={file}", *FEW)
    code, _, err = trimtab(*words, "--model", models[0], "--out", tmp_path / "before")
    assert (code, err) == (0, "")
    before = (f"edit.before={tmp_path / 'before'}",)
    assert trimtab(*words, *before, "--model", models[0], "--out", tmp_path / "same")[0] == 0
    assert trimtab(*words, *before, "--model", models[1], "--out", tmp_path / "after")[0] == 0
    same, after = table_of(tmp_path / "same"), table_of(tmp_path / "after")
    assert same["locality (identical)"][0] == same["drift: same likeliest token"][0] == 1.0
    assert same["drift: KL(original || model), nats a token"] == [0.0, 0.0, 0.0]
    assert after["drift: KL(original || model), nats a token"][1] > 0.01
    assert "reliability (legacy: over prefixes of the target)" in after
    assert "drift: same likeliest token" not in table_of(tmp_path / "before")


def test_another_model_under_the_name_of_the_original_is_noticed(trimtab, file, tmp_path):
    words = ("eval", "edit", f"edit.file={file}", *FEW)
    model = tiny_folder.save(tmp_path / "model", max_position_embeddings=4096)
    trimtab(*words, "--model", model, "--out", tmp_path / "before")
    tiny_folder.save(tmp_path / "model", seed=3, max_position_embeddings=4096)
    code, _, err = trimtab(*words, f"edit.before={tmp_path / 'before'}", "--model", model, "--out", tmp_path / "after")
    assert code == 2
    assert "is not the model that answered" in err


def test_a_judge_on_a_server_counts_beside_the_rules_and_its_errors_count_for_nothing(
    trimtab, file, models, server, tmp_path
):
    server.reply = lambda asked: "A" if "Ada" in asked["messages"][0]["content"] else "B"
    words = ("eval", "edit", f"edit.file={file}", *FEW, "edit.drift=0", "edit.legacy=false", "--model", models[0])
    words += (f"edit.judge={server.url}", "edit.judge_model=m", "--out", tmp_path / "one")
    words = tuple(word for word in words if word != "edit.drift=3")
    server.script = [(400, '{"error": {"message": "too long"}}')]
    code, out, err = trimtab(*words)
    assert (code, err) == (0, "")
    assert "1 answer got no judgement and count for nothing there" in " ".join(out.split())
    first, requests = table_of(tmp_path / "one"), len(server.seen)
    assert trimtab(*words)[0] == 0
    assert len(server.seen) == requests + 1  # the one that failed
    found = table_of(tmp_path / "one")
    assert found["reliability (judge)"][0] == 0.5
    assert found["agreement of judge and match"] == found["agreement of judge and contains"]
    assert first["reliability (contains)"] == found["reliability (contains)"]


def test_another_model_in_the_place_of_the_judge_is_refused_by_its_name_and_allowed_by_it(
    trimtab, file, models, server, tmp_path
):
    server.name, server.reply = "m-mini", lambda asked: "A"
    words = ("eval", "edit", f"edit.file={file}", *FEW, "edit.legacy=false", "--model", models[0])
    words += (f"edit.judge={server.url}", "edit.judge_model=m", "--out", tmp_path / "one")
    code, _, err = trimtab(*words)
    assert (code, err.count("\n")) == (2, 1), err
    assert "answered as 'm-mini', but 'm' was asked" in err
    assert "add edit.judge_served_as=m-mini" in err
    assert trimtab(*words, "edit.judge_served_as=m-mini")[0] == 0
    server.name = "m-2026-01-01"  # a dated version is the model itself
    assert trimtab(*words)[0] == 0


def test_a_model_in_memory_judges_too(trimtab, file, models, tmp_path):
    words = ("eval", "edit", f"edit.file={file}", *FEW, "--model", models[0], f"edit.judge={models[1]}")
    code, out, err = trimtab(*words, "--out", tmp_path / "one")
    assert (code, err) == (0, "")
    rows = [json.loads(line) for line in (tmp_path / "one" / "edit" / "judgements.jsonl").read_text().splitlines()]
    lines = (tmp_path / "one" / "edit" / "samples.jsonl").read_text().splitlines()
    replies = {answer for line in lines for answer in json.loads(line)["answers"]}
    assert len(rows) == len({row["key"] for row in rows}) > 10
    assert {row["reply"] for row in rows} <= replies
    assert "got no judgement" in " ".join(out.split())  # of an untrained model


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["edit.judge=nowhere/to/be"], "edit.judge: "),
        (["edit.judge_model=m"], "edit.judge_model names the model of a server, but edit.judge is not given"),
        (["edit.judge_served_as=m"], "edit.judge_served_as names the model of a server, but edit.judge is not given"),
        (["edit.modes=[chats]"], "edit.modes"),
    ],
)
def test_a_judge_that_is_not_there_is_refused_before_anything_is_asked(trimtab, file, models, tmp_path, words, said):
    code, _, err = trimtab("eval", "edit", f"edit.file={file}", *words, "--model", models[0], "--out", tmp_path / "one")
    assert code == 2
    assert said in err
    assert err.count("\n") == 1
    assert not (tmp_path / "one").exists()


def test_a_server_without_a_models_name_and_a_text_for_a_server_are_refused(trimtab, file, models, server, tmp_path):
    words = ("eval", "edit", f"edit.file={file}", *FEW, "--out", tmp_path / "one")
    code, _, err = trimtab(*words, "--model", models[0], f"edit.judge={server.url}")
    assert code == 2
    assert "name its model: edit.judge_model=NAME" in err
    code, _, err = trimtab(*words, "--model", "m", "--endpoint", server.url, "edit.modes=[question]")
    assert code == 2
    assert "a server is asked by chats" in err


def test_a_batch_gives_the_replies_of_one_prompt_at_a_time(file, models):
    from trimtab.models import loading

    model, tokenizer = loading.load_model(models[0]), loading.load_tokenizer(models[0])
    chats = [ask(item, ()) for item in items(file, modes=["chat", "instruction"])]
    together = HFModel(model, tokenizer, batch=32).answer(chats, 12)
    assert together == [HFModel(model, tokenizer).answer([chat], 12)[0] for chat in chats]


def test_notes_of_the_file_are_printed_and_counted(trimtab, models, tmp_path):
    rows = [
        {
            "subject": "Ada", "src": f"Who is Ada {n}?", "pred": "", "rephrase": "Ada?", "alt": alt,
            "answers": ["Bo"], "loc": "nq question: who sings", "loc_ans": "Cy", "cond": "",
        }
        for n, alt in enumerate(("Di", ""))
    ]  # fmt: skip
    file = tiny_folder.write_jsonl(tmp_path / "zsre.jsonl", rows)
    code, out, _ = trimtab("eval", "edit", f"edit.file={file}", *FEW, "--model", models[0], "--out", tmp_path / "one")
    assert code == 0
    assert "1 row left out: alt is empty (row 2)" in " ".join(out.split())
    assert table_of(tmp_path / "one")["rows left out"][0] == 1.0

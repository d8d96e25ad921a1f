"""Task files of lm-evaluation-harness: what they say, and that documents are the suites' items.

The last tests run the harness itself on a tiny model and are skipped where it is not installed.
"""

import importlib
import json
from pathlib import Path

import pytest
import yaml

import tiny_folder
from trimtab.evals import lm_eval as tasks
from trimtab.evals import suites
from trimtab.evals.lm_eval import documents
from trimtab.evals.models import HFModel, renormalised
from trimtab.evals.runner import EvalSpec, ask, eval_spec, measures
from trimtab.evals.suite import Item, SuiteError
from trimtab.models import loading

FOLDER = Path(tasks.__file__).parent
NAMES = ["geomrel", "multiple_choice", "socialbench"]
ROWS = [
    {"id": "one", "question": "Which gas?", "options": ["oxygen", "helium", "neon"], "answer": 1},
    {"question": "Which are even?", "options": {"X": "2", "Y": "3", "Z": "4"}, "answer": ["X", "Z"]},
    {"question": "Who painted {{ it }}?", "options": ["Ann", "Bob"], "answer": "Ann"},
]


class Functions(yaml.SafeLoader):
    """Reads `!function module.name` as the function of the module that lies beside the file."""


def function(loader, node):
    module, _, name = loader.construct_scalar(node).rpartition(".")
    assert (FOLDER / f"{module}.py").is_file()
    return getattr(importlib.import_module(f"trimtab.evals.lm_eval.{module}"), name)


Functions.add_constructor("!function", function)


def read(path):
    found = yaml.load(path.read_text(encoding="utf-8"), Functions)
    return {**read(path.parent / found.pop("include")), **found} if "include" in found else found


def task(name):
    return read(FOLDER / f"trimtab_{name}.yaml")


@pytest.fixture
def file(tmp_path):
    return {"multiple_choice": {"file": tiny_folder.write_jsonl(tmp_path / "rows.jsonl", ROWS)}}


def test_there_is_a_task_for_each_suite_with_options_and_no_other():
    found = {path.stem for path in FOLDER.glob("*.yaml")}
    assert found == {"_choice", *(f"trimtab_{name}" for name in NAMES)}
    assert "task" not in read(FOLDER / "_choice.yaml")  # else the harness would list it


@pytest.mark.parametrize("name", NAMES)
def test_a_task_compares_letters_and_has_the_version_of_its_suite(name, file):
    found = task(name)
    assert found["task"] == f"trimtab_{name}"
    assert found["metadata"] == {"version": suites.load(name).version}
    assert found["output_type"] == "multiple_choice"
    assert found["target_delimiter"] == " "
    assert found["num_fewshot"] == 0
    assert [metric["metric"] for metric in found["metric_list"]] == ["acc"]
    splits = found["custom_dataset"](**found["metadata"], **file)
    columns = splits[found["test_split"]].column_names
    assert {found[key] for key in ("doc_to_text", "doc_to_choice", "doc_to_target")} <= set(columns)


@pytest.mark.parametrize("name", NAMES)
def test_documents_are_the_items_and_prompts_of_the_suite_in_their_order(name, file):
    asked = eval_spec(name, file.get(name))
    (step,) = asked.suite.prompts[asked.prompt]
    items = [i for i in asked.items if i.options and (name != "socialbench" or len(i.target) == 1)]
    rows = list(task(name)["custom_dataset"](**file)["test"])
    assert [row["id"] for row in rows] == [item.id for item in items]
    for row, item in zip(rows, items):
        assert step(item, ()) == [{"role": "user", "content": row["prompt"]}]
        assert row["choices"] == list(item.options)
        assert tuple(row["choices"][i] for i in row["target"]) == item.target


def test_of_socialbench_memory_and_rows_with_several_right_letters_are_left_out():
    every = eval_spec("socialbench").items
    rows = documents.socialbench()["test"]
    left = {item.id for item in every} - set(rows["id"])
    assert left == {item.id for item in every if not item.options or len(item.target) > 1}
    assert any(item.options for item in every if item.id in left)
    assert any(not item.options for item in every)
    assert all(len(target) == 1 for target in rows["target"])


def test_settings_of_a_suite_stand_under_its_name_and_all_else_is_somebody_elses(file):
    two = documents.geomrel(version="1", pretrained="m", seed=7, geomrel={"rows": 2, "depths": [3]})["test"]
    assert two["id"] == [item.id for item in eval_spec("geomrel", {"rows": 2, "depths": [3]}).items]
    assert len(documents.multiple_choice(**file)["test"]) == 3
    with pytest.raises(SuiteError, match="did you mean 'depths'"):
        documents.geomrel(geomrel={"depth": [1]})
    with pytest.raises(SuiteError, match="no item with these settings has options"):
        documents.socialbench(socialbench={"dimensions": ["CM Short"]})
    with pytest.raises(SuiteError, match="multiple_choice.file=FILE"):
        documents.multiple_choice()


# ---------------------------------------------------------------- the harness itself


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_folder.save(tmp_path_factory.mktemp("model"), max_position_embeddings=4096)


@pytest.mark.parametrize("chat", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_the_harness_gives_the_probabilities_and_the_accuracy_of_the_runner(name, chat, folder, file):
    harness = pytest.importorskip("lm_eval")
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    given = {"geomrel": {"rows": 12}, "socialbench": {"number": 2}, **file}
    found = harness.simple_evaluate(
        HFLM(folder, dtype="float32", device="cpu", batch_size=3),
        tasks=[f"trimtab_{name}"],
        task_manager=TaskManager(include_path=str(FOLDER), metadata=given),
        apply_chat_template=chat,
        bootstrap_iters=0,
    )
    kept = set(task(name)["custom_dataset"](**given)["test"]["id"])
    suite = suites.load(name)
    items: list[Item] = [i for i in suite.items(suites.check(name, given[name])) if i.id in kept]
    local = HFModel(loading.load_model(folder), loading.load_tokenizer(folder), plain=not chat)
    asked = EvalSpec(suite, items, next(iter(suite.prompts)), "options")
    ours = {}
    answered = ask(asked, local, keep=lambda rows: ours.update({row["id"]: row["p"] for row in rows}))
    theirs = {sample["doc"]["id"]: sample for sample in found["samples"][f"trimtab_{name}"]}
    assert theirs.keys() == ours.keys()
    for key, p in ours.items():
        logprobs = [values[0] for values in theirs[key]["filtered_resps"]]
        by_letter = dict(zip(theirs[key]["doc"]["choices"], logprobs, strict=True))
        assert renormalised(by_letter)[0] == pytest.approx(p, abs=1e-4)
    (strict,) = [m for m in measures(suite, answered) if (m.name, m.group) == ("options strict", "all")]
    assert found["results"][f"trimtab_{name}"]["acc,none"] == pytest.approx(strict.value.estimate)
    assert found["versions"][f"trimtab_{name}"] == suite.version
    json.dumps(found["results"])

"""Stages that several recipes share are written once, found by name or by file, and trained once."""

from io import StringIO
from pathlib import Path

import pytest
import yaml
from rich.console import Console

import tiny_folder
from tiny_runs import events, same_weights
from trimtab.runs.folder import RunError
from trimtab.runs.parse import load_recipe, parse
from trimtab.runs.recipe import RecipeError, Stages, dump
from trimtab.runs.run import run, run_stages
from trimtab.runs.shipped import shipped

QUIET = Console(quiet=True)
MAIN = {"name": "main", "method": "sft", "models": {"policy": "@base"}, "data": {"train": "more.jsonl"}}


def write(folder: Path, name: str, tree: dict) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    return path


@pytest.fixture
def base(tmp_path) -> Path:
    tree = {"method": "sft", "models": {"policy": "smollm2-135m"}, "data": {"train": "rows.jsonl"}, "seed": 3}
    return write(tmp_path / "recipes", "base", tree)


def stages(base: Path, *stages: dict, overrides: tuple[str, ...] = (), **more) -> Stages:
    loaded = load_recipe(write(base.parent, "mine", {"stages": list(stages), **more}), overrides)
    assert isinstance(loaded, Stages)
    return loaded


def test_a_used_recipe_lies_beside_the_output_and_takes_nothing_from_the_recipe_that_uses_it(base):
    made = stages(base, {"use": "base"}, MAIN, seed=1, output="somewhere/mine", eval={"batch_size": 2})
    used, main = made.stages
    assert (used.output, main.output) == ("somewhere/base", "somewhere/mine/main")
    assert (used.seed, used.eval.batch_size, main.seed, main.eval.batch_size) == (3, 8, 1, 2)
    assert main.models.policy == "somewhere/base/model"
    assert stages(base, {"use": "base"}, MAIN, output="mine").stages[0].output == "./base"


def test_a_used_recipe_is_named_by_file_or_by_name_and_the_name_of_the_stage_is_free(base):
    by = {"name": "main", "method": "sft", "models": {"policy": "@first"}, "data": {"train": "more.jsonl"}}
    for source in ("base", "base.yaml", str(base)):
        made = stages(base, {"use": source, "name": "first"}, by)
        assert [run.output for run in made.stages] == ["runs/base", "runs/mine/main"]
        assert made.stages[1].models.policy == "runs/base/model"


def test_what_stands_beside_use_makes_a_run_of_its_own(base):
    changed = {"use": "base", "training": {"max_steps": 5}, "models": {"student": "other"}}
    first, main = stages(base, changed, MAIN).stages
    assert (first.output, first.training["max_steps"], first.models.policy) == ("runs/mine/base", 5, "other")
    assert main.models.policy == "runs/mine/base/model"


def test_a_used_recipe_starts_from_the_result_of_another(base):
    write(base.parent, "next", {"method": "sft", "models": {"policy": "@base"}, "data": {"train": "rows.jsonl"}})
    made = stages(base, {"use": "base"}, {"use": "next"})
    assert [run.output for run in made.stages] == ["runs/base", "runs/next"]
    assert made.stages[1].models.policy == "runs/base/model" == load_recipe(base.parent / "next.yaml").models.policy
    changed = stages(base, {"use": "base", "seed": 4}, {"use": "next"})  # another base makes another next
    assert [run.output for run in changed.stages] == ["runs/mine/base", "runs/mine/next"]
    assert changed.stages[1].models.policy == "runs/mine/base/model"


def test_seeds_share_what_is_used(base):
    made = stages(base, {"use": "base"}, {"use": "base", "name": "own", "seed": 9}, MAIN, seeds=[0, 1])
    assert [run.output for run in made.stages] == [
        "runs/base", "runs/mine/own", "runs/mine-seed0/main", "runs/mine-seed1/main"
    ]  # fmt: skip
    assert [run.seed for run in made.stages] == [3, 9, 0, 1]


@pytest.mark.parametrize("seeds", [[], [0, 1]])
def test_what_a_dry_run_prints_of_used_stages_is_the_same_recipe(base, seeds):
    own = {"use": "base", "name": "own", "training": {"max_steps": 2}}
    made = stages(base, {"use": "base"}, own, MAIN, **({"seeds": seeds} if seeds else {}))
    again = load_recipe(write(base.parent, "again", yaml.safe_load(dump(made))))
    assert again == made


@pytest.mark.parametrize(
    ("used", "message"),
    [
        ({"use": "bsae"}, r"stages\[0\]: use: there is no recipe bsae"),
        ({"use": "tiny_polcy"}, "did you mean 'tiny_policy'"),
        ({"use": "tiny_trra"}, "tiny_trra has several runs itself, but a stage is one run"),
        ({"use": "sweep"}, "sweep has several runs itself"),
        ({"use": "mine"}, "mine uses itself"),
        ({"use": "back"}, "back uses this recipe in turn"),
        ({"use": ["base"]}, r"use is \['base'\]; give the name or the file"),
        ({"use": "base", "trainng": {"max_steps": 3}}, "has no key 'trainng'; did you mean 'training'"),
        ({"use": "short"}, "short has minutes"),
        ({"use": "broken"}, "broken.yaml: data.train is missing"),
    ],
)
def test_a_use_that_cannot_be_is_refused_in_one_line(base, used, message):
    tree = yaml.safe_load(base.read_text())
    write(base.parent, "sweep", {**tree, "seeds": [0, 1]})
    write(base.parent, "back", {"stages": [{"use": "mine"}]})
    write(base.parent, "short", {**tree, "minutes": 3})
    write(base.parent, "broken", {"method": "sft", "models": {"policy": "x"}, "data": {}})
    with pytest.raises(RecipeError, match=message) as refused:
        stages(base, used, MAIN)
    assert "\n" not in str(refused.value)


def test_use_outside_of_stages_and_beside_minutes_is_refused(base):
    with pytest.raises(RecipeError, match="use belongs in a stage"):
        parse({"use": "base"}, "here", "mine", file=base)
    with pytest.raises(RecipeError, match="a used recipe has its own"):
        stages(base, {"use": "base"}, MAIN, minutes=3)


@pytest.mark.slow
def test_shipped_recipes_share_the_policy_that_they_start_from():
    using = [name for name in shipped() if "use: tiny_policy" in dump(load_recipe(name))]
    assert len(using) >= 11
    for name in using:
        assert load_recipe(name).stages[0].output == "runs/tiny_policy"
        assert load_recipe(name).stages[0].used.shared
        assert all(run.used.shared for run in load_recipe(name).stages if run.output == "runs/tiny_imitator")


# ---------------------------------------------------------------- words of the command line


def override(base: Path, *words: str, stages_: bool = False):
    if stages_:
        own = [{**MAIN, "training": {"max_steps": 9}}, {**MAIN, "name": "other", "training": {"max_steps": 9}}]
        return stages(base, {"use": "base"}, *own, overrides=words)
    return load_recipe(base, words)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("max_steps=20", r"did you mean training\.max_steps\?"),
        ("lr=1e-4", r"did you mean training\.learning_rate\?"),
        ("lora.r=8", r"did you mean models\.lora\.r\?"),
        ("batch_size=4", r"could mean eval\.batch_size, .*training\.per_device_train_batch_size"),
        ("workers=2", r"could mean data\.workers, training\.dataloader_num_workers or "),
        ("learnig_rate=1", r"did you mean 'training\.learning_rate'"),
        ("zzzz=1", "the recipe has no key 'zzzz'; known keys: method, "),
        ("stages.x.seed=1", "the recipe has no stages"),
    ],
)
def test_a_key_without_its_section_is_refused_with_what_it_could_mean(base, word, message):
    with pytest.raises(RecipeError, match=message):
        override(base, word)


def test_a_key_that_two_sections_have_is_refused_naming_both(tmp_path):
    tree = {"method": "distrl", "models": {"policy": "x", "reward_model": "y"}, "data": {"train": "a.jsonl"}}
    with pytest.raises(RecipeError, match=r"could mean training\.top_p or options\.top_p; write one of"):
        load_recipe(write(tmp_path, "two", {**tree, "reward": "exact"}), ["top_p=0.5"])


def test_a_word_reaches_a_stage_by_its_name_or_number(base):
    made = override(base, "stages.main.training.max_steps=3", "stages.2.seed=7", stages_=True)
    assert [run.training.get("max_steps") for run in made.stages] == [None, 3, 9]
    assert [run.seed for run in made.stages] == [3, 0, 7]
    assert override(base, "stages.base.training.max_steps=4", stages_=True).stages[0].output == "runs/mine/base"


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("training.max_steps=3", "could mean stages.main.training.max_steps or stages.other.training.max_steps"),
        ("stages.mian.seed=3", "there is no stage 'mian'; did you mean 'main'"),
        ("stages.main=3", "name a key of that stage"),
    ],
)
def test_a_word_that_no_stage_would_take_is_refused(base, word, message):
    with pytest.raises(RecipeError, match=message):
        override(base, word, stages_=True)


# ---------------------------------------------------------------- trained once


@pytest.fixture
def files(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tiny_folder.lay_out(tmp_path / "files")


def tiny(files: Path, **changes) -> dict:
    tree = tiny_folder.recipe(files, "sft", training={"max_steps": 2, "save_steps": 1}, **changes)
    del tree["output"]
    return tree


def carried_out(files: Path, name: str, output: str, resume: bool = False) -> tuple[Stages, list[str]]:
    """A recipe of its name that uses `base` and trains on from it."""
    main = {**tiny(files), "name": "main", "models": {"policy": "@base"}}
    path = write(files / "recipes", name, {"stages": [{"use": "base"}, main], "output": output})
    made = load_recipe(path)
    assert isinstance(made, Stages)
    console = Console(record=True, width=400, file=StringIO())
    run_stages(made, resume=resume, console=console)
    return made, console.export_text().splitlines()


def test_a_finished_stage_is_trained_once_for_all_recipes_that_use_it(files):
    write(files / "recipes", "base", tiny(files))
    first, _ = carried_out(files, "one", "runs/one")
    started = (files.parent / "runs/base/metrics.jsonl").read_text()
    second, said = carried_out(files, "two", "runs/two")
    assert (files.parent / "runs/base/metrics.jsonl").read_text() == started
    assert [run.output for run in second.stages] == ["runs/base", "runs/two/main"]
    assert any("runs/base is already finished" in line and "reused" in line for line in said)
    assert same_weights(Path(first.stages[1].output), Path(second.stages[1].output))
    carried_out(files, "three", str(files.parent / "runs" / "three"))  # the same place by another path
    assert (files.parent / "runs/base/metrics.jsonl").read_text() == started


@pytest.mark.slow
@pytest.mark.parametrize("change", ["recipe", "rows"])
def test_a_finished_stage_that_is_not_the_same_is_kept_and_trained_anew_elsewhere(files, change):
    write(files / "recipes", "base", tiny(files))
    carried_out(files, "one", "runs/one")
    before = (files.parent / "runs/base/metrics.jsonl").read_text()
    if change == "recipe":
        write(files / "recipes", "base", tiny(files, seed=5))
    else:
        rows = Path(tiny(files)["data"]["train"])
        tiny_folder.write_jsonl(rows, tiny_folder.chat_rows(24, start=7))
    second, said = carried_out(files, "two", "runs/two")
    assert [run.output for run in second.stages] == ["runs/two/base", "runs/two/main"]
    assert second.stages[1].models.policy == "runs/two/base/model"
    assert (files.parent / "runs/base/metrics.jsonl").read_text() == before
    wanted = (
        "holds a run of another recipe (seed is 0 there and 5 here)"
        if change == "recipe"
        else "different training data"
    )
    assert any(wanted in line for line in said), said


@pytest.mark.slow
def test_an_unfinished_used_stage_is_resumed_and_not_begun_anew(files):
    base = write(files / "recipes", "base", tiny(files))
    folder = run(load_recipe(base), console=QUIET).folder
    (folder / "report.html").unlink()
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text("".join(line for line in lines if '"finished"' not in line))
    with pytest.raises(RunError, match="runs/base holds this run, unfinished; add --resume"):
        carried_out(files, "one", "runs/one")
    made, _ = carried_out(files, "one", "runs/one", resume=True)
    assert events(folder, "resume")
    assert (Path(made.output) / "main" / "model").is_dir()

"""A stage with `precompute` writes a teacher cache, and later stages of the recipe train from it."""

import shutil

import pytest
from rich.console import Console

import tiny_folder
from tiny_runs import events
from trimtab.common.errors import Interrupted
from trimtab.common.yaml_text import read_tree
from trimtab.runs import run as running
from trimtab.runs import teacher_pass, teacher_reader
from trimtab.runs.estimate import estimates
from trimtab.runs.parse import load_recipe, parse
from trimtab.runs.policy import Shared
from trimtab.runs.recipe import RecipeError, dump
from trimtab.runs.run import run, run_stages
from trimtab.signals.cached import CachedTeacher
from trimtab.signals.row_store import RowStore

QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tiny_folder.lay_out(tmp_path_factory.mktemp("files"))
    tiny_folder.save(folder / "student", seed=5, num_hidden_layers=1)
    return folder


def tree(files, output, *, student: dict | None = None, **store) -> dict:
    """Of two stages: store, and a student that reads it."""
    one = tiny_folder.recipe(files, "kd", output=str(output), eval={"prompts": []})
    policy = str(files / "student")
    del one["models"]
    models = {"student": policy, "teacher": str(files / "teacher")}
    stages = [
        {"name": "store", "precompute": "hidden", "models": models, **store},
        {"name": "student", "models": {"student": policy, "teacher": "cache:@store"}, **(student or {})},
    ]
    return {**one, "stages": stages}


def parsed(files, output, **changes):
    return parse(tree(files, output, **changes), "test", "run")


def curves(folder, *names) -> list[float]:
    return [one[name] for one in events(folder, "train") for name in names if name in one]


def test_a_stage_asks_the_teacher_and_the_next_trains_from_what_it_gave(files, tmp_path):
    copy = tmp_path / "files"
    shutil.copytree(files, copy)
    stages = parsed(copy, tmp_path / "all")
    result = run_stages(stages, console=QUIET)
    assert result.report.is_file()
    assert len(RowStore(tmp_path / "all" / "store")) > 0
    live = tiny_folder.recipe(files, "kd", output=str(tmp_path / "live"), eval={"prompts": []})
    live["models"] = {"student": str(files / "student"), "teacher": str(files / "teacher")}
    alone = run(parse(live, "test", "run"), console=QUIET).folder
    names = ("loss", "forward_kl", "grad_norm")
    assert curves(tmp_path / "all" / "student", *names) == pytest.approx(curves(alone, *names), rel=1e-4, abs=1e-5)
    lines = (tmp_path / "all" / "student" / "signature.txt").read_text()
    assert f"teacher: cache:{tmp_path / 'all' / 'store'} (hidden, float32) " in lines


def test_the_teacher_is_out_of_memory_when_the_student_trains(files, tmp_path, monkeypatch):
    cut = {"from": str(files / "teacher"), "layers": 1}
    stages = parsed(files, tmp_path / "all", student={"models": {"student": cut, "teacher": "cache:@store"}})
    shared, seen, execute = Shared(), [], running.execute

    def watched(job, folder, **how):
        seen.append(([type(one) for one in job.plan.signals], dict(shared.models)))
        return execute(job, folder, **how)

    monkeypatch.setattr(running, "Shared", lambda: shared)
    monkeypatch.setattr(running, "execute", watched)
    run_stages(stages, console=QUIET)
    assert seen == [([CachedTeacher], {})]  # nor is the model that the student was cut from


def test_a_second_call_asks_about_nothing_twice(files, tmp_path, monkeypatch):
    stages = parsed(files, tmp_path / "all")
    run_stages(stages, console=QUIET)
    with pytest.raises(ValueError, match="student holds this run, finished"):
        run_stages(parsed(files, tmp_path / "all"), console=QUIET)
    shutil.rmtree(tmp_path / "all" / "student")
    shards = {path: path.stat().st_mtime_ns for path in (tmp_path / "all" / "store").glob("rows-*")}
    monkeypatch.setattr(teacher_reader, "given", lambda *args: pytest.fail("the teacher was asked again"))
    run_stages(parsed(files, tmp_path / "all"), resume=True, console=QUIET)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "all" / "store").glob("rows-*")} == shards


@pytest.mark.slow
def test_a_stage_that_is_stopped_names_the_command_that_goes_on(files, tmp_path, monkeypatch):
    (tmp_path / "all.yaml").write_text(dump(parsed(files, tmp_path / "all")))
    stages, asked = load_recipe(tmp_path / "all.yaml"), []
    given = teacher_reader.given

    def stopped(*args):
        for found in given(*args):
            asked.append(found[0])
            if len(asked) == 10:
                raise KeyboardInterrupt
            yield found

    monkeypatch.setattr(teacher_reader, "given", stopped)
    with pytest.raises(Interrupted, match=r"9 rows of the teacher are in .*; continue with: trimtab train .* --resume"):
        run_stages(stages, console=QUIET)
    monkeypatch.undo()
    run_stages(load_recipe(tmp_path / "all.yaml"), resume=True, console=QUIET)
    assert (tmp_path / "all" / "student" / "model").is_dir()


@pytest.mark.parametrize("trained", ["nothing", "the teacher", "the student too", "a cut student"])
def test_more_likely_tokens_than_there_are_cost_no_stage_before(files, tmp_path, trained):
    one = tree(files, tmp_path / "all", precompute={"teacher": "topk", "k": tiny_folder.VOCAB + 1})
    first = {"name": "first", "method": "sft", "models": {"policy": str(files / "teacher")}}
    if trained != "nothing":
        one["stages"][0]["models"] |= {"teacher": "@first"}
        one["stages"].insert(0, first)
    if trained == "the student too":
        one["stages"][1]["models"] |= {"student": "@first"}
    if trained == "a cut student":
        one["stages"][1]["models"] |= {"student": {"from": "teacher", "layers": 1}}
    stages = parse(one, "test", "run")
    said = f"all/store: precompute.k is {tiny_folder.VOCAB + 1}, but the vocabulary has {tiny_folder.VOCAB} tokens"
    for asked in (lambda: run_stages(stages, console=QUIET), lambda: estimates(stages)):
        with pytest.raises(teacher_pass.TeacherError, match=said):
            asked()
    assert not (tmp_path / "all").exists()


def test_an_embedding_that_will_grow_leaves_the_number_of_likely_tokens_to_its_stage(files, tmp_path):
    stages = parsed(files, tmp_path / "all", precompute={"teacher": "topk", "k": tiny_folder.VOCAB})
    teacher_pass.check_sizes(stages.stages)
    grown = {"name": "first", "method": "sft", "models": {"policy": str(files / "teacher"), "resize": True}}
    one = tree(files, tmp_path / "all", precompute={"teacher": "topk", "k": tiny_folder.VOCAB + 1})
    one["stages"][0]["models"] = {"student": "@first", "teacher": "@first"}
    one["stages"].insert(0, grown)
    teacher_pass.check_sizes(parse(one, "test", "run").stages)


def test_what_a_dry_run_prints_is_the_same_recipe_and_counts_the_head_that_will_be_there(files, tmp_path):
    stages = parsed(files, tmp_path / "all", precompute={"teacher": "hidden", "dtype": "bfloat16"})
    (tmp_path / "all.yaml").write_text(dump(stages))
    assert "teacher: cache:@store" in dump(stages)
    assert dump(load_recipe(tmp_path / "all.yaml")) == dump(stages)
    (estimate,) = estimates(stages)
    sizes = {part.name: part.size for part in estimate.parts}
    head = tiny_folder.VOCAB * 32 * 4
    assert sizes["head of the cached teacher"] == pytest.approx(head, rel=0.5)
    run_stages(stages, console=QUIET)
    (found,) = (part.size for part in estimates(stages)[0].parts if part.name == "head of the cached teacher")
    assert found == (tmp_path / "all" / "store" / "head.safetensors").stat().st_size
    assert abs(found - sizes["head of the cached teacher"]) < 200  # the header of the file


def test_seeds_have_a_cache_each(files, tmp_path):
    one = tree(files, tmp_path / "all", precompute={"teacher": "topk", "k": 4}, student={"training": {"max_steps": 1}})
    stages = parse({**one, "seeds": [0, 1]}, "test", "run")
    run_stages(stages, console=QUIET)
    assert all((tmp_path / f"all-seed{seed}" / "store" / "index.json").is_file() for seed in (0, 1))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"student": {"models": {"policy": "p", "teacher": "@store"}}}, "stage writes a teacher cache; write cache:@"),
        ({"student": {"models": {"policy": "@store"}}}, "models.policy is @store, but that stage writes a"),
        ({"precompute": None}, "models.teacher is cache:@store, but that stage writes a model; write @store"),
        ({"precompute": {"teacher": "hidden", "k": 3}}, "k has no effect with teacher: hidden"),
        ({"precompute": {"teacher": "topk", "dtype": "float32"}}, "dtype has no effect with teacher: topk"),
        ({"precompute": "logits"}, "it must be 'hidden' or 'topk'"),
        ({"models": {"policy": "p"}, "method": "sft"}, "the recipe names no teacher"),
        ({"student": {"precompute": "topk", "models": {"policy": "p", "teacher": "t"}}}, "nothing is trained here"),
        ({"student": {"precompute": "topk"}}, "models.teacher is the cache .*, which only a model writes"),
        ({"student": {"models": {"policy": "p", "teacher": "t", "reference": "cache:@store"}}}, "can only be the"),
        ({"student": {"models": {"policy": "p", "teacher": "cache:@shop"}}}, "the earlier stages are: store"),
        ({"options": {"tokenizers": "different"}}, "with the teacher's own tokenizer, and a cache holds"),
    ],
)  # fmt: skip
def test_a_stage_that_cannot_be_written_or_read_is_refused_by_its_place(files, tmp_path, changes, said):
    with pytest.raises(RecipeError, match=said):
        parsed(files, tmp_path / "all", **changes)


def test_minutes_and_a_lone_recipe_with_precompute_are_refused(files, tmp_path):
    with pytest.raises(RecipeError, match="a stage with precompute has none; leave out minutes"):
        parse({**tree(files, tmp_path / "all"), "minutes": 1}, "test", "run")
    one = tiny_folder.recipe(files, "kd", output=str(tmp_path / "run"))
    with pytest.raises(RecipeError, match="write a teacher cache with trimtab precompute test --teacher hidden"):
        parse({**one, "precompute": "hidden"}, "test", "run")
    (tmp_path / "used.yaml").write_text(dump(parse(one, "test", "run")).replace("precompute: null", "precompute: topk"))
    with pytest.raises(RecipeError, match="has precompute, which a stage cannot have"):
        parse({"stages": [{"use": str(tmp_path / "used.yaml")}]}, "test", "run")


@pytest.mark.parametrize("name", ["tiny_kd_cached", "tiny_proxy_kd"])
def test_shipped_recipes_write_the_cache_that_their_students_read(name):
    from trimtab.runs.shipped import find

    stages = {stage["name"]: stage for stage in read_tree(find(name), RecipeError)["stages"]}
    assert stages["store"]["precompute"] == "hidden"
    assert stages["student"]["models"]["teacher"] == "cache:@store"
    assert load_recipe(name).stages[-1].models.teacher == f"cache:runs/{name}/store"

"""Recipes are strict, complete, and explain what is wrong with them."""

from pathlib import Path

import pytest
import yaml

from trimtab.data.edits import load_edits
from trimtab.data.sources import load_rows
from trimtab.runs.overrides import override_all
from trimtab.runs.parse import load_recipe, parse
from trimtab.runs.recipe import Recipe, RecipeError, Stages, dump
from trimtab.runs.shipped import shipped

BASE = {
    "method": "kd",
    "models": {"student": {"from": "teacher", "layers": 2}, "teacher": "smollm2-135m"},
    "data": {"train": "rows.jsonl"},
}


def write(tmp_path, tree) -> str:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(tree))
    return str(path)


def test_a_loaded_recipe_holds_every_default_and_reads_back_as_itself(tmp_path):
    recipe = load_recipe(write(tmp_path, BASE))
    text = dump(recipe)
    tree = yaml.safe_load(text)
    assert tree["options"]["divergence"] == "forward_kl"
    assert tree["output"] == "runs/mine"
    assert tree["training"] == {"bf16": False, "gradient_checkpointing": False, "num_train_epochs": 1}
    again = tmp_path / "again.yaml"
    again.write_text(text)
    assert load_recipe(again) == recipe


def test_a_shipped_recipe_is_named_without_a_folder():
    assert load_recipe("tiny_kd.yaml") == load_recipe("tiny_kd")
    with pytest.raises(RecipeError, match="there is no recipe nowhere/tiny_kd.yaml; did you mean 'tiny_kd'"):
        load_recipe("nowhere/tiny_kd.yaml")


def test_student_is_another_name_of_the_policy(tmp_path):
    policy = {**BASE, "models": {"policy": "x", "teacher": "y"}}
    student = {**BASE, "models": {"student": "x", "teacher": "y"}}
    assert load_recipe(write(tmp_path, policy)) == load_recipe(write(tmp_path, student))


def test_policy_and_student_together_are_refused(tmp_path):
    both = {**BASE, "models": {"policy": "x", "student": "y", "teacher": "z"}}
    with pytest.raises(RecipeError, match="both policy and student"):
        load_recipe(write(tmp_path, both))


def test_overrides_reach_into_the_tree_and_are_read_as_yaml(tmp_path):
    overrides = ["options.temperature=2", "training.optim_args=null", "models.policy=other", "data.rows=5"]
    recipe = load_recipe(write(tmp_path, BASE), overrides)
    assert recipe.options["temperature"] == 2.0
    assert recipe.training["optim_args"] is None
    assert recipe.models.policy == "other"
    assert recipe.data.rows == 5


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("method=kdd", "mine.yaml: there is no method 'kdd'; did you mean 'kd'?"),
        ("modles.teacher=x", "mine.yaml: the recipe has no key 'modles'; did you mean 'models'?"),
        ("models.techer=x", "models has no key 'techer'; did you mean 'teacher'?"),
        ("models.student.layer=3", "models.student has no key 'layer'; did you mean 'layers'?"),
        ("options.temprature=2", "options of kd has no key 'temprature'; did you mean 'temperature'?"),
        ("options.beta=2", "options.beta is 2; it must be below 1"),
        ("options.divergence=kl", "options.divergence is 'kl'; it must be 'forward_kl', 'reverse_kl'"),
        ("training.chat_template_path=x", "training.chat_template_path is set by the policy's tokenizer"),
        ("training.eos_token=x", "training.eos_token is set by the policy's tokenizer"),
        ("training.truncation_mode=keep_end", "training.truncation_mode is set by trimtab"),
        ("training.hub_token=hf_secret", "secrets do not belong in a recipe"),
        ("training.push_to_hub=true", "nothing is uploaded"),
        ("training.save_only_model=true", "cannot be resumed to the same weights"),
        ("training.fsdp=full_shard", "sharding is chosen at the launch"),
        ("training.max_length=0", "training.max_length is 0; give at least 2, or null for no limit"),
        ("training.max_step=2", "training has no key 'max_step'; did you mean 'max_steps'?"),
        ("training.learning_rate=fast", "training.learning_rate is 'fast'; it must be a number"),
        ("training.max_steps=2.5", "training.max_steps is 2.5; it must be a whole number"),
        ("models.teacher=null", "method kd needs models.teacher"),
        ("data.train=null", "data.train is null; it must be text"),
        ("data.max_dropped=2", "data.max_dropped is 2; it must be at most 1"),
        ("seed=one", "seed is 'one'; it must be a whole number"),
        ("seed=true", "seed is True; it must be a whole number"),
        ("options.temperature=true", "options.temperature is True; it must be a number"),
        ("training.max_steps=true", "training.max_steps is True; it must be a number"),
        ("seed", "'seed' is not an override; write key=value"),
        ("seed.x=1", "seed has no keys"),
    ],
)
def test_a_mistake_is_explained_in_one_line(tmp_path, override, message):
    path = write(tmp_path, {**BASE, "seed": 0})
    with pytest.raises(RecipeError) as raised:
        load_recipe(path, [override])
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("method", "models", "message"),
    [
        ("trra", {"reference": "x"}, "method trra needs models.aligned; add it"),
        ("inra", {"reference": "x"}, "method inra does not use models.reference; leave it out"),
        ("dpo", {"aligned": "x"}, "method dpo does not use models.aligned; leave it out"),
        ("wspo", {"weak_aligned": "x"}, "method wspo needs models.weak_reference; add it"),
    ],
)
def test_models_that_a_method_lacks_or_does_not_use_are_named(method, models, message):
    tree = {"method": method, "models": {"policy": "p", **models}, "data": BASE["data"]}
    with pytest.raises(RecipeError, match=message):
        parse(tree, "here", "run")


def test_options_decide_which_models_a_method_uses():
    tree = {"method": "wspo", "models": {"policy": "p", "weak_aligned": "x", "weak_reference": "y"}}
    tree |= {"data": BASE["data"], "options": {"weak": "column"}}
    with pytest.raises(RecipeError, match="wspo does not use models.weak_reference"):
        parse(tree, "here", "run")
    tree["models"] = {"policy": "p", "reference": "r", "teacher": "evaluations read it"}
    assert parse(tree, "here", "run").models.reference == "r"


@pytest.mark.parametrize("text", ["3e-4", "3.0e-4", "0.0003", "3E-4"])
def test_a_number_may_be_written_as_people_write_it(tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(BASE) + f"training: {{learning_rate: {text}}}\n")
    assert load_recipe(path).training["learning_rate"] == 3e-4
    assert load_recipe(path, [f"training.learning_rate={text}"]).training["learning_rate"] == 3e-4


def test_words_that_yaml_reads_as_booleans_are_words_where_a_key_has_them(tmp_path):
    words = ["models.teacher_cache=off", "training.save_strategy=no", "training.logging_strategy=no"]
    recipe = load_recipe(write(tmp_path, BASE), words)
    assert recipe.models.teacher_cache == "off"
    assert [recipe.training[key] for key in ("save_strategy", "logging_strategy")] == ["no", "no"]
    assert load_recipe(write(tmp_path, BASE), ["training.bf16=no"]).training["bf16"] is False


def test_a_missing_key_is_named(tmp_path):
    with pytest.raises(RecipeError, match="data is missing"):
        load_recipe(write(tmp_path, {"method": "sft", "models": {"policy": "x"}}))


def test_a_file_that_is_no_yaml_is_named_with_its_line(tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text("method: sft\nmodels: {a: [}\n")
    with pytest.raises(RecipeError, match=r"bad\.yaml: line 2"):
        load_recipe(path)


def test_a_file_from_windows_is_read_and_one_in_another_encoding_is_named(tmp_path):
    path = Path(write(tmp_path, BASE))
    plain = load_recipe(path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert load_recipe(path) == plain
    path.write_bytes(path.read_text(encoding="utf-8-sig").encode("utf-16"))
    with pytest.raises(RecipeError, match="is UTF-16 text"):
        load_recipe(path)


@pytest.mark.parametrize(
    "section", ["options", "training", "eval", "eval.prompts", "eval.suites", "eval.suites.geomrel"]
)
def test_a_section_that_is_left_empty_has_its_defaults(tmp_path, section):
    empty = load_recipe(write(tmp_path, BASE), [f"{section}=null"])
    suites = {"eval": {"suites": {"geomrel": {}}}} if section.endswith("geomrel") else {}
    assert empty == load_recipe(write(tmp_path, {**BASE, **suites}))


def test_several_sources_are_refused_with_the_way_out(tmp_path):
    with pytest.raises(RecipeError, match=r"data.train is \['a.jsonl', 'b.jsonl'\]; expected one file or dataset"):
        load_recipe(write(tmp_path, {**BASE, "data": {"train": ["a.jsonl", "b.jsonl"]}}))
    with pytest.raises(RecipeError, match=r"data.heldout is \[\]; expected one file or dataset"):
        load_recipe(write(tmp_path, BASE), ["data.heldout=[]"])


def test_half_a_character_in_a_recipe_is_named_by_its_key(tmp_path):
    path = Path(write(tmp_path, BASE))
    path.write_text(path.read_text() + 'eval: {prompts: ["fine", "a \\ud83d b"]}\n')
    with pytest.raises(RecipeError, match=r"eval\.prompts\[1\] holds half of a character: .ud83d"):
        load_recipe(path)


def test_a_key_that_occurs_twice_is_named_with_its_line(tmp_path):
    path = tmp_path / "twice.yaml"
    path.write_text("method: sft\nseed: 1\nseed: 2\n")
    with pytest.raises(RecipeError, match="line 3 is not valid YAML: the key 'seed' occurs twice"):
        load_recipe(path)


def test_a_missing_recipe_names_the_nearest_that_comes_with_trimtab():
    with pytest.raises(RecipeError, match="did you mean 'tiny_kd'"):
        load_recipe("tiny_kb")


def test_a_recipe_that_comes_with_trimtab_is_found_by_its_name():
    assert load_recipe("tiny_kd").method == "kd"


@pytest.mark.parametrize("name", shipped())
def test_every_recipe_says_in_its_first_line_what_it_is_and_is_explicit_about_precision(name):
    from trimtab.runs.shipped import recipe_folder

    text = (recipe_folder() / f"{name}.yaml").read_text()
    assert text.startswith("# ")
    assert "bf16:" in text
    assert "gradient_checkpointing:" in text
    loaded = load_recipe(name)
    for recipe in loaded.stages if isinstance(loaded, Stages) else [loaded]:
        assert isinstance(recipe, Recipe)


def staged(**more):
    return {
        "models": BASE["models"],
        "data": BASE["data"],
        "seed": 3,
        "stages": [{"method": "sft"}, {"name": "second", "method": "kd", "models": {"student": "@sft"}, **more}],
    }


def test_stages_inherit_what_stands_beside_them_and_lie_in_folders_of_their_own():
    stages = parse(staged(seed=4), "here", "both")
    assert isinstance(stages, Stages)
    assert [s.seed for s in stages.stages] == [3, 4]
    assert [s.output for s in stages.stages] == ["runs/both/sft", "runs/both/second"]


def test_a_stage_can_start_from_the_result_of_an_earlier_one():
    assert parse(staged(), "here", "both").stages[1].models.policy == "runs/both/sft/model"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"models": {"student": "@third"}}, "models.student is @third, but the earlier stages are: sft"),
        ({"models": {"student": "@second"}}, "models.student is @second, but the earlier stages are: sft"),
        ({"name": "sft"}, "needs its own name"),
        ({"options": {"temprature": 1}}, "did you mean 'temperature'"),
        ({"sede": 1}, "did you mean 'seed'"),
    ],
)
def test_a_mistake_in_a_stage_is_explained(change, message):
    with pytest.raises(RecipeError, match=message):
        parse(staged(**change), "here", "both")


def test_recipes_of_own_answers_are_taken_by_trl_and_save_between_rollouts(tmp_path):
    from trimtab import methods
    from trimtab.train import settings
    from trimtab.train.rollouts import check_buffer

    updates = {}
    for name in shipped():
        loaded = load_recipe(name)
        for recipe in loaded.stages if isinstance(loaded, Stages) else [loaded]:
            if methods.load(recipe.method).loop == "rollouts":
                training = {**recipe.training, "use_cpu": True}  # bfloat16 is refused where there is no GPU
                updates[name] = check_buffer(settings.build(training, tmp_path, 0, "rollouts"))
    known = {"distrl_math": 4, "etcon_qwen": 4, "lco_gsm8k": 32, "q_rm_rl_gsm8k": 384, "tiny_lco": 4}
    assert known.items() <= updates.items()


@pytest.mark.parametrize("name", ["tiny_edit_ft_m", "tiny_edit_locft_bf", "tiny_edit_lora", "tiny_etcon"])
def test_recipes_that_edit_facts_ask_for_the_facts_that_they_teach_and_change(name):
    first, *later = load_recipe(name).stages
    assert first.used is not None
    assert first.used.source == "tiny_facts"
    known = {row["edit"] for row in load_rows(first.data.train)}
    for stage in later:
        assert {row["edit"] for row in load_rows(stage.data.train)} == known
        (suite,) = stage.eval.suites.values()
        assert {edit.id for edit in load_edits(suite.options["file"])} == known


@pytest.mark.parametrize(("published", "tiny"), [("etcon_qwen", "tiny_etcon")])
def test_the_published_setting_of_etcon_has_its_figures_and_the_tiny_one_its_objectives(published, tiny):
    tpsft, grpo = load_recipe(published).stages
    assert (tpsft.scope.mlp, tpsft.scope.parts) == ([4, 8], ["down_proj"])
    assert grpo.models.policy.endswith("tpsft/model")
    training = grpo.training
    prompts = training["per_device_train_batch_size"] * 4 // training["num_generations"]
    assert prompts * training["gradient_accumulation_steps"] == 128
    assert prompts * training["steps_per_generation"] == 512
    kept = ("learning_rate", "weight_decay", "max_grad_norm", "temperature", "top_p", "max_completion_length")
    assert [training[key] for key in kept] == [1e-6, 0.01, 1.0, 1.0, 0.99, 512]
    wanted = {"epsilon": 0.2, "epsilon_high": 0.3, "dual_clip": 3.0, "eps": 1e-6, "kl": 0.01, "kl_max": 10.0}
    *_, one, other = load_recipe(tiny).stages
    assert wanted.items() <= grpo.options.items()
    assert (one.options, other.options, other.reward[0].name) == (tpsft.options, grpo.options, "edit")
    assert other.training["num_generations"] == training["num_generations"] == 10


# ---------------------------------------------------------------- seeds


def seeded(tree: dict, **changes):
    return parse({**tree, **changes}, "test", "name")


SEEDED = {"method": "sft", "models": {"policy": "smollm2-135m"}, "data": {"train": "a.jsonl"}}


def test_seeds_make_a_run_of_each_in_a_folder_of_its_own():
    made = seeded(SEEDED, seeds=[0, 3], minutes=4, output="runs/mine")
    assert [(run.seed, run.output) for run in made.stages] == [(0, "runs/mine-seed0"), (3, "runs/mine-seed3")]
    assert (made.output, made.minutes) == ("runs/mine", 4)
    assert made.stages[0].model_copy(update={"seed": 3, "output": "runs/mine-seed3"}) == made.stages[1]
    assert [run.output for run in seeded(SEEDED, seeds=[7]).stages] == ["runs/name-seed7"]


def test_stages_with_seeds_follow_their_own_earlier_ones():
    tree = {key: value for key, value in SEEDED.items() if key != "method"}
    stages = [{"method": "sft"}, {"name": "more", "method": "sft", "models": {"policy": "@sft"}}]
    made = seeded(tree, stages=stages, seeds=[1, 2], output="out")
    assert [run.output for run in made.stages] == ["out-seed1/sft", "out-seed1/more", "out-seed2/sft", "out-seed2/more"]
    assert [run.models.policy for run in made.stages[1::2]] == ["out-seed1/sft/model", "out-seed2/sft/model"]
    assert [run.seed for run in made.stages] == [1, 1, 2, 2]


@pytest.mark.parametrize("stages", [False, True])
def test_what_a_dry_run_prints_of_seeds_and_stages_is_the_same_recipe(stages):
    tree = {key: value for key, value in SEEDED.items() if key != "method"} if stages else SEEDED
    more = {"stages": [{"name": "a", "method": "sft"}, {"method": "sft", "models": {"policy": "@a"}}]} if stages else {}
    for seeds in ({"seeds": [0, 1]}, {}):
        made = seeded(tree, **more, **seeds, minutes=3)
        assert parse(yaml.safe_load(dump(made)), "test", "name") == made


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seeds": []}, r"seeds is \[\]; give a list of whole numbers"),
        ({"seeds": 3}, "seeds is 3; give a list"),
        ({"seeds": [0, -1]}, "give a list of whole numbers"),
        ({"seeds": [0, True]}, "give a list of whole numbers"),
        ({"seeds": [1, 1]}, "contains one twice"),
        ({"seeds": [0], "seed": 1}, "the recipe has both seed and seeds"),
        ({"seeds": [0], "stages": [{"method": "sft", "seed": 2}]}, r"stages\[0\] has both seed and seeds"),
        ({"seed": [0, 1]}, r"write seeds: \[0, 1\]"),
        ({"seeds": [0], "minutes": -1}, "minutes is -1"),
    ],
)
def test_seeds_that_cannot_be_are_named(changes, said):
    with pytest.raises(RecipeError, match=said):
        seeded(SEEDED, **changes)


def test_seeds_of_the_command_line_take_the_place_of_the_recipes_seed(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({**SEEDED, "seed": 4}))
    assert [run.seed for run in load_recipe(path, ["seeds=[0,1]"]).stages] == [0, 1]
    path.write_text(yaml.safe_dump({**SEEDED, "seeds": [4, 5]}))
    assert load_recipe(path, ["seed=9"]).seed == 9


def test_an_override_that_undoes_an_earlier_one_is_refused():
    tree = {"options": {"beta": 0.1}, "models": {"policy": "a"}}
    override_all(tree, ["options={}", "options.beta=0.5"])
    assert tree["options"] == {"beta": 0.5}
    with pytest.raises(RecipeError, match="options is given after options.beta, which it would undo"):
        override_all(tree, ["options.beta=0.5", "options={}"])
    with pytest.raises(RecipeError, match="models.policy is given twice"):
        override_all(tree, ["models.student=b", "models.policy=c"])


def test_a_count_stays_a_count_where_trl_declares_a_share():
    from trimtab.train import settings

    given = {"save_steps": 2, "warmup_steps": 0.1, "num_train_epochs": 1}
    assert [repr(settings.check(given)[key]) for key in given] == ["2", "0.1", "1"]

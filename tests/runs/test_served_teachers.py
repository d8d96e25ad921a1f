"""A run with a served teacher is the run with the local one, and a server that is not what it should be is refused."""

import pytest
import yaml

import tiny
import tiny_folder
from tiny_caches import QUIET, lay_out, parsed, tree
from tiny_runs import events, weights
from tiny_vllm import TinyVLLM
from trimtab.common.errors import UserError
from trimtab.engines import scoring
from trimtab.models import loading
from trimtab.runs import served_teacher
from trimtab.runs.cached_teacher import facts_of
from trimtab.runs.parse import parse
from trimtab.runs.run import run
from trimtab.runs.served_teacher import same_server
from trimtab.runs.teacher_pass import cache_teacher
from trimtab.signals.row_store import RowStore


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return lay_out(tmp_path_factory.mktemp("files"))


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Pauses that a test can wait for."""
    monkeypatch.setattr(scoring.ScoringServer.__init__, "__kwdefaults__", {
        "patient": True, "pauses": (0.05, 0.05, 0.05), "timeout": 20.0, "at_a_time": 4,
    })  # fmt: skip


@pytest.fixture
def server(files):
    with TinyVLLM(loading.load_model(str(files / "teacher")), tiny_folder.byte_tokenizer()) as one:
        yield one


def recipe(files, output, server, method="kd", k=tiny_folder.VOCAB, **changes):
    made = tree(files, output, method, server.address, **changes)
    made["models"]["teacher_k"] = k
    return made


def trained(files, output, server, method="kd", **changes):
    return run(parse(recipe(files, output, server, method, **changes), "test", "run"), console=QUIET).folder


@pytest.mark.parametrize(("method", "k"), [("kd", tiny_folder.VOCAB), ("hpd", 8)])
def test_a_run_with_a_served_teacher_is_the_run_with_the_local_one(files, server, tmp_path, method, k):
    server.max_logprobs = tiny_folder.VOCAB
    live = run(parsed(files, tmp_path / "live", method), console=QUIET).folder
    served = trained(files, tmp_path / "served", server, method, k=k)
    for one, other in zip(events(live, "train"), events(served, "train"), strict=True):
        for key in one.keys() & {"loss", "grad_norm", "nll"}:
            assert other[key] == pytest.approx(one[key], rel=1e-3, abs=1e-4), key
    assert tiny.relative_error(weights(served), weights(live)) < 1e-2
    for one, other in zip(events(live, "eval"), events(served, "eval"), strict=True):
        assert other["teacher_nll"] == pytest.approx(one["teacher_nll"], rel=1e-4)
        assert other["forward_kl"] <= one["forward_kl"] + 1e-3
    said = (served / "signature.txt").read_text()
    assert f"teacher: teacher (/its/folder), vLLM 0.32.0, vllm-0.32.0-c28290ce, k {k}; values -" in said
    assert "teacher that of the server" in said


@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_with_a_teacher_cache_each_row_is_asked_for_once(files, server, tmp_path, kind):
    training = {"max_steps": -1, "num_train_epochs": 2, "save_steps": 4}
    made = recipe(files, tmp_path / "run", server, k=16, training=training)
    made["models"]["teacher_cache"] = kind
    folder = run(parse(made, "test", "run"), console=QUIET).folder
    rows = {str(asked["prompt"]) for _, asked in server.asked if asked.get("prompt_logprobs") == 16}
    number = sum(asked.get("prompt_logprobs") == 16 for _, asked in server.asked)
    assert number == len(rows) == 1 + 16 + 5  # the probe, training and held-out rows
    assert (folder / "teacher_cache" / "teacher-top16").is_dir() == (kind == "disk")


def test_precompute_writes_the_cache_that_the_local_teacher_writes(files, server, tmp_path, trimtab):
    cache_teacher(parsed(files, tmp_path / "never"), tmp_path / "local", "topk", k=16, console=QUIET)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(tree(files, tmp_path / "run", "kd", server.address)))
    words = ("--teacher", "topk", "--k", "16", "--out", tmp_path / "served")
    code, out, err = trimtab("precompute", tmp_path / "recipe.yaml", *words)
    assert code == 0, err
    assert "covered mass: 0." in out
    one, other = RowStore(tmp_path / "local"), RowStore(tmp_path / "served")
    assert one._places.keys() == other._places.keys()
    for key in one._places:
        local, served = one.get(key), other.get(key)
        assert local["ids"].equal(served["ids"])
        for name in ("logprobs", "label_logprobs"):
            assert local[name] == pytest.approx(served[name], abs=1e-4)
    assert one.sums["covered"] == pytest.approx(other.sums["covered"], rel=1e-4)
    before = len(server.asked)
    assert trimtab("precompute", tmp_path / "recipe.yaml", *words)[0] == 0
    asked = [body.get("prompt_logprobs") for _, body in server.asked[before:]]
    assert asked.count(16) == 1  # the probe alone: all rows are there
    code, out, _ = trimtab("show", f"cache:{tmp_path / 'served'}")
    assert (code, server.address in out, "lower bound of that over all tokens" in " ".join(out.split())) == (0,) + 2 * (
        True,
    )
    cached = run(parsed(files, tmp_path / "cached", teacher=f"cache:{tmp_path / 'served'}"), console=QUIET).folder
    assert events(cached, "eval")[0]["forward_kl"] > 0
    assert facts_of(tmp_path / "served").places == 511
    code, _, err = trimtab("precompute", tmp_path / "recipe.yaml", "--teacher", "hidden", "--out", tmp_path / "no")
    assert (code, "tells no hidden states; use --teacher topk" in err, (tmp_path / "no").exists()) == (2, True, False)


def other_words(server):
    class Reversed:
        def __call__(self, text, **how):
            return {"input_ids": tiny_folder.byte_tokenizer()(text, **how)["input_ids"][::-1]}

    server.tokenizer = Reversed()


WRONG = {
    "another tokenizer": (other_words, "splits text otherwise than the policy"),
    "fewer log-probabilities": (
        lambda server: setattr(server, "max_logprobs", 8),
        "gives fewer log-probabilities than models.teacher_k: 16",
    ),
    "logits": (lambda server: setattr(server, "mode", "raw_logits"), "--logprobs-mode raw_logprobs"),
    "short rows": (lambda server: setattr(server, "longest", 25), "and the teacher at .* reads at most 24"),
    "a key": (lambda server: setattr(server, "key", "secret"), "refuses the key .*set TRIMTAB_API_KEY"),
    "500": (lambda server: setattr(server, "fails", [500] * 9), "does not answer .HTTP 500: Internal Server Error"),
    "no answer": (lambda server: setattr(server, "fails", [0] * 9), "does not answer .*start it again"),
}


@pytest.mark.parametrize("how", WRONG)
def test_a_server_that_is_not_as_it_should_be_costs_one_line(files, server, tmp_path, trimtab, how):
    change, message = WRONG[how]
    change(server)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe(files, tmp_path / "run", server, k=16)))
    code, _, err = trimtab("train", tmp_path / "recipe.yaml")
    assert (code, err.count("\n")) == (2, 1), err
    with pytest.raises(UserError, match=message):
        raise UserError(err)
    assert not (tmp_path / "run").exists()


RECIPES = {
    "another method's loop": (
        {"method": "opd", "reward": "exact", "training": {"max_length": None}},
        {},
        "method opd samples new completions, and a server is asked for what it says of given rows",
    ),
    "a student cut from it": ({}, {"policy": {"from": "teacher", "layers": 2}}, "models.teacher is a server; name"),
    "ranks": ({"options": {"divergence": "akl"}}, {}, "reads the order of all tokens of the teacher"),
    "a temperature": ({"options": {"temperature": 2.0}}, {}, "the distribution at temperature 2 of the teacher"),
    "plain http": ({}, {"teacher": "http://127.0.0.1:1"}, "a teacher that is served is named by vllm://127.0.0.1:1"),
    "no address": ({}, {"teacher": "vllm://nowhere:port"}, "is no address of a server; write vllm://HOST:PORT"),
    "another name": ({}, {"teacher": "NAME"}, "serves no model 'NAME', but teacher"),
    "a policy": ({}, {"policy": "vllm://127.0.0.1:1"}, "a served model can only be the teacher"),
    "more than there are": ({}, {"teacher_k": 999}, "teacher_k is 999, but the vocabulary has 259 tokens"),
    "other rows": ({"data": {"teacher_prompt": "hints.jsonl"}}, {}, "data.teacher_prompt gives the teacher other rows"),
}


@pytest.mark.parametrize("how", RECIPES)
def test_a_recipe_that_asks_too_much_of_a_server_costs_one_line(files, server, tmp_path, trimtab, how):
    changes, models, message = RECIPES[how]
    made = recipe(files, tmp_path / "run", server, k=16)
    for key, value in changes.items():
        made[key] = {**made[key], **value} if isinstance(made.get(key), dict) else value
    made["training"] = {key: value for key, value in made["training"].items() if value is not None}
    made["models"] |= {key: f"{server.address}/NAME" if value == "NAME" else value for key, value in models.items()}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(made))
    code, _, err = trimtab("train", tmp_path / "recipe.yaml")
    assert (code, err.count("\n")) == (2, 1), err
    assert message in err
    assert not (tmp_path / "run").exists()


def test_teacher_k_is_of_a_served_teacher(files, tmp_path):
    made = tree(files, tmp_path / "run")
    made["models"]["teacher_k"] = 8
    with pytest.raises(UserError, match="teacher_k is of a served teacher"):
        parse(made, "test", "run")


def test_a_smaller_vocabulary_is_found_and_shared(files, server, tmp_path):
    facts = served_teacher.probe(
        parse(recipe(files, tmp_path / "run", server, k=16), "test", "run").models, tiny_folder.byte_tokenizer(), 300
    )
    assert facts.vocab == tiny_folder.VOCAB
    assert facts.asks
    assert (facts.server.tokens_in_out, facts.server.scores_given) == (False, False)
    server.scale_out = server.second_runner = True
    facts = served_teacher.probe(
        parse(recipe(files, tmp_path / "run", server, k=16), "test", "run").models, tiny_folder.byte_tokenizer(), 259
    )
    assert (facts.server.tokens_in_out, facts.server.scores_given) == (True, True)


def test_a_server_that_fails_now_and_then_changes_nothing(files, server, tmp_path):
    whole = trained(files, tmp_path / "whole", server, k=16)
    first = len(server.asked)
    answer = server.answer

    def now_and_then(path, asked):
        with server.lock:
            number = len(server.asked)
            server.fails = [503, 0] if number % 9 == 0 else server.fails
        return answer(path, asked)

    server.answer = now_and_then
    again = trained(files, tmp_path / "again", server, k=16)
    assert len(server.asked) - first > first + 2
    assert [one["loss"] for one in events(again, "train")] == [one["loss"] for one in events(whole, "train")]


def test_a_server_that_is_gone_ends_the_run_and_resumes_where_the_same_one_is_back(files, server, tmp_path, trimtab):
    whole = trained(files, tmp_path / "whole", server, "hpd", k=16)
    made = recipe(files, tmp_path / "run", server, "hpd", k=16)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(made))
    answer, state = server.answer, {"left": 45}

    def ends(path, asked):
        state["left"] -= 1
        if state["left"] < 0:
            server.fails = [0] * 99
        return answer(path, asked)

    server.answer = ends
    code, _, err = trimtab("train", tmp_path / "recipe.yaml")
    assert (code, "does not answer" in err, "--resume goes on from its last checkpoint" in err) == (2, True, True), err
    assert events(tmp_path / "run", "train")
    server.answer, server.fails = answer, []
    kept, server.model = server.model, tiny.model("llama_tied", 9, vocab_size=tiny_folder.VOCAB)
    code, _, err = trimtab("train", tmp_path / "recipe.yaml", "--resume")
    assert (code, "cannot be resumed: it was started with a different teacher" in err) == (2, True), err
    server.model, server.version = kept, "0.33.0"
    code, _, err = trimtab("train", tmp_path / "recipe.yaml", "--resume")
    assert (code, "vLLM 0.33.0" in err) == (2, True), err
    server.version = "0.32.0"
    code, _, err = trimtab("train", tmp_path / "recipe.yaml", "--resume")
    assert code == 0, err
    assert tiny.relative_error(weights(tmp_path / "run"), weights(whole)) < 1e-4


def test_another_model_behind_the_address_in_the_middle_of_a_run_ends_it(files, server, tmp_path):
    answer, state = server.answer, {"left": 45}

    def other(path, asked):
        state["left"] -= 1
        if state["left"] == 0:
            server.model = tiny.model("llama_tied", 9, vocab_size=tiny_folder.VOCAB)
            server.fails = [0]
        return answer(path, asked)

    server.answer = other
    with pytest.raises(UserError, match="was started again with another model: its log-probabilities are"):
        trained(files, tmp_path / "run", server, k=16)


def test_a_server_that_hangs_is_not_waited_for_for_ever(files, server, tmp_path, monkeypatch):
    made = parse(recipe(files, tmp_path / "run", server, k=16), "test", "run")
    tokenizer = tiny_folder.byte_tokenizer()
    facts = served_teacher.probe(made.models, tokenizer, tiny_folder.VOCAB)
    facts.server.timeout, server.wait = 0.2, 1.0
    with pytest.raises(UserError, match="no answer in 0.2 seconds"):
        facts.server.most_likely([3, 4, 5], 4, [1, 2])


def test_lines_of_signatures_are_compared_up_to_rounding():
    line = "teacher (m), vLLM 0.32.0, f, k 64; values -1.000,-2.000"
    assert same_server(line, "teacher (m), vLLM 0.32.0, f, k 64; values -1.040,-1.980")
    assert not same_server(line, "teacher (m), vLLM 0.32.0, f, k 64; values -1.400,-2.000")
    assert not same_server(line, "teacher (m), vLLM 0.32.0, f, k 32; values -1.000,-2.000")
    assert not same_server(line, "teacher (m), vLLM 0.32.0, f, k 64; values -1.000")

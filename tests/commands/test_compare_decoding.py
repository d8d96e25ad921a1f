"""`trimtab compare-decoding`: every strategy writes what `generate` writes, and the page says what was measured."""

import json
import math
import re
from functools import partial

import pytest
import torch
from rich.console import Console
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

import tiny_folder
from trimtab import decoding
from trimtab.commands import compare_decoding as compare
from trimtab.commands.compare_decoding import CompareDecodingSettings
from trimtab.common.settings import parse
from trimtab.data.tokens import encode_prompts
from trimtab.decoding.penalty import PenaltyProcessor
from trimtab.evals import continuations
from trimtab.evals.continuations import CompareError, Passage, load_passages, write
from trimtab.evals.token_view import choices, repeat_sentence
from trimtab.models.loading import load_model, load_tokenizer

PROMPTS = ["count to three", "a", "say it again and again"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_folder.save(tmp_path_factory.mktemp("model") / "tiny", initializer_range=0.5)


@pytest.fixture(scope="module")
def model(folder):
    return load_model(folder)


@pytest.fixture(scope="module")
def tokenizer(folder):
    return load_tokenizer(folder)


def asked(model, prompts, out, **more) -> CompareDecodingSettings:
    return CompareDecodingSettings(model=str(model), prompts=str(prompts), out=out, **more)


def passages() -> list[Passage]:
    return [Passage(prompt) for prompt in PROMPTS]


@pytest.mark.parametrize("name", compare.STRATEGIES)
def test_from_the_shared_cache_a_strategy_writes_what_generate_writes(model, tokenizer, name):
    (found,) = write(model, tokenizer, passages(), {name: {}}, new=10, seed=3, batch=8)
    order = sorted(range(3), key=lambda i: -len(PROMPTS[i]))
    inputs = encode_prompts(tokenizer, [PROMPTS[i] for i in order], plain=True)
    torch.manual_seed(3)
    arguments = decoding.arguments(name, tokenizer)
    output = model.generate(**inputs, **arguments, max_new_tokens=10, pad_token_id=tokenizer.pad_token_id)
    for place, i in enumerate(order):
        ids = output[place, inputs["input_ids"].size(1) :].tolist()
        assert found.ids[i] == ids[: len(found.ids[i])]
        assert len(found.ids[i]) == 10 or found.ids[i][-1] == tokenizer.eos_token_id


SEARCHED = {"beam": {"beams": 3}}


@pytest.mark.parametrize("eos", [[0], [0, 65, 80]])
def test_beams_write_what_generate_writes_and_the_model_reads_the_text_that_was_found(folder, tokenizer, eos):
    model = load_model(folder)
    model.generation_config.eos_token_id = eos
    (found,) = write(model, tokenizer, passages(), SEARCHED, new=10)
    for i, prompt in enumerate(PROMPTS):
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        asked = decoding.arguments("beam", tokenizer, beams=3)
        wanted = model.generate(ids, **asked, max_new_tokens=10, pad_token_id=0, eos_token_id=eos)[0, ids.size(1) :]
        assert wanted.tolist()[: len(found.ids[i])] == found.ids[i]
        with torch.no_grad():
            logits = model(torch.tensor([ids[0].tolist() + found.ids[i]])).logits[0, ids.size(1) - 1 : -1]
        log_p = logits.log_softmax(-1)
        assert found.logprobs[i] == pytest.approx(log_p[range(len(found.ids[i])), found.ids[i]].tolist(), abs=1e-3)
        assert found.best[i] == (logits.argmax(-1) == torch.tensor(found.ids[i])).tolist()
    assert found.kept == found.confidence == [[], [], []]
    assert len(found.states) == 3


def test_every_strategy_of_the_list_is_compared(folder, tmp_path):
    (tmp_path / "lines.txt").write_text("\n".join(PROMPTS))
    names = sorted(set(decoding.known()) - {"dera", "realign"})
    settings = asked(folder, tmp_path / "lines.txt", tmp_path / "p.html", strategies=",".join(names), max_new_tokens=4)
    compare.compare(settings, Console(quiet=True))
    meta = json.loads((tmp_path / "p.meta.json").read_text())
    assert set(meta["measures"]["perplexity"]) == set(names)
    assert set(meta["measures"]["candidates"]) == set(names) - {"beam"}
    said = meta["signature"]["generation of beam"]
    assert said == "eos_token_id=[0], max_new_tokens=4, num_beams=5, pad_token_id=0"


def test_as_the_models_authors_set_it_is_compared_by_what_the_model_itself_says(folder, tokenizer):
    model = load_model(folder)
    own = {"repetition_penalty": 3.0, "no_repeat_ngram_size": 2}
    model.generation_config.update(**own)
    (found,) = write(model, tokenizer, passages(), {"model": {}}, new=10)
    (greedy,) = write(model, tokenizer, passages(), {"greedy": {}}, new=10)
    plain = load_model(folder)
    for i, prompt in enumerate(PROMPTS):
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        wanted = plain.generate(ids, **own, max_new_tokens=10, do_sample=False)[0, ids.size(1) :].tolist()
        assert found.ids[i] == wanted[: len(found.ids[i])]
        with torch.no_grad():
            logits = plain(torch.tensor([ids[0].tolist() + found.ids[i]])).logits[0, ids.size(1) - 1 : -1]
        log_p = logits.log_softmax(-1)
        assert found.logprobs[i] == pytest.approx(log_p[range(len(found.ids[i])), found.ids[i]].tolist(), abs=1e-3)
    assert found.ids != greedy.ids
    assert all(all(best) for best in greedy.best)


def test_a_text_ends_at_the_tokenizers_end_though_the_config_names_another(folder, tokenizer):
    model = load_model(folder)
    model.generation_config.eos_token_id = model.config.eos_token_id = None
    (found,) = write(model, tokenizer, passages(), {"penalty": {"least": 0, "strength": 1.0}}, new=40)
    assert all(0 not in ids[:-1] for ids in found.ids)


def test_what_is_kept_of_each_step_is_what_the_model_says_of_the_text(model, tokenizer):
    (found,) = write(model, tokenizer, passages(), {"top_k": {"k": 7}}, new=12, seed=1)
    for passage, ids, logprobs, entropy, best, kept in zip(
        passages(), found.ids, found.logprobs, found.entropy, found.best, found.kept
    ):
        prompt = tokenizer(passage.prompt, add_special_tokens=False).input_ids
        with torch.no_grad():
            logits = model(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1]
        log_p = logits.log_softmax(-1)
        assert logprobs == pytest.approx(log_p[range(len(ids)), ids].tolist(), abs=1e-3)
        assert entropy == pytest.approx((-(log_p.exp() * log_p).sum(-1)).tolist(), abs=1e-3)
        assert best == (logits.argmax(-1) == torch.tensor(ids)).tolist()
        assert set(kept) == {7.0}


def test_candidates_of_a_deterministic_strategy_are_its_choice(model, tokenizer):
    greedy, penalised = write(model, tokenizer, passages(), {"greedy": {}, "penalty": {"least": 0}}, new=8)
    assert all(best for row in greedy.best for best in row)
    assert {number for one in (greedy, penalised) for row in one.kept for number in row} == {1.0}
    assert greedy.confidence[0][0] < greedy.confidence[0][0] + 1
    assert all(0 <= value <= 1 for row in greedy.confidence for value in row)


def test_the_batch_does_not_change_what_is_deterministic(model, tokenizer):
    (one,) = write(model, tokenizer, passages(), {"penalty": {}}, new=12, batch=1)
    (many,) = write(model, tokenizer, passages(), {"penalty": {}}, new=12, batch=3)
    assert one.ids == many.ids
    for alone, together in zip(one.reinforcement, many.reinforcement, strict=True):
        assert alone == pytest.approx(together, abs=0.2)  # a rise by a rounding error is a rise
    assert len(one.reinforcement) == 3


def test_texts_are_read_as_they_were_written(model, tokenizer):
    (found,) = write(model, tokenizer, passages(), {"greedy": {}}, new=6)
    logprobs, states = continuations.read(model, tokenizer, passages(), found.texts)
    for own, read, text, ids in zip(found.logprobs, logprobs, found.texts, found.ids):
        if tokenizer(text, add_special_tokens=False).input_ids == ids:
            assert read == pytest.approx(own, abs=1e-3)
    assert states.shape == (3, model.config.hidden_size)
    same = [i for i in range(3) if tokenizer(found.texts[i], add_special_tokens=False).input_ids == found.ids[i]]
    assert same, "no text is read back as the tokens that were written"
    for i in same:
        torch.testing.assert_close(found.states[i], states[i], atol=1e-4, rtol=1e-4)


def begun(adds=True):
    """The byte tokenizer with a begin token, which it puts before texts or only has."""
    tokenizer = tiny_folder.byte_tokenizer()
    tokenizer.bos_token = "<|user|>"
    if adds:
        of = tokenizer.bos_token_id
        tokenizer._tokenizer.post_processor = processors.TemplateProcessing(
            single="<|user|> $A", special_tokens=[("<|user|>", of)]
        )
    return tokenizer


def whole_logprobs(model, prompt, ids):
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 : -1]
    return logits.log_softmax(-1)[range(len(ids)), ids].tolist()


@pytest.mark.parametrize("adds", [True, False], ids=["a begin token", "one that is not put"])
@pytest.mark.parametrize("chat", [False, True], ids=["plain", "chat"])
def test_the_same_token_behind_the_same_prompt_has_the_same_score_whoever_wrote_it(model, adds, chat):
    """The begin token stands before human text as before what strategies go on with, and chats are chats."""
    tokenizer = begun(adds)
    (found,) = write(model, tokenizer, passages(), {"greedy": {}}, new=6, chat=chat)
    by_ids, states = continuations.read(model, tokenizer, passages(), found.ids, chat=chat)
    for own, read, state, wanted in zip(found.logprobs, by_ids, states, found.states, strict=True):
        assert read == pytest.approx(own, abs=1e-4)
        torch.testing.assert_close(state, wanted, atol=1e-4, rtol=1e-4)
    texts = ["bcd", "e f", "ghijk"]
    for passage, text, read in zip(
        passages(), texts, continuations.read(model, tokenizer, passages(), texts, chat=chat)[0], strict=True
    ):
        prompt = encode_prompts(tokenizer, [passage.prompt], plain=not chat)["input_ids"][0].tolist()
        assert (prompt[0] == tokenizer.bos_token_id) is (adds or chat)
        ids = tokenizer(text, add_special_tokens=False).input_ids
        assert read == pytest.approx(whole_logprobs(model, prompt, ids), abs=1e-4)


def test_the_token_view_and_a_repeated_sentence_begin_as_texts_do(model):
    tokenizer = begun()
    ids = tokenizer("aab", add_special_tokens=False).input_ids
    steps = choices(model, tokenizer, "ab", ids, {"greedy": {}})
    wanted = whole_logprobs(model, tokenizer("ab").input_ids, ids)
    assert [step["p"] for step in steps] == pytest.approx([math.exp(value) for value in wanted], rel=1e-4)
    sentence = tokenizer(" ab cd", add_special_tokens=False).input_ids
    found = repeat_sentence(model, tokenizer, ["ab cd"], 2, {"model": None})["model"][0]
    p = [math.exp(value) for value in whole_logprobs(model, [tokenizer.bos_token_id], sentence * 2)]
    assert found.tolist() == pytest.approx([sum(p[:6]) / 6, sum(p[6:]) / 6], rel=1e-4)
    has = repeat_sentence(model, begun(adds=False), ["ab cd"], 2, {"model": None})["model"]
    none = repeat_sentence(model, tiny_folder.byte_tokenizer(), ["ab cd"], 2, {"model": None})["model"]
    assert has.tolist() == none.tolist()


@pytest.mark.slow
def test_the_model_as_its_own_judge_gives_the_perplexities_that_it_has_without(tmp_path):
    folder = tiny_folder.save(tmp_path / "model", initializer_range=0.5)
    begun().save_pretrained(folder)
    tiny_folder.write_jsonl(tmp_path / "t.jsonl", [{"text": f"{i} goes on and on, it does"} for i in range(4)])
    found = []
    for judge in (None, folder):
        out = tmp_path / f"{judge is None}.html"
        how = {"strategies": "greedy,sample,beam", "max_new_tokens": 8, "prefix": 8, "judge": judge, "token_view": 0}
        settings = asked(folder, tmp_path / "t.jsonl", out, **how)
        compare.compare(settings, Console(quiet=True))
        rows = [json.loads(line) for line in out.with_suffix(".jsonl").read_text().splitlines()]
        found.append([row["perplexity"] for row in rows])
    assert found[1] == pytest.approx(found[0], rel=1e-3)


def test_a_text_keeps_the_space_between_it_and_its_prompt(tmp_path):
    """A tokenizer of spaces with words drops the first one of ids that it decodes alone."""
    words = {word: i for i, word in enumerate(["<unk>", "▁the", "▁cat", "▁sat", "▁on", "▁mats"])}
    built = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    built.pre_tokenizer, built.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=built, unk_token="<unk>")
    tiny_folder.write_jsonl(tmp_path / "t.jsonl", [{"text": "the cat sat on the mats"}])
    found, _ = load_passages(str(tmp_path / "t.jsonl"), tokenizer, 2, 3)
    assert found == [Passage("the cat", " sat on the")]
    assert continuations._ids_read(tokenizer, "the cat", " sat on the", chat=False) == ([1, 2], [3, 4, 1])
    assert continuations.text_after(tokenizer, [1, 2], [3]) == " sat"
    assert continuations.text_after(tokenizer, [], [3]) == "sat"


def test_the_token_view_says_who_would_have_kept_what(model, tokenizer):
    names = {"greedy": {}, "sample": {}, "top_k": {"k": 3}, "penalty": {"strength": 50.0}}
    ids = tokenizer("aaa", add_special_tokens=False).input_ids
    first, second, third = choices(model, tokenizer, "ab", ids, names)
    vocab = model.config.vocab_size
    assert first["kept"] == {"greedy": 1, "sample": vocab, "top_k": 3, "penalty": 1}
    assert next(keep for _, _, keep, _ in first["top"])[:3] == ["greedy", "sample", "top_k"]
    assert sum("top_k" in keep for _, _, keep, _ in first["top"]) == 3
    assert sum(chosen for *_, chosen in first["top"]) == 1
    assert first["p"] == pytest.approx(next(p for _, p, _, chosen in first["top"] if chosen))
    probabilities = [p for _, p, _, chosen in third["top"] if not chosen]
    assert probabilities == sorted(probabilities, reverse=True)
    assert second["token"] == "a"
    (step, *_) = choices(model, tokenizer, "ab", ids, {"greedy": {}, "beam": {}, "model": {}})
    assert step["kept"] == {"greedy": 1, "model": 1}


def test_a_sentence_repeated_is_looked_at_with_and_without_a_penalty(model, tokenizer):
    found = repeat_sentence(
        model, tokenizer, ["ab cd", "x y z"], 3, {"model": None, "penalty": lambda: PenaltyProcessor(20.0)}
    )
    assert found["model"].shape == (2, 3)
    assert ((found["model"] > 0) & (found["model"] < 1)).all()
    whole = tokenizer(" ab cd" * 3, add_special_tokens=False).input_ids
    with torch.no_grad():
        p = model(torch.tensor([whole])).logits[0].softmax(-1)
    third = [p[t - 1, whole[t]].item() for t in range(12, 18)]
    assert found["model"][0, 2].item() == pytest.approx(sum(third) / 6, rel=1e-4)
    assert not torch.allclose(found["penalty"][:, 2], found["model"][:, 2], rtol=0.01)


def test_long_texts_are_cut_into_prompt_and_what_follows(tokenizer, tmp_path):
    tiny_folder.write_jsonl(
        tmp_path / "t.jsonl", [{"text": "abcdefgh"}, {"text": "abc"}, {"prompt": "p", "reference": "r"}]
    )
    found, left_out = load_passages(str(tmp_path / "t.jsonl"), tokenizer, 3, 4)
    assert found == [Passage("abc", "defg"), Passage("p", "r")]
    assert left_out == "1 texts of fewer than 7 tokens were left out"


def test_strategies_and_their_settings_are_read_from_words():
    assert list(compare.CompareDecodingSettings(model="m").chosen) == list(compare.STRATEGIES)
    flags = {"model": "m", "strategies": "greedy, top_p"}
    found = parse(compare.CompareDecodingSettings, flags, ["top_p.p=0.5"])
    assert found.chosen == {"greedy": {}, "top_p": {"p": 0.5}}


@pytest.fixture
def trimtab(trimtab):
    return partial(trimtab, "compare-decoding")


@pytest.fixture(scope="module")
def page(folder, tmp_path_factory):
    root = tmp_path_factory.mktemp("page")
    rows = [{"text": f"<b>&amp; {i} goes on and on" + " word" * i} for i in range(6)]
    tiny_folder.write_jsonl(root / "texts.jsonl", rows)
    settings = asked(folder, root / "texts.jsonl", root / "page.html", max_new_tokens=12, prefix=8)
    compare.compare(settings, Console(quiet=True))
    return root / "page.html"


@pytest.mark.slow
def test_the_page_needs_no_network_and_holds_every_strategy_and_text(page):
    text = page.read_text()
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", text)
    assert "default-src 'none'" in text
    for name in (*compare.STRATEGIES, "human"):
        assert f'data-key="{name}"' in text
    assert "&lt;b&gt;&amp;amp;" in text
    assert "<b>&amp;" not in text
    assert "rep-4" in text
    assert "perplexity under" in text


def test_rows_and_measures_stand_beside_the_page(page):
    rows = [json.loads(line) for line in page.with_suffix(".jsonl").read_text().splitlines()]
    assert len(rows) == 6 * 11
    assert {row["strategy"] for row in rows} == {*compare.STRATEGIES, "human"}
    meta = json.loads(page.with_suffix(".meta.json").read_text())
    assert meta["signature"]["seed"] == "0"
    assert set(meta["measures"]["diversity"]) == {*compare.STRATEGIES, "human"}
    estimate, low, high = meta["measures"]["perplexity"]["sample"]
    assert low <= estimate <= high
    human = [row["perplexity"] for row in rows if row["strategy"] == "human"]
    assert meta["measures"]["perplexity"]["human"][0] == pytest.approx(
        math.exp(sum(map(math.log, human)) / len(human)), rel=1e-4
    )  # all have 12 tokens


@pytest.mark.slow
def test_the_command_prints_the_table_and_where_the_page_is(trimtab, folder, tmp_path):
    (tmp_path / "lines.txt").write_text("\n".join(PROMPTS))
    words = ["--model", folder, "--prompts", tmp_path / "lines.txt", "--out", tmp_path / "p.html"]
    words += ["--strategies", "greedy,adaptive", "--max-new-tokens", "5", "--number", "2", "adaptive.epsilon=0.01"]
    code, out, err = trimtab(*words)
    assert (code, err) == (0, ""), err
    assert f"page: {tmp_path}/p.html" in out
    assert re.search(r"^greedy +[\d.–]+", out, re.M)
    assert "signature: trimtab" in out
    code, _, err = trimtab(*words)
    assert code == 2
    assert "p.html exists; add --force" in err
    assert trimtab(*words, "--force")[0] == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--strategies", "greedy,adaptve"], "there is no decoding strategy 'adaptve'; did you mean 'adaptive'?"),
        (["--strategies", "realign"], "realign mixes two streams of logits and is chosen by a strength"),
        (["--strategies", "greedy", "adaptive.epsilon=0.1"], "a setting of adaptive, which is not selected"),
        (["adaptive.epsilon=1"], "decoding.epsilon is 1; it must be below 1"),
        (["adaptive.epsilom=1"], "decoding adaptive has no setting 'epsilom'; did you mean 'epsilon'?"),
        (["penalty.strength=0"], "decoding.strength is 0; it must be above 0"),
        (["penalty.window=-1"], "decoding.window is -1"),
        (["epsilon"], "'epsilon' is not a setting; write KEY=VALUE"),
        (["--prompts", "{tmp}/empty.txt"], "empty.txt holds no prompt"),
        (["--prompts", "{tmp}/bytes.txt"], "bytes.txt is UTF-16 text"),
        (["--prompts", "{tmp}/short.jsonl"], "holds no text of 160 tokens, 32 for the prompt and 128 to follow"),
        (["--prompts", "{tmp}/nowhere.jsonl"], "there is no file {tmp}/nowhere.jsonl"),
    ],
)
def test_a_mistake_costs_one_line_and_exit_code_2(trimtab, folder, tmp_path, words, message):
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\x00")
    tiny_folder.write_jsonl(tmp_path / "short.jsonl", [{"text": "abc"}])
    given = [word.format(tmp=tmp_path) for word in words]
    code, _, err = trimtab("--model", folder, "--out", tmp_path / "page.html", *given)
    assert (code, err.count("\n")) == (2, 1), err
    assert message.format(tmp=tmp_path) in err
    assert not (tmp_path / "page.html").exists()


def test_no_passage_is_no_comparison(tokenizer, tmp_path):
    tiny_folder.write_jsonl(tmp_path / "bad.jsonl", [{"answer": "abc"}])
    with pytest.raises(CompareError, match="row 1 has no text in a column 'prompt' or 'text'"):
        load_passages(str(tmp_path / "bad.jsonl"), tokenizer, 1, 1)

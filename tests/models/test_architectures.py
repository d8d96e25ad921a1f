"""Every causal language model class of transformers that has a tiny form: what works, and what is refused and why.

Four of them here; all of them among the slow tests, against the page that `scripts/architectures_page.py` writes.
"""

import importlib.util
from pathlib import Path

import pytest

import architectures
import tiny_folder
from trimtab.decoding._texts import generate_texts
from trimtab.methods import sft
from trimtab.models.loading import load_model
from trimtab.signals.base import call_plan

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reference" / "architectures.md"


def page_script():
    spec = importlib.util.spec_from_file_location("architectures_page", ROOT / "scripts" / "architectures_page.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("check", architectures.CHECKS)
@pytest.mark.parametrize("kind", ["llama", "gemma2", "mixtral", "qwen3_next"])
def test_all_works_on_a_dense_a_capped_a_mixture_and_a_hybrid_model(kind, check, tmp_path):
    found = architectures.verdict(kind, check, tmp_path)
    if (kind, check) == ("gemma2", "score") or found == "yes":
        return
    refusal = {"score": "transformers has no token classification model", "packs": "training.packing: the policy"}
    assert found.startswith(f"refused: {refusal[check]}"), found
    assert (kind, check) == ("qwen3_next", "packs") or check == "score"


def test_attention_that_chooses_a_number_of_tokens_takes_no_padding_for_one():
    architectures.check_generate("glm_moe_dsa")


@pytest.mark.parametrize("kind", ["gemma3", "gemma4", "got_ocr2"])
def test_a_model_that_sees_too_learns_and_answers_text(kind, tmp_path):
    whole = architectures.multimodal(kind)
    assert type(whole).__name__.endswith("ForConditionalGeneration")
    architectures.train(whole, sft)
    whole.train()  # some of these ask for more while they learn
    found = call_plan(sft.METHOD.build(sft.Config(), whole), whole, architectures.ROWS.inputs())
    assert found.loss is not None
    assert found.loss.isfinite()
    whole.eval()
    whole.save_pretrained(tmp_path)
    tiny_folder.byte_tokenizer().save_pretrained(tmp_path)
    again, tokenizer = load_model(str(tmp_path)), tiny_folder.byte_tokenizer()
    said = [one.text for one in generate_texts(again, tokenizer, architectures.PROMPTS, 5)]
    assert said == [generate_texts(again, tokenizer, [prompt], 5)[0].text for prompt in architectures.PROMPTS]


def test_every_class_of_transformers_is_on_the_page():
    text = PAGE.read_text(encoding="utf-8")
    missing = [kind for kind in architectures.TYPES if f"| `{kind}` |" not in text]
    assert not missing, f"python scripts/architectures_page.py writes the page anew; it lacks {missing}"


@pytest.mark.slow
@pytest.mark.parametrize("kind", architectures.TYPES)
def test_what_the_page_says_of_a_class_is_so(kind):
    (line,) = [one for one in PAGE.read_text(encoding="utf-8").splitlines() if one.startswith(f"| `{kind}` |")]
    assert page_script().line(kind) == line

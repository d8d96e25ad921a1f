"""Which tokens of a prompt are what messages say, and which the template's."""

import pytest

import tiny_folder
from trimtab.core import IGNORE
from trimtab.core.batch import ATTRIBUTED
from trimtab.data.collate import Collator
from trimtab.data.rows import prepare

SYSTEM = (
    "{% if messages[0]['role'] != 'system' %}<|user|>user says<|end|>{% endif %}" + tiny_folder.TEMPLATE
)  # a default text, as some templates begin with


def attributed(row: dict, template: str | None = tiny_folder.TEMPLATE, **how) -> list[str]:
    """For each sequence of the row the text of the tokens that maps are made of."""
    tokenizer = tiny_folder.byte_tokenizer(template)
    made = prepare([row], tokenizer, max_length=512, attributed=True, **how)
    texts = []
    for one in made.rows:
        assert len(one[ATTRIBUTED]) == len(one["input_ids"])
        assert not any(own and label != IGNORE for own, label in zip(one[ATTRIBUTED], one["labels"]))
        texts.append(tokenizer.decode([token for token, own in zip(one["input_ids"], one[ATTRIBUTED]) if own]))
    return texts


def said(role: str, content: str) -> dict:
    return {"role": role, "content": content}


@pytest.mark.parametrize("template", [tiny_folder.TEMPLATE, SYSTEM])
@pytest.mark.parametrize("question", ["user", "end", "assistant|>", "  Two words ", "ünï"])
def test_of_a_conversation_it_is_what_the_user_says(template, question):
    row = {"messages": [said("user", question), said("assistant", "yes")]}
    assert attributed(row, template) == [question]


def test_earlier_turns_of_the_user_and_the_system_are_said_and_answers_are_not():
    messages = [
        said("system", "Be brief."), said("user", "user"), said("assistant", "one"), said("user", "and"),
        said("assistant", "two"),
    ]  # fmt: skip
    assert attributed({"messages": messages}, turns="all") == ["Be brief.userand"]
    assert attributed({"messages": messages}, turns="each") == ["Be brief.user", "Be brief.userand"]
    # of an earlier answer that is not learnt the words are part of the prompt
    assert attributed({"messages": messages}, turns="last") == ["Be brief.useroneand"]


def test_a_template_that_trims_leaves_what_it_writes():
    template = tiny_folder.TEMPLATE.replace("m['content']", "(m['content'] | trim)")
    assert attributed({"messages": [said("user", "  go "), said("assistant", "yes")]}, template) == ["go"]


def test_of_plain_texts_it_is_the_prompt_and_of_a_text_alone_nothing():
    assert attributed({"prompt": "go <|user|>on", "completion": " yes"}, None) == ["go on"]
    assert attributed({"text": "go on"}, None) == [""]


def test_it_is_cut_with_the_row_and_padded_with_the_batch():
    tokenizer = tiny_folder.byte_tokenizer(None)
    rows = [{"prompt": "ab", "completion": "c" * 9}, {"prompt": "abcd", "completion": "e"}]
    made = prepare(rows, tokenizer, max_length=8, attributed=True)
    batch = Collator(0, 300, attributed=True)(made.rows)
    assert batch[ATTRIBUTED].tolist() == [[1, 1, 0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 0, 0, 0, 0]]
    assert ATTRIBUTED not in Collator(0, 300)(made.rows)
    assert ATTRIBUTED not in prepare(rows, tokenizer, max_length=8).rows[0]

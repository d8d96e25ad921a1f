"""Write docs/reference/rows.md: how rows become tokens and what is learnt, each rule with what the preview prints.

Tiny tokenizers and rows are written into a temporary folder, and the preview itself runs on them. With `--check`
nothing is written, and the exit code is 1 if the page is stale.
"""

import contextlib
import io
import json
import re
import sys
import tempfile
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
from rich.console import Console
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from pages import DOCS, command
from trimtab.commands.preview import preview_recipe
from trimtab.core.batch import IGNORE
from trimtab.data.rows import NO_END, PLAIN, REMARKS, Prepared
from trimtab.data.tokens import encode_prompts
from trimtab.models.loading import load_tokenizer
from trimtab.runs.parse import parse
from trimtab.runs.recipe import Recipe

SAID = {**REMARKS, "no_end": NO_END, "plain": PLAIN}
PAGE = DOCS / "reference" / "rows.md"
WIDTH = 90
MOMENT = "2024-02-29T12:00:00"
"""that templates write as today"""
TABLE_ENDS = ("answer tokens ", "tokens of prompts ")
VISIBLE = {"\ufeff": "‹BOM›", "\r": "‹CR›", "\u2028": "‹U+2028›"}
"""characters that nobody would see on the page"""
HEADER = f"""\
# What trimtab does with your rows

<!-- written by scripts/rows_page.py; change that script and run `make pages` -->

Each rule below comes with rows and with what `trimtab preview` prints for them: the text that the model reads, with
what it learns in ⟦ ⟧. In a terminal that is green, the rest grey. To see your own rows and your own model's template:

```bash
trimtab preview tiny_kd --rows 2    # or the path of your recipe in the place of tiny_kd
```

The preview ends with a table of counts, which is shown under [losses](#losses) here and left out elsewhere, and with
remarks: one line for [each thing](#what-is-said) that was done to some rows and that you should know of. A row that
cannot be used is refused in one line, which begins with "error:" here.

The tokenizers of this page know bytes and a few special tokens. Their chat templates are short ones, written in the
manner of well-known families; they stand [at the end of the page](#templates). Where none is named it is `chatml`.
In files and previews {", ".join(VISIBLE.values())} stand for characters that cannot be seen.
"""

# ---------------------------------------------------------------- templates

ASK = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}\n" + ASK
)
TOOLS = (
    """\
{% if tools %}{{ '<|im_start|>system\\nTools: ' + (tools | tojson) + '<|im_end|>\\n' }}{% endif %}
{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content }}
{% for c in m.tool_calls %}{{ '<call>' + c.function.name + (c.function.arguments | tojson) + '</call>' }}{% endfor %}
{{ '<|im_end|>\\n' }}{% endfor %}
"""
    + ASK
)
REWRITES = (
    """\
{% for m in messages %}{% set parts = m.content.split('</think>') %}
{% set thought = m.reasoning_content or (parts[0].split('<think>')[-1] | trim if parts | length > 1 else '') %}
{{ '<|im_start|>' + m.role + '\\n' }}
{% if m.role == 'assistant' and loop.last %}{{ '<think>\\n' + thought + '\\n</think>\\n\\n' }}{% endif %}
{{ (parts[-1] | trim) + '<|im_end|>\\n' }}{% endfor %}
"""
    + ASK
)
OPENS = """\
{% for m in messages %}
{{ '<|im_start|>' + m.role + '\\n' + (m.content.split('</think>')[-1] | trim) + '<|im_end|>\\n' }}{% endfor %}
{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n<think>\\n' }}{% endif %}"""
SWITCH = """\
{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}
{% if m.role == 'assistant' and loop.last %}
{{ '<think>\\n' + (m.reasoning_content or '') + '\\n</think>\\n\\n' }}{% endif %}
{{ m.content + '<|im_end|>\\n' }}{% endfor %}
{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n<think>\\n' }}
{% if not enable_thinking %}{{ '\\n</think>\\n\\n' }}{% endif %}{% endif %}"""
HASHES = """\
{% for m in messages %}{{ '### ' + m.role + '\\n' + m.content + '\\n\\n' }}{% endfor %}
{% if add_generation_prompt %}{{ '### assistant\\n' }}{% endif %}"""
TEMPLATES = {
    "chatml": ("ChatML: each message between a begin and an end, and nothing else", CHATML),
    "tools": ("ChatML with tools and their calls, as Qwen 2.5 and Hermes have it", TOOLS),
    "rewrites": ("as Qwen 3: a thought is written in the last turn alone, and an empty one if there is none", REWRITES),
    "opens": ("as R1: the prompt opens a thought, and no turn keeps its own", OPENS),
    "switch": ("as hybrid models: the prompt closes an empty thought unless `enable_thinking` is set", SWITCH),
    "dated": (
        "writes the date into the system message, as Llama 3 does",
        "{{ '<|im_start|>system\\nToday is ' + strftime_now('%d %B %Y') + '.<|im_end|>\\n' }}\n" + CHATML,
    ),
    "no_system": (
        "refuses a system message, as Gemma 2 does",
        "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}\n" + CHATML,
    ),
    "no_prompt": ("has no generation prompt", CHATML.removesuffix("\n" + ASK)),
    "shouts": ("changes texts", CHATML.replace("m.content", "m.content | upper")),
    "parts": (
        "reads content as a list of parts",
        CHATML.replace("m.content", "(m.content | map(attribute='text') | join)"),
    ),
    "hashes": ("no special token ends a turn", HASHES),
}
"""name -> what is special about it, and its source; line ends between its tags are left out when it is used"""

SPECIAL = ("<s>", "<|im_start|>", "<|im_end|>", "<|endoftext|>")


def tokenizer(template: str | None, merges: tuple[str, ...], begins: bool, end: str) -> PreTrainedTokenizerFast:
    """Bytes and the special tokens.

    Args:
        merges: pairs of bytes, as byte-level tokenizers write them, that grow together.
        begins: whether a text begins with <s>.
        end: what the tokenizer calls its end token.
    """
    words = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet()), *merges]
    built = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, [(pair[0], pair[1]) for pair in merges]))
    built.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    built.decoder = decoders.ByteLevel()
    built.add_special_tokens([AddedToken(word, special=True) for word in SPECIAL])
    if begins:
        built.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    made = PreTrainedTokenizerFast(tokenizer_object=built, bos_token="<s>", eos_token=end, pad_token=end)
    if template is not None:
        made.chat_template = re.sub(r"(?<=[}%]})\n(?=\{)", "", TEMPLATES[template][1])
    return made


# ---------------------------------------------------------------- examples


@dataclass(frozen=True)
class Example:
    """Rows, and how they are previewed."""

    rows: Any
    """one row, several, or the content of a file as text or bytes"""
    template: str | None = "chatml"
    words: str = ""
    """before the example"""
    file: str = "rows.jsonl"
    method: str = "sft"
    data: Mapping[str, Any] = field(default_factory=dict)
    """keys of the recipe's `data`"""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    """other keys"""
    merges: tuple[str, ...] = ()
    begins: bool = False
    end: str = "<|im_end|>"
    counts: bool = False
    """keep the table of counts"""
    tokens: bool = False
    """also show the tokens, beside those with which the model is asked"""
    rows_are_shown: bool = True


@dataclass(frozen=True)
class Shown:
    """What came of an example."""

    text: str
    remarks: frozenset[str]


def try_out(example: Example) -> Shown:
    """What the preview prints, in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        made = tokenizer(example.template, example.merges, example.begins, example.end)
        made.save_pretrained("model")
        Path("model/config.json").write_text('{"model_type": "llama"}', encoding="utf-8")
        Path("run").mkdir()
        Path("run/signature.txt").write_text(f"chat date: {MOMENT}\n", encoding="utf-8")
        _write(Path(example.file), example.rows)
        tree = {
            "method": example.method,
            "models": {"student": "model"},
            "data": {"train": example.file, **example.data},
            "output": "run",
            **example.recipe,
        }
        recipe, out = parse(tree, "recipe.yaml", "rows"), io.StringIO()
        assert isinstance(recipe, Recipe)
        prepared = None
        try:
            prepared = preview_recipe(recipe, 9, "train", Console(file=out, width=WIDTH, color_system=None))
        except ValueError as error:
            out.write(f"error: {error}\n")
        lines = [line.rstrip() for line in out.getvalue().split("\n")]
        lines = lines if example.counts else list(_without_counts(lines, example.file))
        if example.tokens:
            assert prepared is not None
            lines = ["\n".join(lines).rstrip("\n"), "", *_tokens(prepared, example.rows)]
    remarks = {what for what, words in SAID.items() if any(words in line for line in lines)}
    return Shown("\n".join(lines).strip("\n"), frozenset(remarks))


def _write(path: Path, rows: Any) -> None:
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif isinstance(rows, (str, bytes)):
        path.write_bytes(rows.encode() if isinstance(rows, str) else rows)
    else:
        several = rows if isinstance(rows, list) else [rows]
        path.write_text("".join(json.dumps(row) + "\n" for row in several), encoding="utf-8")


def _without_counts(lines: list[str], source: str) -> Iterator[str]:
    inside = False
    for line, after in zip(lines, [*lines[1:], ""]):
        inside = inside or (line == source and after.startswith("what "))
        if not inside:
            yield line
        inside = inside and not line.startswith(TABLE_ENDS)


def _tokens(prepared: Prepared, row: Mapping[str, Any]) -> Iterator[str]:
    """The tokens of a row, and before them those with which the model is asked, which must be their beginning."""
    made = load_tokenizer("model")
    plain = "prompt" in row
    prompt = row["prompt"] if plain else row["messages"][:-1]
    asked = encode_prompts(made, [prompt], plain=plain)["input_ids"][0].tolist()
    ids, labels = prepared.rows[-1]["input_ids"], prepared.rows[-1]["labels"]
    assert ids[: len(asked)] == asked
    first = next(i for i, label in enumerate(labels) if label != IGNORE)
    words = made.convert_ids_to_tokens(ids)
    yield f"asked with:  {' '.join(made.convert_ids_to_tokens(asked))}"
    yield f"trained on:  {' '.join(words[:first])} ⟦{' '.join(words[first:])}⟧"


# ---------------------------------------------------------------- the page as text


@dataclass(frozen=True)
class Rule:
    title: str
    words: str
    examples: tuple[Example, ...] = ()


def page() -> str:
    """The whole page as text; the same for the same rules."""
    written, said = [], {}
    for section, rules in RULES.items():
        written.append(f"## {section}\n")
        for rule in rules:
            found = [try_out(example) for example in rule.examples]
            said |= {what: rule.title for one in found for what in sorted(one.remarks) if what not in said}
            written.append(_rule(rule, found))
    missing = SAID.keys() - said.keys()
    assert not missing, f"no rule shows the remarks {', '.join(sorted(missing))}"
    return "\n".join([HEADER, _contents(), *written, _remarks(said), _templates()])


def _contents() -> str:
    lines = [
        f"- [{section}](#{anchor(section)}): "
        + ", ".join(f"[{_low(rule.title)}](#{anchor(rule.title)})" for rule in rules)
        for section, rules in RULES.items()
    ]
    return "\n".join([*lines, "- [What is said](#what-is-said)", "- [Templates](#templates)"]) + "\n"


def _low(title: str) -> str:
    """A title within a sentence."""
    return title if re.match("[A-Z]{2}", title) else title[0].lower() + title[1:]


def anchor(title: str) -> str:
    """Of a heading, as GitHub makes them."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def _rule(rule: Rule, found: list[Shown]) -> str:
    parts = [f"### {rule.title}\n", _prose(rule.words)]
    for example, shown in zip(rule.examples, found):
        named = f"Template `{example.template}`:" if example.template not in ("chatml", None) else ""
        words = " ".join(filter(None, [example.words, named]))
        parts += [_prose(words)] if words else []
        parts += [_fenced(*_source(example))] if example.rows_are_shown else []
        parts.append(_fenced("text", shown.text))
    return "\n".join(parts)


def _prose(words: str) -> str:
    return "\n".join(textwrap.wrap(words, 118, break_long_words=False, break_on_hyphens=False)) + "\n"


def _source(example: Example) -> tuple[str, str]:
    rows = example.rows.decode() if isinstance(example.rows, bytes) else example.rows
    if isinstance(rows, str):
        return ("csv" if example.file.endswith(".csv") else "text"), rows.rstrip("\n")
    return "json", "\n".join(_as_json(row) for row in (rows if isinstance(rows, list) else [rows]))


def _as_json(value: Any, indent: int = 0) -> str:
    """JSON on one line, or with one member a line where that is too long."""
    flat = json.dumps(value, ensure_ascii=False)
    if len(flat) + indent <= 110 or not isinstance(value, (dict, list)):
        return flat
    inner = " " * (indent + 2)
    if isinstance(value, dict):
        members = [f"{inner}{json.dumps(key)}: {_as_json(one, indent + 2)}" for key, one in value.items()]
    else:
        members = [inner + _as_json(one, indent + 2) for one in value]
    sides = "{}" if isinstance(value, dict) else "[]"
    return f"{sides[0]}\n" + ",\n".join(members) + f"\n{' ' * indent}{sides[1]}"


def _fenced(language: str, text: str) -> str:
    for sign, shown in VISIBLE.items():
        text = text.replace(sign, shown)
    return f"```{language}\n{text}\n```\n"


def _remarks(said: Mapping[str, str]) -> str:
    lines = [
        "## What is said\n",
        "Of rows that are kept, but not quite as one might think, `preview` and `train` print a line for each kind",
        "below, with the number of such rows and the first of them.\n",
        "| remark | shown under |",
        "| --- | --- |",
        *(f"| rows {words} | [{said[what]}](#{anchor(said[what])}) |" for what, words in SAID.items()),
    ]
    return "\n".join(lines) + "\n"


def _templates() -> str:
    parts = ["## Templates\n", "Line ends between two tags are left out.\n"]
    for name, (words, source) in TEMPLATES.items():
        parts += [f"`{name}`: {words}.\n", _fenced("jinja", source)]
    return "\n".join(parts)


# ---------------------------------------------------------------- the rules


def user(text: Any, **more: Any) -> dict[str, Any]:
    return {"role": "user", "content": text, **more}


def said(text: Any, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **more}


def called(content: Any, arguments: Any) -> dict[str, Any]:
    return said(content, tool_calls=[{"type": "function", "function": {"name": "rain", "arguments": arguments}}])


def chat(*messages: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"messages": list(messages), **more}


RAIN = {"type": "function", "function": {"name": "rain", "parameters": {"type": "object", "properties": {}}}}
CALL = called("", {"city": "Rome"})
REPLY = {"role": "tool", "content": "12 mm"}
TWO = chat(user("2 + 2?"), said("4"), user("3 + 3?"), said("6"))
THOUGHTS = chat(
    user("2 + 2?"), said("<think>\neasy\n</think>\n\n4"), user("3 + 3?"), said("<think>\nalso easy\n</think>\n\n6")
)
DPO = {"method": "dpo", "recipe": {}}
NUMBERS = [
    {"prompt": "Q: one?\nA:", "completion": " 1"},
    {"prompt": "Q: many?\nA:", "completion": " 1 2 3 4 5 6"},
    {"prompt": "Q: how many are too many?\nA:", "completion": " 9"},
    {"prompt": "Q: none?\nA:", "completion": ""},
]

RULES: dict[str, list[Rule]] = {
    "Rows": [
        Rule(
            "Texts",
            "Of a `text` everything is learnt but its first token, which nothing predicts. Of `prompt` and "
            "`completion` as texts only the completion is learnt. The two are joined as they are, and the end token "
            "is added. No chat template is used, which is said where the model has one: give messages, or set "
            "`data.chat: true`: then the prompt is what a user says, and the completion what the assistant answers.",
            (
                Example({"text": "Rain falls."}),
                Example({"prompt": "Q: 2 + 2?\nA:", "completion": " 4"}),
                Example({"prompt": "2 + 2?", "completion": "4"}, data={"chat": True}, words="With `data.chat: true`:"),
            ),
        ),
        Rule(
            "Conversations",
            "`messages` are written by the model's chat template, and every turn of the assistant is learnt up to its "
            "end token. With `prompt` and `completion` as lists of messages, only the assistant's turns in the "
            "completion are. A text beside messages becomes a message of its own. A message in which the assistant "
            "says and does nothing is not learnt.",
            (
                Example(chat({"role": "system", "content": "Be brief."}, user("2 + 2?"), said("4"))),
                Example({"prompt": [user("2 + 2?"), said("4"), user("3 + 3?")], "completion": [said("6")]}),
            ),
        ),
        Rule(
            "Other formats",
            "Preferences have `chosen` and `rejected` ([below](#preferences)); methods that do not compare learn the "
            "chosen answer. Answers with a `label` say whether they are right: 1 or true, 0 or false. Stepwise rows "
            "have `prompt`, `completions` (the steps of one answer, joined by line ends) and `labels`, one for each "
            "step: true or false, or -1, 0 or 1. For methods that learn from their own answers a row needs a question "
            "alone; its other columns go to the reward.",
            (
                Example(
                    {
                        "prompt": [user("2 + 3 * 4?")],
                        "completions": ["3 * 4 = 12", "2 + 12 = 15"],
                        "labels": [True, False],
                    },
                    method="reward_model",
                    recipe={"options": {"kind": "step_prm"}},
                ),
                Example({"prompt": "2 + 2?", "answer": "4"}, method="grpo", recipe={"reward": "exact"}),
            ),
        ),
        Rule(
            "Which columns count",
            "Where a row has the columns of several formats, the first of these is taken: `chosen`, `messages` unless "
            "null, `prompt` with `completion`, `text`. `tools` and `chat_template_kwargs` reach the template. Other "
            "columns are left alone. A row of no known format is refused.",
            (Example({"question": "2 + 2?", "reply": "4"}),),
        ),
    ],
    "Files": [
        Rule(
            "Kinds of files",
            "`.jsonl`, `.json` (a list), `.csv`, `.tsv` and `.parquet` files are read, all but the last also with "
            "`.gz` behind the name; anything else is the name of a dataset on the hub. Text is UTF-8, with or without "
            "a byte order mark. A line ends at a line feed, with or without a carriage return before it, and nowhere "
            "else: U+2028 and its kin stay in their text. Columns may mix types, and rows need not have the same "
            "columns.",
            (
                Example('\ufeff{"prompt": "one\u2028two", "completion": " three"}\r\n{"text": "four"}\r\n'),
                Example(
                    '{"text": "four"}\n'.encode("utf-16"), rows_are_shown=False, words="A file in UTF-16 is refused:"
                ),
            ),
        ),
        Rule(
            "JSON",
            "A line that is no JSON, a key that an object has twice, and half of a surrogate pair are refused with "
            "their place.",
            (
                Example('{"text": "one"}\n{"text": "two"\n'),
                Example('{"text": "one", "text": "two"}\n'),
                Example('{"text": "one \\ud83d"}\n'),
            ),
        ),
        Rule(
            "CSV",
            "The first line names the columns. Cells are texts, and keep commas, quotes, spaces and line ends where "
            "they are quoted. Semicolons or tabs part them where the first line has no comma, and so does what `sep=` "
            "says. Empty lines and empty cells without a column do not count; a column without a name, such as "
            'pandas\' index, is called "Unnamed: 0".',
            (
                Example('prompt;completion\n"say ""yes"", or no:";yes\n', file="rows.csv"),
                Example(
                    "prompt,completion\nhello,one, two\n",
                    file="rows.csv",
                    words="What cannot be read for certain is refused:",
                ),
                Example('prompt,completion\nhello,"one\nho,two\n', file="rows.csv"),
                Example("prompt,completion,completion\nhello,one,two\n", file="rows.csv"),
            ),
        ),
        Rule(
            "Lists and labels in CSV",
            "Cells of `messages`, `completions`, `labels`, `tools`, `chat_template_kwargs` and `options` are read as "
            "JSON, or as Python writes lists, where they begin with a bracket. Cells of all other columns stay texts, "
            "those of `prompt`, `completion`, `chosen` and `rejected` too: give lists of messages there as JSON "
            "lines. A `label` may be 1, 0, 1.0, true or FALSE, and nothing else.",
            (
                Example(
                    "messages\n\"[{'role': 'user', 'content': '2 + 2?'}, {'role': 'assistant', 'content': '4'}]\"\n",
                    file="rows.csv",
                ),
                Example(
                    "prompt,completion,label\n2 + 2?,4,TRUE\n2 + 2?,5,maybe\n",
                    file="rows.csv",
                    method="ipvrm",
                ),
            ),
        ),
        Rule(
            "Parquet and the hub",
            "Arrow gives every object of a column the keys of all, with null for what it does not have. These nulls "
            "are taken out again, so that no call has arguments that nobody wrote. Nulls of columns and in lists "
            "stay. Dates become ISO texts, decimals numbers, and bytes texts.",
            (
                Example(
                    [
                        chat(user("Rain in Rome?"), called("", {"city": "Rome"})),
                        chat(user("What time is it?"), called("", {"zone": "CET"})),
                    ],
                    "tools",
                    file="rows.parquet",
                ),
            ),
        ),
    ],
    "Tokens": [
        Rule(
            "One tokenisation",
            "A row is one text, and is tokenised as a whole. What the model is asked with, in training, evaluations, "
            "rollouts and `generate`, is the beginning of it, token by token.",
            (Example(chat(user("2 + 2?"), said("4")), tokens=True),),
        ),
        Rule(
            "A seam",
            "Some tokenizers join the end of a prompt with the beginning of its answer into one token, such as a "
            "space and the letter behind it. The model never meets that token when it is asked. So the prompt keeps "
            "its own tokens, the answer is tokenised as it goes on behind them, and that is said.",
            (
                Example({"prompt": "Q: why? A: ", "completion": "so it is"}, merges=("Ġs", "Ġi"), tokens=True),
                Example(
                    {"prompt": "Q: why? A:", "completion": " so it is"},
                    merges=("Ġs", "Ġi"),
                    tokens=True,
                    words="With the space in the answer there is nothing to part:",
                ),
            ),
        ),
        Rule(
            "Begin and end, once",
            "A plain text begins as the tokenizer begins texts and ends with its end token. Where the row holds these "
            "already, they are not written twice. Begin and end of a conversation are the template's alone.",
            (
                Example({"prompt": "Q: 2 + 2?\nA:", "completion": " 4"}, begins=True),
                Example({"prompt": "<s>Q: 2 + 2?\nA:", "completion": " 4<|im_end|>"}, begins=True),
                Example(chat(user("2 + 2?"), said("4<|im_end|>")), begins=True),
            ),
        ),
        Rule(
            "The end of an answer",
            "An answer is learnt up to and with its end token, and what the template writes behind it (here a line "
            "end) is not. End tokens are the tokenizer's and the one with which the chat template ends an answer, "
            "though the tokenizer may call another one its end, as those of base models do: here `<|endoftext|>`.",
            (
                Example(chat(user("2 + 2?"), said("4")), end="<|endoftext|>"),
                Example(
                    chat(user("2 + 2?"), said("4")),
                    "hashes",
                    words="Where no end token follows, the row is kept, and that is said.",
                    rows_are_shown=False,
                ),
            ),
        ),
    ],
    "Turns": [
        Rule(
            "Several turns in one row",
            "Where the template writes a conversation so that each turn still stands as the model wrote it, behind "
            "what the model was asked with, one row holds all turns and all are learnt. This is `data.turns: auto`, "
            "the default.",
            (Example(TWO),),
        ),
        Rule(
            "Templates that rewrite earlier turns",
            "Some templates take the thoughts out of earlier turns, so no single text holds every turn as it was "
            "written. With `auto` such a conversation becomes a row for each turn, rendered as when the model is "
            "asked, and that is said.",
            (Example(THOUGHTS, "rewrites"),),
        ),
        Rule(
            "data.turns",
            "`each` makes a row for each turn of any conversation, `last` learns the last turn alone, and `all` keeps "
            "one row with earlier turns as the template writes them in the end. The two answers of a preference are "
            "one row each whatever is set. Here is the first conversation above with `each` and with `last`, then the "
            "second with `all`.",
            (
                Example(TWO, data={"turns": "each"}, words="`each`:", rows_are_shown=False),
                Example(TWO, data={"turns": "last"}, words="`last`:", rows_are_shown=False),
                Example(THOUGHTS, "rewrites", data={"turns": "all"}, words="`all`:", rows_are_shown=False),
            ),
        ),
    ],
    "Tools": [
        Rule(
            "Calls and replies",
            "A call is an answer and is learnt; what a tool replies is not. `tools` reach the template, as a list or "
            "as its JSON.",
            (Example(chat(user("Rain in Rome?"), CALL, REPLY, said("Yes."), tools=[RAIN]), "tools"),),
        ),
        Rule(
            "Forms of calls",
            "The content beside a call may be empty, null or absent. Arguments may be an object or its JSON, and the "
            "call may stand under `function` or by itself. All give the same tokens: the template gets the form that "
            "it writes whole.",
            (
                Example(
                    [
                        chat(user("Rain in Rome?"), called(None, '{"city": "Rome"}')),
                        chat(
                            user("Rain in Rome?"),
                            {"role": "assistant", "tool_calls": [{"name": "rain", "arguments": {"city": "Rome"}}]},
                        ),
                    ],
                    "tools",
                ),
            ),
        ),
        Rule(
            "Calls that the template does not write",
            "Many templates know nothing of tools. A turn that only calls one would then be learnt as an empty "
            "answer. It is not learnt, and that is said; the other turns are.",
            (Example(chat(user("Rain in Rome?"), CALL, REPLY, said("Yes."))),),
        ),
    ],
    "Thoughts": [
        Rule(
            "Thoughts are part of the answer",
            "A thought may stand in the content, between `<think>` and `</think>`, or under `reasoning_content`, "
            "`thinking` or `reasoning`. What the template writes of it is learnt.",
            (Example(chat(user("2 + 2?"), said("4", reasoning_content="easy")), "rewrites"),),
        ),
        Rule(
            "A prompt that opens the thought",
            "Where the prompt ends with `<think>`, the answer begins inside the thought. It is learnt from there, "
            "though the template itself drops the thoughts of finished turns.",
            (Example(chat(user("2 + 2?"), said("<think>\neasy\n</think>\n\n4")), "opens"),),
        ),
        Rule(
            "An answer without a thought",
            "Where the prompt opens a thought and the row has none, the model learns to close it at once, and that is "
            "said.",
            (Example(chat(user("2 + 2?"), said("4")), "opens"),),
        ),
        Rule(
            "A switch for thoughts",
            "Where the prompt closes an empty thought and the row holds one, or the reverse, the template is asked "
            "again with its switch (`enable_thinking` or `thinking`) turned, and that is said.",
            (
                Example(chat(user("2 + 2?"), said("4")), "switch"),
                Example(chat(user("2 + 2?"), said("4", reasoning_content="easy")), "switch"),
            ),
        ),
        Rule(
            "Thoughts that are not written",
            "A switch that the row itself sets under `chat_template_kwargs` is kept. A thought that then has no "
            "place, or of which the template knows nothing, is not learnt, and that is said.",
            (
                Example(
                    chat(
                        user("2 + 2?"),
                        said("4", reasoning_content="easy"),
                        chat_template_kwargs={"enable_thinking": False},
                    ),
                    "switch",
                ),
                Example(chat(user("2 + 2?"), said("4", reasoning_content="easy"))),
            ),
        ),
    ],
    "What templates do": [
        Rule(
            "Dates",
            "Where a template writes today's date, it writes one moment in the whole run. That moment stands in the "
            "run's `signature.txt` and beside stored columns, so a run that is resumed after midnight has the same "
            "tokens.",
            (Example(chat(user("2 + 2?"), said("4")), "dated"),),
        ),
        Rule(
            "Refusals",
            "A template that refuses a role or an order of roles costs one line with the row and the template's own "
            "words. So do messages without a template.",
            (
                Example(chat({"role": "system", "content": "Be brief."}, user("2 + 2?"), said("4")), "no_system"),
                Example(chat(user("2 + 2?"), said("4")), None, rows_are_shown=False, words="Without a template:"),
            ),
        ),
        Rule(
            "No generation prompt",
            "Some templates do not write the header of the next turn when the model is asked. The model has to write "
            "it itself, so it is learnt, and that is said.",
            (Example(chat(user("2 + 2?"), said("4")), "no_prompt"),),
        ),
        Rule(
            "Content in parts, and other keys",
            "Content may be a list of parts of text. A template that reads texts gets them joined, and one that reads "
            "parts gets every text as a part. Images and other parts are refused. Further keys of a message, such as "
            "`name`, reach the template; keys that are null do not.",
            (
                Example(
                    chat(user([{"type": "text", "text": "2 "}, {"type": "text", "text": "+ 2?"}]), said("4")), "chatml"
                ),
                Example(chat(user("2 + 2?"), said("4")), "parts"),
                Example(chat(user([{"type": "image", "image": "cat.png"}]), said("A cat."))),
            ),
        ),
        Rule(
            "Texts that come out otherwise",
            "What is learnt is what the template writes. If that is not what the row says, save for white space at "
            "its ends, it is said.",
            (Example(chat(user("2 + 2?"), said("four")), "shouts"),),
        ),
    ],
    "Preferences": [
        Rule(
            "Where the prompt stands",
            "The prompt of two answers may stand beside them, as a text or as messages, or at the beginning of both. "
            "The prompt is written once.",
            (
                Example({"prompt": "2 + 2?", "chosen": [said("4")], "rejected": [said("5")]}, **DPO),
                Example(
                    {"chosen": [user("2 + 2?"), said("4")], "rejected": [user("2 + 2?"), said("5")]},
                    words="The same of:",
                    **DPO,
                ),
                Example(
                    {"prompt": "2 + 2 =", "chosen": " 4", "rejected": " 5"},
                    words="If all three are texts, no template is used:",
                    **DPO,
                ),
            ),
        ),
        Rule(
            "Two questions",
            "Answers that are compared belong to one question. Conversations that part at anything but an answer are "
            "refused, and so is a prompt of which it is not clear where it belongs.",
            (
                Example({"chosen": [user("2 + 2?"), said("4")], "rejected": [user("2 + 3?"), said("4")]}, **DPO),
                Example(
                    {
                        "prompt": "You count well.",
                        "chosen": [user("2 + 2?"), said("4")],
                        "rejected": [user("2 + 2?"), said("5")],
                    },
                    **DPO,
                ),
            ),
        ),
    ],
    "Losses": [
        Rule(
            "What is lost",
            "A row longer than `training.max_length` (1024 tokens if you say nothing) loses the end of its answer: it "
            "is kept and counted as truncated. A row whose prompt alone fills the limit is dropped, and so is one "
            "without an answer. Each is counted, with the first row. A conversation that became several rows is "
            "counted as so many.",
            (Example(NUMBERS, recipe={"training": {"max_length": 20}}, data={"max_dropped": 1}, counts=True),),
        ),
        Rule(
            "Two answers that are the same",
            "They teach nothing to a method that compares them, and are dropped and counted; also where they are the "
            "same only after truncation.",
            (
                Example(
                    [
                        {"prompt": "2 + 2 =", "chosen": " 4", "rejected": " 4"},
                        {"prompt": "2 + 3 =", "chosen": " 5", "rejected": " 4"},
                    ],
                    data={"max_dropped": 0.5},
                    counts=True,
                    **DPO,
                ),
            ),
        ),
        Rule(
            "data.max_dropped",
            "Where more than this share of the rows would be lost, training refuses to start, and the preview ends "
            "with the same line. The share is 1 % if you say nothing.",
            (
                Example(
                    [{"prompt": "2 + 2 =", "completion": " 4"}, {"prompt": "2 + 3 =", "completion": None}],
                ),
            ),
        ),
    ],
}


if __name__ == "__main__":
    sys.exit(command(PAGE, page, __file__))

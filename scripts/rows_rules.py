"""The rules of the page of rows: formats, files, tokens and turns."""

from rows_examples import THOUGHTS, TWO, Example, Rule, called, chat, said, user

RULES: dict[str, list[Rule]] = {
    "Rows": [
        Rule(
            "Plain texts",
            "In a `text` everything is trained on but the first token, which nothing predicts. With "
            "`prompt` and `completion` as texts only the completion is. The two are joined as they are, "
            "and the end token is added. No chat template is used; if the model has one, a remark says "
            "so. Use messages instead, or set `data.chat: true`: the prompt is then what a user says, and "
            "the completion what the assistant answers.",
            (
                Example({"text": "Rain falls."}),
                Example({"prompt": "Q: 2 + 2?\nA:", "completion": " 4"}),
                Example({"prompt": "2 + 2?", "completion": "4"}, data={"chat": True}, words="With `data.chat: true`:"),
            ),
        ),
        Rule(
            "Conversations",
            "`messages` go through the model's chat template, and every turn of the assistant is trained "
            "on, up to its end token. With `prompt` and `completion` as lists of messages, only the "
            "assistant's turns in the completion are. A text beside messages becomes a message of its "
            "own. A message in which the assistant says and does nothing is not trained on.",
            (
                Example(chat({"role": "system", "content": "Be brief."}, user("2 + 2?"), said("4"))),
                Example({"prompt": [user("2 + 2?"), said("4"), user("3 + 3?")], "completion": [said("6")]}),
            ),
        ),
        Rule(
            "Other formats",
            "Preferences have `chosen` and `rejected` ([below](#preferences)); methods that do not "
            "compare train on the chosen answer. Labelled answers have a `label` for correct or not: 1 or "
            "true, 0 or false. Stepwise rows have `prompt`, `completions` (the steps of one answer, "
            "joined by newlines) and `labels`, one for each step: true or false, or -1, 0 or 1. For RL a "
            "row needs only a prompt; its other columns go to the reward.",
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
            "If a row has the columns of several formats, the first of these is used: `chosen`, "
            "`messages` unless null, `prompt` with `completion`, `text`. `tools` and "
            "`chat_template_kwargs` go to the template. Other columns are ignored. A row of no known "
            "format is refused.",
            (Example({"question": "2 + 2?", "reply": "4"}),),
        ),
    ],
    "Files": [
        Rule(
            "File formats",
            "`.jsonl`, `.json` (a list), `.csv`, `.tsv` and `.parquet` files are read, all but the last "
            "also with `.gz` at the end of the name; anything else is the name of a dataset on the hub. "
            "Text is UTF-8, with or without a byte order mark. A line ends at a line feed, with or "
            "without a carriage return before it, and nowhere else: U+2028 and its kin stay in their "
            "text. Columns may mix types, and rows need not have the same columns.",
            (
                Example('\ufeff{"prompt": "one\u2028two", "completion": " three"}\r\n{"text": "four"}\r\n'),
                Example(
                    '{"text": "four"}\n'.encode("utf-16"), rows_are_shown=False, words="A file in UTF-16 is refused:"
                ),
            ),
        ),
        Rule(
            "Parts",
            "`rows.jsonl[10%:55%]` is the part of a file from a tenth of its rows to 55 % of them, and "
            "`rows.jsonl[100:]` all rows but the first hundred, in their order: shuffle a file that is sorted. "
            "Parts that meet, such as `[:10%]`, `[10%:55%]` and `[55%:]`, hold each row once. Bounds in percent are "
            "rounded to a row as in the datasets library, which reads those of a hub id (`ORG/NAME:train[:10%]`). "
            "On the command line and within braces such a source stands in quotes.",
            (
                Example(
                    [{"text": word} for word in ("one", "two", "three", "four")],
                    data={"train": "rows.jsonl[50%:]"},
                    words="With `data.train: rows.jsonl[50%:]` row 1 is the third of the file:",
                ),
            ),
        ),
        Rule(
            "JSON",
            "A line that is not JSON, a key that occurs twice in an object, and half of a surrogate pair "
            "are refused with their place.",
            (
                Example('{"text": "one"}\n{"text": "two"\n'),
                Example('{"text": "one", "text": "two"}\n'),
                Example('{"text": "one \\ud83d"}\n'),
            ),
        ),
        Rule(
            "CSV",
            "The first line names the columns. Cells are texts, and keep commas, quotes, spaces and line "
            "ends where they are quoted. The delimiter is a semicolon or a tab if the first line has no "
            "comma, or what a `sep=` line says. Empty lines, and empty cells without a column, do not "
            'count; a column without a name, such as pandas\' index, is called "Unnamed: 0".',
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
            "Cells of `messages`, `completions`, `labels`, `tools`, `chat_template_kwargs`, `options`, `rationales` "
            "and `indices` that begin with a bracket are read as JSON, or as Python writes lists. Cells of all other "
            "columns stay texts, those of `prompt`, `completion`, `chosen` and `rejected` too: put lists "
            "of messages into JSON lines. A `label` may be 1, 0, 1.0, true or FALSE, and nothing else.",
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
            "Arrow gives every object in a column the keys of all others, with null where it had none. "
            "These nulls are removed again, so that no tool call gets arguments that nobody wrote. Nulls "
            "in columns and in lists stay. Dates become ISO texts, decimals numbers, and bytes texts.",
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
            "A row is one text and is tokenised as a whole. What the model is prompted with, in training, "
            "evaluations, rollouts and `generate`, is the beginning of it, token by token.",
            (Example(chat(user("2 + 2?"), said("4")), tokens=True),),
        ),
        Rule(
            "Tokens across prompt and answer",
            "Some tokenizers merge the end of a prompt and the beginning of its answer into one token, "
            "such as a space and the letter after it. A model that is prompted never sees that token. So "
            "the prompt keeps its own tokens, the answer is tokenised as a continuation of them, and a "
            "remark says so.",
            (
                Example({"prompt": "Q: why? A: ", "completion": "so it is"}, merges=("Ġs", "Ġi"), tokens=True),
                Example(
                    {"prompt": "Q: why? A:", "completion": " so it is"},
                    merges=("Ġs", "Ġi"),
                    tokens=True,
                    words="With the space in the answer nothing is merged:",
                ),
            ),
        ),
        Rule(
            "Begin and end tokens, once",
            "A plain text gets the begin token that the tokenizer adds, and its end token. If the row has "
            "these already, they are not added again. In conversations begin and end are up to the "
            "template.",
            (
                Example({"prompt": "Q: 2 + 2?\nA:", "completion": " 4"}, begins=True),
                Example({"prompt": "<s>Q: 2 + 2?\nA:", "completion": " 4<|im_end|>"}, begins=True),
                Example(chat(user("2 + 2?"), said("4<|im_end|>")), begins=True),
            ),
        ),
        Rule(
            "The end of an answer",
            "An answer is trained on up to and including its end token; what the template adds after it "
            "(here a newline) is not. End tokens are the tokenizer's, and the one with which the chat "
            "template ends an answer. They may differ, as with base models: here the tokenizer's is "
            "`<|endoftext|>`.",
            (
                Example(chat(user("2 + 2?"), said("4")), end="<|endoftext|>"),
                Example(
                    chat(user("2 + 2?"), said("4")),
                    "hashes",
                    words="If no end token follows, the row is kept, and a remark says so.",
                    rows_are_shown=False,
                ),
            ),
        ),
    ],
    "Turns": [
        Rule(
            "Several turns in one row",
            "If the template renders a conversation so that each turn stands there as the model wrote it, "
            "after what the model was prompted with, one row holds all turns and all are trained on. This "
            "is `data.turns: auto`, the default.",
            (Example(TWO),),
        ),
        Rule(
            "Templates that rewrite earlier turns",
            "Some templates remove the thoughts from earlier turns, so no single text holds every turn as "
            "it was written. With `auto` such a conversation becomes one row for each turn, rendered as "
            "when the model is prompted, and a remark says so.",
            (Example(THOUGHTS, "rewrites"),),
        ),
        Rule(
            "data.turns",
            "`each` makes one row for each turn of any conversation, `last` trains on the last turn "
            "alone, and `all` keeps one row, with earlier turns as the template renders them at the end. "
            "The two answers of a preference are one row each in any case. Here is the first conversation "
            "above with `each` and with `last`, then the second with `all`.",
            (
                Example(TWO, data={"turns": "each"}, words="`each`:", rows_are_shown=False),
                Example(TWO, data={"turns": "last"}, words="`last`:", rows_are_shown=False),
                Example(THOUGHTS, "rewrites", data={"turns": "all"}, words="`all`:", rows_are_shown=False),
            ),
        ),
    ],
}

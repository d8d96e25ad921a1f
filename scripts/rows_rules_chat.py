"""The rules of the page of rows: tools, thoughts, templates, preferences, and what is dropped."""

from rows_examples import CALL, DPO, MCC, NUMBERS, RAIN, REPLY, Example, Rule, called, chat, said, user

RULES: dict[str, list[Rule]] = {
    "Tools": [
        Rule(
            "Calls and replies",
            "A tool call is part of the answer and is trained on; the tool's reply is not. `tools` go to "
            "the template, as a list or as its JSON.",
            (Example(chat(user("Rain in Rome?"), CALL, REPLY, said("Yes."), tools=[RAIN]), "tools"),),
        ),
        Rule(
            "Forms of calls",
            "The content beside a call may be empty, null or absent. Arguments may be an object or its "
            "JSON, and the call may be under `function` or by itself. All give the same tokens: the "
            "template gets the form that it renders completely.",
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
            "Calls that the template ignores",
            "Many templates do not know tools. A turn that only calls one would then be trained on as an "
            "empty answer. It is not, and a remark says so; the other turns are.",
            (Example(chat(user("Rain in Rome?"), CALL, REPLY, said("Yes."))),),
        ),
    ],
    "Thoughts": [
        Rule(
            "Thoughts are part of the answer",
            "A thought may be in the content, between `<think>` and `</think>`, or under "
            "`reasoning_content`, `thinking` or `reasoning`. What the template renders of it is trained "
            "on.",
            (Example(chat(user("2 + 2?"), said("4", reasoning_content="easy")), "rewrites"),),
        ),
        Rule(
            "A prompt that opens the thought",
            "If the prompt ends with `<think>`, the answer begins inside the thought. It is trained on "
            "from there, although the template itself drops the thoughts of finished turns.",
            (Example(chat(user("2 + 2?"), said("<think>\neasy\n</think>\n\n4")), "opens"),),
        ),
        Rule(
            "An answer without a thought",
            "If the prompt opens a thought and the row has none, the model learns to close it at once, "
            "and a remark says so.",
            (Example(chat(user("2 + 2?"), said("4")), "opens"),),
        ),
        Rule(
            "The switch for thinking",
            "If the prompt closes an empty thought and the row has one, or the reverse, the template is "
            "rendered again with its switch (`enable_thinking` or `thinking`) turned, and a remark says "
            "so.",
            (
                Example(chat(user("2 + 2?"), said("4")), "switch"),
                Example(chat(user("2 + 2?"), said("4", reasoning_content="easy")), "switch"),
            ),
        ),
        Rule(
            "Thoughts that the template ignores",
            "A switch that the row itself sets under `chat_template_kwargs` is kept. A thought that then "
            "has no place, or that the template does not know, is not trained on, and a remark says so.",
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
    "Template behaviour": [
        Rule(
            "Dates",
            "A template that writes today's date gets one moment for the whole run. It is kept in the "
            "run's `signature.txt` and beside stored columns, so a run that is resumed after midnight has "
            "the same tokens.",
            (Example(chat(user("2 + 2?"), said("4")), "dated"),),
        ),
        Rule(
            "Templates that refuse",
            "A template that refuses a role or an order of roles costs one line with the row and the "
            "template's own words. So do messages without a template.",
            (
                Example(chat({"role": "system", "content": "Be brief."}, user("2 + 2?"), said("4")), "no_system"),
                Example(chat(user("2 + 2?"), said("4")), None, rows_are_shown=False, words="Without a template:"),
            ),
        ),
        Rule(
            "No generation prompt",
            "Some templates do not render the header of the next turn when the model is prompted. The "
            "model has to write it itself, so it is trained on, and a remark says so.",
            (Example(chat(user("2 + 2?"), said("4")), "no_prompt"),),
        ),
        Rule(
            "Content in parts, and other keys",
            "Content may be a list of text parts. A template that reads texts gets them joined, and one "
            "that reads parts gets every text as a part. Images and other parts are refused. Further keys "
            "of a message, such as `name`, go to the template; keys that are null do not.",
            (
                Example(
                    chat(user([{"type": "text", "text": "2 "}, {"type": "text", "text": "+ 2?"}]), said("4")), "chatml"
                ),
                Example(chat(user("2 + 2?"), said("4")), "parts"),
                Example(chat(user([{"type": "image", "image": "cat.png"}]), said("A cat."))),
            ),
        ),
        Rule(
            "Texts that the template changes",
            "What is trained on is what the template renders. If that is not what the row says, apart "
            "from white space at its ends, a remark says so.",
            (Example(chat(user("2 + 2?"), said("four")), "shouts"),),
        ),
    ],
    "Preferences": [
        Rule(
            "Where the prompt is",
            "The prompt of two answers may be a column of its own, as a text or as messages, or the "
            "common beginning of both. It is rendered once.",
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
            "Two prompts",
            "Answers that are compared belong to one prompt. Conversations that part at anything but an "
            "answer are refused, and so is a prompt whose place is not clear.",
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
    "Rationales": [
        Rule(
            "Questions with several rationales",
            "For methods that compare them, a row has a `prompt`, `rationales` (a list of texts, or of lists of "
            "messages) and the `answer`; or the columns of the authors' files, `instruction`, `output` and `label`. "
            "Two rationales of each question are drawn each epoch. What is compared is the answer, in ⟪ ⟫ here: where "
            'a rationale states it ("answer is", "answer:", "####", a box), else in its last sentence with "so", '
            '"therefore" or their like, else in its last sentence. Numbers are found by their value. A row with fewer '
            "than two different rationales is refused.",
            (
                Example(
                    {
                        "prompt": [user("3 + 4?")],
                        "rationales": ["3, 4, 5, 6, 7. So it is 7.", "4 + 3 = 7. The answer is 7"],
                        "answer": 7,
                    },
                    **MCC,
                ),
                Example({"instruction": "3 + 4? ", "output": ["The answer is 7"], "label": "7"}, **MCC),
            ),
        ),
        Rule(
            "Answers that are not compared",
            "Both answers of a pair must be the same tokens. A rationale whose last statement does not hold the "
            "answer, or whose answer is cut off, is learnt but not compared; an empty one, and a copy, is left out. "
            "Each has a remark. Where nothing can be compared at all, the rows are refused.",
            (
                Example(
                    [
                        {
                            "prompt": [user("3 + 4?")],
                            "rationales": [
                                "The answer is 7",
                                "The answer is 7.0",
                                "The answer is 8",
                                "",
                                "The answer is 7",
                            ],
                            "answer": "7",
                        },
                        {
                            "prompt": [user("5 + 4?")],
                            "rationales": ["5 and 4 more are 9", "It is 9", "Count 6, 7, 8 and then 9"],
                            "answer": "9",
                        },
                    ],
                    recipe={"training": {"max_length": 48}},
                    method="mcc_kd",
                    data={"max_dropped": 1},
                ),
                Example({"prompt": [user("3 + 4?")], "rationales": ["It is 8", "It is 9"], "answer": 7}, **MCC),
            ),
        ),
        Rule(
            "Places of answers in the row",
            "The column `indices` gives the tokens [start, end) of the answer in the prompt and each rationale, as the "
            "authors' files do; then nothing is searched. They must stand for the answer.",
            (
                Example(
                    {
                        "instruction": "3 + 4? ",
                        "output": ["It is 7", "7 it is"],
                        "label": "7",
                        "indices": [[[13, 14]], [[7, 8]]],
                    },
                    **MCC,
                ),
                Example(
                    {
                        "instruction": "3 + 4? ",
                        "output": ["It is 7", "7 it is"],
                        "label": "7",
                        "indices": [[[13, 14]], [[8, 10]]],
                    },
                    **MCC,
                ),
            ),
        ),
    ],
    "Dropped and truncated rows": [
        Rule(
            "What is dropped or truncated",
            "A row longer than `training.max_length` (1024 tokens by default) loses the end of its "
            "answer: it is kept and counted as truncated. A row whose prompt alone fills the limit is "
            "dropped, and so is one without an answer. Each is counted, with the first row. A "
            "conversation that became several rows is counted as so many.",
            (Example(NUMBERS, recipe={"training": {"max_length": 20}}, data={"max_dropped": 1}, counts=True),),
        ),
        Rule(
            "Two equal answers",
            "They teach nothing to a method that compares them, and are dropped and counted, also if they "
            "are equal only after truncation.",
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
            "If a larger share of the rows than this would be dropped or truncated, training refuses to "
            "start, and the preview ends with the same line. The default is 1 %.",
            (
                Example(
                    [{"prompt": "2 + 2 =", "completion": " 4"}, {"prompt": "2 + 3 =", "completion": None}],
                ),
            ),
        ),
    ],
}

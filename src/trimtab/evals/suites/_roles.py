"""The prompts of `socialbench`, in its authors' words."""

from collections.abc import Sequence

from trimtab.evals.suite import Item, Messages, lines, user

MEMORY = "Individual-MEM"

SITUATION = "Individual-EP-SituationUnderstanding"
_ALONE = {
    "en": """Who {name} is
{profile}

What was said so far
{text}

You are {name}. Show what {name} knows, and the manner in which {name} talks. Which of {letters} is the best thing \
for {name} to say now?
{options}

Answer:""",
    "zh": """【{name}的资料】
{profile}

【对话】
{text}

你就是{name}，言谈要合乎{name}的见识和口吻。在{letters}之中，此刻哪一项最适合由{name}说出？
{options}

答案：""",
}
_MEMORY = {
    "en": """Who {name} is
{profile}

What was said so far
{text}

You are {name}, the Assistant of this conversation. Write one reply to what the user said last.

Assistant:""",
    "zh": """【{name}的资料】
{profile}

【对话】
{text}

你就是{name}，即对话中的Assistant。请针对用户最后说的话写一条回复。

Assistant:""",
}
_EMOTION = {
    "en": """What was said
{text}

How does the last speaker feel while saying "{last}"? Choose the one option that fits best.
{options}

Answer:""",
    "zh": """【对话】
{text}

最后一句“{last}”流露出说话人怎样的情绪？请选出最贴切的一项。
{options}

答案：""",
}
_BARE = {"en": "{text}\n\n{options}", "zh": "{text}\n\n{options}"}
_GROUP = {
    "en": """Who takes part
{profile}

What was said so far
{text}

You are {name}, and you treat the others as {name} would by nature. Which of {letters} does {name} say next?
{options}

Reply with the letter alone.""",
    "zh": """【在场的人】
{profile}

【对话】
{text}

你就是{name}，按{name}的性情与人相处。在{letters}之中，{name}接下来会说哪一项？
{options}

只回复一个字母。""",
}
TEMPLATES = {
    "Individual-SA-RoleStyle": _ALONE,
    "Individual-SA-RoleKnowledge": _ALONE,
    SITUATION: _BARE,
    "Individual-EP-DialogueEmotionDetect": _EMOTION,
    "Individual-EP-HumorSarcasmDetect": _BARE,
    MEMORY: _MEMORY,
    "Group-SAP-Positive": _GROUP,
    "Group-SAP-Neutral": _GROUP,
    "Group-SAP-Negative": _GROUP,
}


def prompt(item: Item, answers: Sequence[str] = ()) -> Messages:
    """One message without a system prompt, in the item's language.

    Raises:
        KeyError: for a category that is not in `TEMPLATES`; `items` lets none through.
    """
    lang = item.groups["lang"]
    template = TEMPLATES[item.data["category"]][lang]
    named = ("、" if lang == "zh" else ", ").join(item.options)
    return user(template.format(text=item.text, options=lines(item.options), letters=named, **item.data))

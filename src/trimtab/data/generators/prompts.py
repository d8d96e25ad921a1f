"""Short everyday prompts, made from templates and topics; the demo's data starts here.

The held-out prompts speak of topics that no training prompt mentions, so a held-out score measures
transfer to new subjects and not memory of the training rows.
"""

TEMPLATES = (
    "What is {topic}? Answer in two or three sentences.",
    "Explain {topic} to a child in two sentences.",
    "Tell me two surprising facts about {topic}.",
    "Write a short and friendly paragraph about {topic}.",
    "Why do people care about {topic}? Answer in two sentences.",
    "Describe {topic} in two sentences without giving an opinion.",
    "Tell a very short story about {topic}, three sentences at most.",
    "What should a beginner know about {topic}? Be brief.",
)

TRAIN_TOPICS = (
    "rain", "bread", "the moon", "a bicycle", "honey", "winter", "the ocean", "a library", "coffee", "trees",
    "music", "sleep", "a garden", "volcanoes", "friendship", "the human heart", "chess", "salt", "bees", "a lighthouse",
    "paper", "gravity", "football", "tea", "mountains", "dreams", "a clock", "cats", "recycling", "the alphabet",
    "swimming", "glass", "rivers", "painting", "trains", "dinosaurs",
)  # fmt: skip

HELDOUT_TOPICS = (
    "the sun", "a bridge", "chocolate", "dogs", "a telescope", "rice", "snow", "dancing", "laughter", "a museum",
)  # fmt: skip


def everyday(split: str) -> list[str]:
    """The prompts of `split`, "train" or "heldout", in a fixed order.

    Raises:
        ValueError: if `split` is neither.
    """
    topics = {"train": TRAIN_TOPICS, "heldout": HELDOUT_TOPICS}.get(split)
    if topics is None:
        raise ValueError(f"everyday prompts have the splits 'train' and 'heldout', not {split!r}")
    return [template.format(topic=topic) for topic in topics for template in TEMPLATES]

"""Training arguments of classifiers: transformers' own, and the longest row."""

from dataclasses import dataclass, field

from transformers import TrainingArguments


@dataclass
class ClassificationConfig(TrainingArguments):
    max_length: int = field(
        default=128,
        metadata={"help": "Longest row in tokens; longer texts are cut at their end, the longer one first."},
    )

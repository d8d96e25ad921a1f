"""The settings of Clean-Eval, which are read before anything heavy is imported."""

from typing import Literal

from pydantic import Field

from trimtab.common.options import Options


class CleanEvalSettings(Options):
    """Of the pipeline."""

    seed: int = Field(default=0, ge=0)
    """Seed of the candidates, and of select=random."""
    select: Literal["moderate", "lowest", "highest", "random"] = "moderate"
    """Which surviving candidate is chosen, by its similarity to the original."""
    band: tuple[float, float] | None = None
    """Range of scores that count as moderate; default: the middle third of all surviving candidates' scores."""
    unrewritten: Literal["keep", "drop", "retry"] = "keep"
    """An item with a text that has no survivor: left as it was, left out, or tried again with other seeds and
    then left."""
    retries: int = Field(default=3, ge=1)
    """Number of retries of unrewritten=retry."""
    longest: int = Field(default=600, ge=1)
    """Characters; longer texts are rewritten in pieces that end at a sentence."""
    batch: int = Field(default=8, ge=1)
    """Number of texts that are rewritten together."""


class RewriteSettings(CleanEvalSettings):
    """Settings of the rewriters and detectors that are named."""

    n_par: int = Field(default=4, ge=0)
    """Paraphrases per text; for rules, candidates."""
    pivots: tuple[str, ...] = ("zh", "de", "fr")
    """Languages to translate into and back from; zh+de goes through both."""
    temperature: float = Field(default=0.7, ge=0)
    """Sampling temperature of a model that rewrites; 0 is greedy."""
    max_new_tokens: int = Field(default=128, ge=1)
    """A rewrite that has not ended by then is discarded."""
    prompt: str = Field(default="{text}", pattern=r"\{text\}")
    """Prompt prefix of an encoder-decoder model."""
    threshold: float | None = None
    """Smallest detector value at which the meaning counts as the same; default: 0.7 for embedding, else 0.5."""

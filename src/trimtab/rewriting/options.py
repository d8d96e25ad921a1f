"""The settings of Clean-Eval, which are read before anything heavy is imported."""

from typing import Literal

from pydantic import Field

from trimtab.common.options import Options


class CleanEvalSettings(Options):
    """Of the pipeline."""

    seed: int = Field(default=0, ge=0)
    """Of the candidates, and of select=random."""
    select: Literal["moderate", "lowest", "highest", "random"] = "moderate"
    """Which survivor becomes the text: by its similarity to the original."""
    band: tuple[float, float] | None = None
    """Scores that count as moderate; the middle third of all survivors' scores if not given."""
    unrewritten: Literal["keep", "drop", "retry"] = "keep"
    """An item with a text that has no survivor: left as it was, left out, or tried again with other seeds and
    then left."""
    retries: int = Field(default=3, ge=1)
    """Times that retry tries again."""
    longest: int = Field(default=600, ge=1)
    """Characters; longer texts are rewritten in pieces that end with a sentence."""
    batch: int = Field(default=8, ge=1)
    """Texts that are rewritten together."""


class RewriteSettings(CleanEvalSettings):
    """And of rewriters and detectors that are named."""

    n_par: int = Field(default=4, ge=0)
    """Paraphrases a text; of rules, candidates."""
    pivots: tuple[str, ...] = ("zh", "de", "fr")
    """Languages to translate into and back from; zh+de goes through both."""
    temperature: float = Field(default=0.7, ge=0)
    """Of a model that rewrites; at 0 the best token is taken."""
    max_new_tokens: int = Field(default=128, ge=1)
    """A rewrite that has not ended by then is no candidate."""
    prompt: str = Field(default="{text}", pattern=r"\{text\}")
    """What an encoder-decoder model is given."""
    threshold: float | None = None
    """From which value of the detector on the meaning is the same; 0.7 for embedding, else 0.5, if not given."""

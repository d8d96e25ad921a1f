"""Base class of options with names on the command line."""

from pydantic import BaseModel, ConfigDict


class Options(BaseModel):
    """Unknown keys are errors, the text under a field is its help."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, frozen=True, allow_inf_nan=False)

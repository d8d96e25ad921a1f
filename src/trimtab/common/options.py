"""Base classes of everything that a user sets."""

from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError


def _takes(annotation: Any, kind: type) -> bool:
    """Whether a value of this type may stand there itself, not inside a list or mapping."""
    if get_origin(annotation) in (Union, UnionType):
        return any(_takes(one, kind) for one in get_args(annotation))
    if get_origin(annotation) is Literal:
        return any(type(one) is kind for one in get_args(annotation))
    return annotation in (kind, Any)


class Strict(BaseModel):
    """Unknown keys are errors, the text under a field is its help, and `true` is no number."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_boolean_number(cls, value: Any, info: ValidationInfo) -> Any:
        annotation = cls.model_fields[str(info.field_name)].annotation
        if isinstance(value, bool) and not _takes(annotation, bool):
            for kind in (int, float):
                if _takes(annotation, kind):
                    raise PydanticCustomError(f"{kind.__name__}_type", "it must be a number")  # type: ignore[arg-type]
        return value


class Options(Strict):
    """Options with names on the command line."""

    model_config = ConfigDict(frozen=True)

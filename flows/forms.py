"""What the parameters of flows are called in the Prefect UI.

Prefect gives every parameter its Python name as title, whatever `Field(title=...)` says; only a
title among the extra facts of its schema comes through.
"""

from typing import Annotated, Any

from pydantic import (
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WithJsonSchema,
    WrapValidator,
)
from pydantic_core import PydanticCustomError

from likeness.model.sizes import shortened


def titled(title: str, **facts: Any) -> Any:
    """A parameter's title in the form, and JSON schema facts that the form holds people to.

    The flow itself has to refuse what does not keep to the facts, with a sentence.
    """
    return Field(json_schema_extra={"title": title, **facts})


def refused_in_words(rule: str) -> WrapValidator:
    """Refuse what a parameter cannot be with a sentence that ends in this rule."""

    def check(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        try:
            return handler(value)
        except ValidationError:
            said = {"said": f"it cannot be {shortened(value)}: {rule}"}
            raise PydanticCustomError("parameter", "{said}", said) from None

    return WrapValidator(check)


def _as_typed(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
    """Prefect's command line takes an id of digits alone for a number."""
    return handler(str(value) if type(value) is int and value >= 0 else value)


_DIGITS = {"anyOf": [{"type": "string", "minLength": 4}, {"type": "integer"}]}

SiteName = Annotated[
    str, refused_in_words("give the name of a Site block"), titled("Site", minLength=1)
]
VersionDigits = Annotated[
    str,
    WrapValidator(_as_typed),
    refused_in_words('give digits of its id in quotes, such as "12345e67"'),
    WithJsonSchema(_DIGITS),
    titled("Version"),
]
VersionWords = Annotated[
    str,
    WrapValidator(_as_typed),
    refused_in_words('give an id, or words such as "last good before 2026-11-20"'),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "integer"}]}),
    titled("Version"),
]
Gib = Annotated[
    int, Field(ge=0, le=1 << 30), refused_in_words(f"give a whole number from 0 to {1 << 30}")
]

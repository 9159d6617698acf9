"""What the parameters of flows are called in the Prefect UI.

Prefect gives every parameter its Python name as title, whatever `Field(title=...)` says; only a
title among the extra facts of its schema comes through.
"""

from typing import Annotated, Any

from pydantic import Field


def titled(title: str, **facts: Any) -> Any:
    """A parameter's title in the form, and JSON schema facts that the form holds people to.

    The flow itself has to refuse what does not keep to the facts, with a sentence.
    """
    return Field(json_schema_extra={"title": title, **facts})


SiteName = Annotated[str, titled("Site", minLength=1)]

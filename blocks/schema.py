"""The schema of a block type, made once a process.

Prefect asks for it once for each field whenever a block is saved, loaded or written down, and
pydantic makes it anew each time: a third of the processor time of a short job.
"""

import json
from functools import cache
from typing import Any


class SchemaMadeOnce:
    """Comes before `Block` among the bases of a block type."""

    @classmethod
    def model_json_schema(cls, *settings: Any, **more: Any) -> dict[str, Any]:
        """A copy of its own for every caller: Prefect takes parts out of it."""
        text = _schema_of(cls, settings, frozenset(more.items()))  # type: ignore[arg-type]  # it has a hash
        found: dict[str, Any] = json.loads(text)
        return found


@cache
def _schema_of(
    kind: type[SchemaMadeOnce], settings: tuple[Any, ...], more: frozenset[tuple[str, Any]]
) -> str:
    made = super(SchemaMadeOnce, kind).model_json_schema  # type: ignore[misc]  # Block's
    return json.dumps(made(*settings, **dict(more)))

"""Afterwards: what follows once versions are in the store, and cannot undo them."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import ParamSpec, TypeVar

from prefect import get_run_logger

P = ParamSpec("P")
T = TypeVar("T")


@dataclass
class Afterwards:
    """Steps that may fail without a VM being any the less done; the next run tries them again.

    Attributes:
        warnings: What went wrong, in sentences, each with what happens next.
    """

    warnings: list[str] = field(default_factory=list)

    def attempt(
        self, undone: str, again: str, step: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T | None:
        """What the step gave; nothing where it failed, whyever it did.

        Args:
            undone: What is not done then, such as ``no copy of the catalog was made``.
            again: Who does it next, such as ``the next job makes one``.
            step: What to do.
            *args: For the step.
            **kwargs: For the step.
        """
        try:
            return step(*args, **kwargs)
        except Exception as cause:  # noqa: BLE001  # whatever it is, the versions are there
            why = str(cause) or type(cause).__name__
            self.warnings.append(f"{undone} ({why}); {again}")
            get_run_logger().warning("%s", self.warnings[-1])
            return None


def told_once(warnings: Iterable[tuple[str, str]]) -> list[str]:
    """Each sentence once, with all the VMs it is about before it.

    Args:
        warnings: A VM's name and a sentence about it.
    """
    vms: dict[str, list[str]] = {}
    for name, sentence in warnings:
        vms.setdefault(sentence, []).append(name)
    return [f"{', '.join(names)}: {sentence}" for sentence, names in vms.items()]

"""What messages do beyond reading and writing fields: one module per family of classes."""

from importlib import import_module
from pkgutil import iter_modules


def load_all() -> None:
    """Import every family, so that each has declared its messages."""
    for family in iter_modules(__path__, f"{__name__}."):
        import_module(family.name)

"""Sizes, counts, durations and what was given, as people read them."""

from datetime import timedelta

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def readable_size(size_bytes: int) -> str:
    """Such as ``17 B``, ``3.4 MiB``."""
    size, unit = float(size_bytes), 0
    while abs(size) >= 1024 and unit < len(_UNITS) - 1:
        size, unit = size / 1024, unit + 1
    return (
        f"{size:.0f} {_UNITS[unit]}" if unit == 0 or size >= 100 else f"{size:.1f} {_UNITS[unit]}"
    )


def counted(count: int, what: str) -> str:
    """Such as ``1 pack``, ``2 packs``."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def readable_age(age: timedelta) -> str:
    """Such as ``now``, ``5 min``, ``3 h``, ``12 days``."""
    seconds = age.total_seconds()
    if seconds < 60:
        return "now"
    if seconds < 3600:
        return f"{seconds / 60:.0f} min"
    if seconds < 2 * 86400:
        return f"{seconds / 3600:.0f} h"
    return f"{seconds / 86400:.0f} days"


def shortened(value: object) -> str:
    """What was given, as it may stand in a sentence."""
    try:
        text = repr(value)
    except ValueError:  # a whole number of many thousand digits
        return "that number"
    return text if len(text) <= 60 else f"{text[:57]}..."

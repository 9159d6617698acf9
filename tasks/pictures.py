"""Charts of the last nights: bytes read, sent and kept, and how large the store grew."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from catalog.nights import StoreDay
from catalog.values import VersionRow
from likeness.model.sizes import readable_size

CHART_DAYS = 28  # so that no day of the month comes twice
_UNITS = (("PiB", 1 << 50), ("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10))


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart with a value for each day.

    Attributes:
        title: What is shown.
        unit: Of the values.
        days: Of the month; no two are the same.
        top: Where the axis ends.
        bars: Each a row of values.
        lines: The same, drawn as lines.
    """

    title: str
    unit: str
    days: tuple[int, ...]
    top: str
    bars: tuple[tuple[str, ...], ...] = ()
    lines: tuple[tuple[str, ...], ...] = ()


def charts(rows: Sequence[VersionRow], store: Sequence[StoreDay], now: datetime) -> list[Chart]:
    """Bytes per night and the size of the store; none of what was always nothing."""
    read, sent = _per_night(rows, now, CHART_DAYS)
    shown = tuple(day.day.day for day in store)
    made = []
    if any(read.values()) or any(sent.values()):
        for title, of in (("Read each night", read), ("Sent each night, sealed", sent)):
            if not any(of.values()):
                continue
            unit, scale = _unit(max(of.values()))
            values = tuple(_scaled(of.get(day.day, 0), scale) for day in store)
            made.append(Chart(title, unit, shown, _top(max(of.values()), scale), (values,)))
    if any(day.size_bytes for day in store):
        unit, scale = _unit(max(day.size_bytes for day in store))
        sizes = tuple(_scaled(day.size_bytes, scale) for day in store)
        top = _top(max(day.size_bytes for day in store), scale)
        made.append(Chart("Size of the data store", unit, shown, top, lines=(sizes,)))
    return made


def _per_night(
    rows: Sequence[VersionRow], now: datetime, days: int
) -> tuple[dict[date, int], dict[date, int]]:
    first = now.date() - timedelta(days=days - 1)
    read: dict[date, int] = defaultdict(int)
    sent: dict[date, int] = defaultdict(int)
    for row in rows:
        if (day := row.taken_at.date()) < first:
            break  # newest first
        read[day] += row.counts.read_bytes
        sent[day] += row.counts.sent_bytes
    return read, sent


def _unit(largest: int) -> tuple[str, int]:
    return next((unit for unit in _UNITS if largest >= unit[1]), _UNITS[-1])


def _scaled(size_bytes: int, scale: int) -> str:
    return f"{size_bytes / scale:.2f}"


def _top(largest: int, scale: int) -> str:
    return f"{max(largest / scale * 1.05, 0.01):.2f}"


def trend(store: Sequence[StoreDay]) -> str:
    """How fast the store grows, in words; empty if there is nothing to say."""
    if len(store) < 2 or not store[-1].size_bytes:
        return ""
    grown = store[-1].size_bytes - store[0].size_bytes
    return (
        f"The data store holds {readable_size(store[-1].size_bytes)} in packs;"
        f" {readable_size(abs(grown))} {'more' if grown >= 0 else 'less'} than"
        f" {len(store) - 1} days ago."
    )

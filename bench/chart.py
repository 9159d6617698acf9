"""Charts as SVG: bars for each step and program, and lines of what grows."""

from collections.abc import Callable, Mapping, Sequence
from html import escape
from math import log

_COLOURS = ("#1f6feb", "#79b8ff", "#d29922", "#8957e5", "#8b949e")
_BAR, _GAP, _LEFT, _WIDTH = 14, 18, 170, 760


def bars(title: str, names: Sequence[str], groups: Mapping[str, Sequence[float | None]]) -> str:
    """Horizontal bars; where there is no figure there is none.

    Args:
        title: Above all.
        names: Of the programs.
        groups: For each step a figure for each of them.
    """
    most = max(figure for row in groups.values() for figure in row if figure is not None)
    drawn, y = [], 66
    for step, row in groups.items():
        drawn.append(f'<text x="{_LEFT - 8}" y="{y + 12}" text-anchor="end">{escape(step)}</text>')
        for at, figure in enumerate(row):
            if figure is None:
                continue
            width = max(round((_WIDTH - _LEFT - 70) * figure / most), 1)
            colour = _COLOURS[at % len(_COLOURS)]
            drawn.append(
                f'<rect x="{_LEFT}" y="{y}" width="{width}" height="{_BAR - 2}" fill="{colour}"/>'
                f'<text x="{_LEFT + width + 5}" y="{y + 10}">{figure:.2f}</text>'
            )
            y += _BAR
        y += _GAP
    keys = "".join(
        f'<rect x="{_LEFT + 150 * at}" y="36" width="12" height="12" fill="{_COLOURS[at]}"/>'
        f'<text x="{_LEFT + 150 * at + 17}" y="46">{escape(name)}</text>'
        for at, name in enumerate(names)
    )
    width = max(_WIDTH, _LEFT + 150 * len(names))
    return _document(title, y, width, keys + "".join(drawn))


def lines(title: str, axis: Sequence[float], rows: Mapping[str, Sequence[float]]) -> str:
    """Lines over two logarithmic axes: what doubles with what is below it rises by 45 degrees.

    Args:
        title: Above all.
        axis: Below it, ascending.
        rows: For each line a figure for each of those.
    """
    x_of = _logarithmic(axis, _LEFT, _WIDTH - 120)
    y_of = _logarithmic([each for row in rows.values() for each in row], 330, 60)
    drawn = []
    for at, (name, row) in enumerate(rows.items()):
        colour = _COLOURS[at % len(_COLOURS)]
        spots = [(x_of(x), y_of(y), y) for x, y in zip(axis, row, strict=True)]
        path = " ".join(f"{x:.0f},{y:.0f}" for x, y, _ in spots)
        drawn.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        drawn += [
            f'<text x="{x:.0f}" y="{y - 5:.0f}">{figure:.1f}</text>' for x, y, figure in spots
        ]
        drawn.append(
            f'<text x="{spots[-1][0] + 32:.0f}" y="{spots[-1][1]:.0f}" fill="{colour}">'
            f"{escape(name)}</text>"
        )
    drawn += [f'<text x="{x_of(x):.0f}" y="355" text-anchor="middle">{x:,}</text>' for x in axis]
    return _document(title, 370, _WIDTH, "".join(drawn))


def _logarithmic(figures: Sequence[float], start: float, end: float) -> Callable[[float], float]:
    least, most = log(min(figures)), log(max(figures))
    return lambda figure: start + (end - start) * (log(figure) - least) / ((most - least) or 1)


def _document(title: str, height: int, width: int, drawn: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}"'
        ' font-family="sans-serif" font-size="11" fill="#24292f">'
        f'<rect width="100%" height="100%" fill="white"/>'
        f'<text x="{_LEFT}" y="22" font-size="15">{escape(title)}</text>{drawn}</svg>\n'
    )

"""A chart of bars as SVG: a group for each step, a bar for each program."""

from collections.abc import Mapping, Sequence
from html import escape

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
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{y}"'
        ' font-family="sans-serif" font-size="11" fill="#24292f">'
        f'<rect width="100%" height="100%" fill="white"/>'
        f'<text x="{_LEFT}" y="22" font-size="15">{escape(title)}</text>{keys}'
        f"{''.join(drawn)}</svg>\n"
    )

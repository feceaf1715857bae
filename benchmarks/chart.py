"""Line charts as SVG, without a library."""

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

WIDTH, HEIGHT = 720, 400
LEFT, RIGHT, TOP, BOTTOM = 60, 190, 40, 50
COLOURS = ("#0b6e4f", "#1f6feb", "#b35900", "#6e7781", "#a40e4c", "#5a32a3")
STEPS = (1, 2, 2.5, 5, 10)
MOST_TICKS = 6


class Line(NamedTuple):
    name: str
    points: Sequence[tuple[float, float]]


def line_chart(title: str, x_title: str, lines: Sequence[Line]) -> str:
    """Both axes are linear; y begins at 0."""
    xs = sorted({x for line in lines for x, _ in line.points})
    step = tick_step(max(y for line in lines for _, y in line.points))
    top = step * -(-max(y for line in lines for _, y in line.points) // step)

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - xs[0]) / ((xs[-1] - xs[0]) or 1)
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - y / top * (HEIGHT - TOP - BOTTOM)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}"',
        ' font-family="sans-serif" font-size="13">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        text(LEFT, 24, title, anchor="start"),
        text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 12, x_title),
    ]
    parts += [text(place(x, 0)[0], HEIGHT - BOTTOM + 18, f"{x:g}") for x in xs]
    for number in range(round(top / step) + 1):
        y = place(xs[0], number * step)[1]
        parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="#d0d7de"/>')
        parts.append(text(LEFT - 8, y + 4, f"{number * step:g}", anchor="end"))
    for number, line in enumerate(lines):
        parts += _drawn(line, COLOURS[number % len(COLOURS)], [place(x, y) for x, y in line.points], number)
    return "\n".join([*parts, "</svg>", ""])


def _drawn(line: Line, colour: str, points: Sequence[tuple[float, float]], number: int) -> list[str]:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    height = TOP + 20 * number
    return [
        f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>',
        f'<path d="M{WIDTH - RIGHT + 12} {height}h18" stroke="{colour}" stroke-width="3"/>',
        text(WIDTH - RIGHT + 36, height + 4, line.name, anchor="start"),
    ]


def text(x: float, y: float, words: str, anchor: str = "middle") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def tick_step(largest: float) -> float:
    """A round number that divides the axis into a handful of parts."""
    size = 10.0 ** (len(str(int(largest))) - 2)
    return next(step * size for step in (*STEPS, 20) if largest / (step * size) <= MOST_TICKS or step == STEPS[-1] * 2)

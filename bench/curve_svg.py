"""The picture of bench/curve.py: time over memory, a panel for each model, legible on light and on dark pages."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from html import escape

MIB = 2**20
PANEL_WIDTH, PANEL_HEIGHT = 420, 340
LEFT, RIGHT, TOP, BOTTOM = 56, 14, 44, 46
LEGEND = 30
CHARACTER, LINE = 6.2, 13  # of the labels' font, in pixels

STYLE = """
  text { font: 11px system-ui, "Segoe UI", Helvetica, Arial, sans-serif; fill: #1f2328; }
  .title { font-size: 13px; font-weight: 600; }
  .soft { fill: #59636e; }
  .grid { stroke: #d1d9e0; stroke-width: 1; }
  .base { stroke: #818b98; stroke-width: 1; stroke-dasharray: 2 3; }
  .curve { fill: none; stroke: #0969da; stroke-width: 2.2; stroke-linejoin: round; }
  .dot { fill: #0969da; }
  .predicted { fill: none; stroke: #0969da; stroke-width: 1; stroke-dasharray: 4 3; }
  .single { fill: #bc4c00; }
  .foretold { fill: none; stroke: #bc4c00; stroke-width: 1; }
  @media (prefers-color-scheme: dark) {
    text { fill: #f0f6fc; }
    .soft { fill: #9198a1; }
    .grid { stroke: #3d444d; }
    .base { stroke: #7d8590; }
    .curve, .predicted { stroke: #4493f8; }
    .dot { fill: #4493f8; }
    .single { fill: #f0883e; }
    .foretold { stroke: #f0883e; }
  }
"""


@dataclass
class Panel:
    """Coordinates of one model's panel. The horizontal axis is logarithmic."""

    left: float
    lowest_mib: float
    highest_mib: float
    lowest_time: float
    highest_time: float
    taken: list[tuple[float, float, float, float]] = field(default_factory=list)  # boxes that labels must leave alone

    def x(self, mib: float) -> float:
        share = math.log(mib / self.lowest_mib) / math.log(self.highest_mib / self.lowest_mib)
        return self.left + LEFT + share * (PANEL_WIDTH - LEFT - RIGHT)

    def y(self, time: float) -> float:
        share = (time - self.lowest_time) / (self.highest_time - self.lowest_time)
        return TOP + (1 - share) * (PANEL_HEIGHT - TOP - BOTTOM)

    def place(self, x: float, y: float, text: str) -> tuple[float, float, str]:
        """Where a point's label does not cover what is there: its x, baseline and anchor."""
        width = CHARACTER * len(text)
        spots = [(x + dx, y + dy, anchor) for dx, dy, anchor in (
            (9, 4, "start"), (-9, 4, "end"), (0, -9, "middle"), (0, 18, "middle"), (8, -8, "start"), (-8, -8, "end"),
            (8, 17, "start"), (-8, 17, "end"), (0, -24, "middle"), (0, 32, "middle"), (20, -20, "start"), (20, 30, "start"))]

        def box(spot: tuple[float, float, str]) -> tuple[float, float, float, float]:
            start = spot[0] - {"start": 0, "middle": width / 2, "end": width}[spot[2]]
            return start, spot[1] - LINE + 2, start + width, spot[1] + 3

        def cost(spot: tuple[float, float, str]) -> float:
            x0, y0, x1, y1 = box(spot)
            covered = sum(max(0.0, min(x1, b[2]) - max(x0, b[0])) * max(0.0, min(y1, b[3]) - max(y0, b[1])) for b in self.taken)
            outside = max(0.0, self.left + LEFT - x0) + max(0.0, x1 - self.left - PANEL_WIDTH + RIGHT)
            return covered + 100 * outside + 100 * max(0.0, y1 - PANEL_HEIGHT + BOTTOM) + 100 * max(0.0, TOP - y0)

        best = min(spots, key=cost)  # of equals the first
        self.taken.append(box(best))
        return best


def panel_of(curve: dict, left: float) -> Panel:
    points = curve["singles"] + curve["budgets"]
    mib = [point["predicted_bytes"] / MIB for point in points]
    times = [point[key] for point in points for key in ("time", "predicted_time") if key in point] + [1]
    margin = 0.08 * (max(times) - min(times)) + 0.01
    return Panel(left, min(mib) * 0.9, max(mib) * 1.15, min(times) - margin, max(times) + margin)


def ticks_of_memory(panel: Panel) -> list[int]:
    """1, 2 and 5 times powers of ten, and 3 and 7 times where those are few."""
    few: list[int] = []
    for digits in ((1, 2, 5), (1, 2, 3, 5, 7)):
        few = [digit * 10**power for power in range(7) for digit in digits]
        few = [mib for mib in few if panel.lowest_mib <= mib <= panel.highest_mib]
        if len(few) >= 4:
            break
    return few


def ticks_of_time(panel: Panel) -> list[float]:
    """Steps of 1, 2 or 5 times a power of ten, four to eight of them."""
    span = panel.highest_time - panel.lowest_time
    step = next(s for s in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 100) if span / s <= 8)
    first = math.ceil(panel.lowest_time / step)
    return [i * step for i in range(first, math.floor(panel.highest_time / step) + 1)]


def axes(panel: Panel, title: str) -> list[str]:
    x0, x1 = panel.left + LEFT, panel.left + PANEL_WIDTH - RIGHT
    y0, y1 = PANEL_HEIGHT - BOTTOM, TOP
    drawn = [f'<text class="title" x="{x0}" y="22">{escape(title)}</text>']
    for time in ticks_of_time(panel):
        y = panel.y(time)
        drawn.append(f'<line class="{"base" if abs(time - 1) < 1e-9 else "grid"}" x1="{x0}" y1="{y:.1f}" x2="{x1}" y2="{y:.1f}"/>')
        drawn.append(f'<text class="soft" x="{x0 - 7}" y="{y + 4:.1f}" text-anchor="end">{time:.2f}</text>')
    for mib in ticks_of_memory(panel):
        x = panel.x(mib)
        drawn.append(f'<line class="grid" x1="{x:.1f}" y1="{y0}" x2="{x:.1f}" y2="{y1}"/>')
        drawn.append(f'<text class="soft" x="{x:.1f}" y="{y0 + 16}" text-anchor="middle">{mib:,}</text>')
    middle = (y0 + y1) / 2
    drawn.append(f'<text class="soft" x="{(x0 + x1) / 2}" y="{y0 + 34}" text-anchor="middle">peak of a step, MiB</text>')
    drawn.append(f'<text class="soft" x="{panel.left + 14}" y="{middle}" text-anchor="middle" '
                 f'transform="rotate(-90 {panel.left + 14} {middle})">time of a step / store-all</text>')
    return drawn


def path(points: list[tuple[float, float]]) -> str:
    return "M" + " L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def diamond(x: float, y: float, size: float) -> str:
    return f"M{x:.1f} {y - size:.1f} L{x + size:.1f} {y:.1f} L{x:.1f} {y + size:.1f} L{x - size:.1f} {y:.1f} Z"


def panel_drawn(curve: dict, left: float) -> list[str]:
    panel = panel_of(curve, left)
    drawn = axes(panel, curve["title"])

    def at(point: dict, key: str) -> tuple[float, float]:
        return panel.x(point["predicted_bytes"] / MIB), panel.y(point[key])

    measured = [at(point, "time") for point in curve["budgets"] if "time" in point]
    predicted = [at(point, "predicted_time") for point in curve["budgets"]]
    most = panel.x(curve["singles"][0]["predicted_bytes"] / MIB)  # beyond the last plan a budget changes nothing
    drawn.append(f'<path class="predicted" d="{path([*predicted, (most, predicted[-1][1])])}"/>')
    drawn.append(f'<path class="curve" d="{path([measured[-1], (most, measured[-1][1])])}"/>')
    drawn.append(f'<path class="curve" d="{path(measured)}"/>')
    drawn += [f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in measured]
    singles = [at(point, "time") for point in curve["singles"]]
    panel.taken += [(x - 5, y - 5, x + 5, y + 5) for x, y in measured + singles]
    panel.taken += [(x - 4, y - 4, x + 4, y + 4) for x, y in (at(point, "predicted_time") for point in curve["singles"])]
    panel.taken.append((left + LEFT, panel.y(1) - 1, left + PANEL_WIDTH - RIGHT, panel.y(1) + 1))
    for (a, b), (c, d) in zip(measured, [*measured[1:], (most, measured[-1][1])]):  # the curve itself, in pieces
        pieces = max(1, int(math.hypot(c - a, d - b) / 6))
        for i in range(pieces):
            x, y = a + (c - a) * i / pieces, b + (d - b) * i / pieces
            panel.taken.append((x - 2, y - 2, x + 2, y + 2))
    for (x, y), point in zip(singles, curve["singles"]):
        foretold = at(point, "predicted_time")
        drawn.append(f'<path class="foretold" d="{diamond(*foretold, 4)} {path([(x, y), foretold])}"/>')
        drawn.append(f'<path class="single" d="{diamond(x, y, 5)}"/>')
        label_x, label_y, anchor = panel.place(x, y, point["memory"])
        drawn.append(f'<text x="{label_x:.1f}" y="{label_y:.1f}" text-anchor="{anchor}">{escape(point["memory"])}</text>')
    return drawn


def legend() -> list[str]:
    y = PANEL_HEIGHT + 12
    entries = [
        (60, f'<path class="curve" d="M0 {y} h26"/><circle class="dot" cx="13" cy="{y}" r="3"/>', "budget, measured"),
        (225, f'<path class="predicted" d="M0 {y} h26"/>', "budget, predicted"),
        (390, f'<path class="single" d="{diamond(13, y, 5)}"/>', "single policy, measured"),
        (590, f'<path class="foretold" d="{diamond(13, y, 4)}"/>', "single policy, predicted"),
    ]
    return [f'<g transform="translate({x} 0)">{mark}<text x="34" y="{y + 4}">{text}</text></g>' for x, mark, text in entries]


def draw(curves: list[dict]) -> str:
    """An SVG with transparent ground, whose colours follow the reader's light or dark mode."""
    width, height = PANEL_WIDTH * len(curves), PANEL_HEIGHT + LEGEND
    lines = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img">',
             "<title>Time of a training step over its peak of memory: the budget policy beside the single policies</title>",
             f"<style>{STYLE}</style>"]
    for i, curve in enumerate(curves):
        lines += panel_drawn(curve, i * PANEL_WIDTH)
    return "\n".join([*lines, *legend(), "</svg>"]) + "\n"

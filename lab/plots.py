"""Drawings of results, as SVG. Pure functions of the results; None where there is nothing to draw."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from results import counted, median, shown_title, sweep_points

WIDTH, HEIGHT = 640, 320
LEFT, RIGHT, TOP, BOTTOM = 70, 20, 40, 50
OURS, THEIRS, LIMIT, INK = "#2b6cb0", "#b7791f", "#718096", "#1a202c"
TIMELINE = {"compute": "#2b6cb0", "disk_wait": "#e53e3e", "disk": "#cbd5e0", "network": "#38a169"}


def _svg(height: float, title: str, parts: Sequence[str]) -> str:
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height:.0f}" '
        f'viewBox="0 0 {WIDTH} {height:.0f}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{height:.0f}" fill="white"/>',
        _text(WIDTH / 2, 22, title, "middle", 15), *parts, "</svg>", ""])


def _text(x: float, y: float, text: str, anchor: str = "start", size: int = 12, fill: str = INK) -> str:
    return (f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="{fill}">'
            f"{escape(text)}</text>")


def _rect(x: float, y: float, width: float, height: float, fill: str) -> str:
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{fill}"/>'


def _milliseconds(value: float) -> str:
    return f"{value / 1000:.2f} s" if value >= 1000 else f"{value:.0f} ms"


def bars(result: dict) -> str | None:
    """TPOT of each system; shorter is better."""
    values = [(shown_title(system), value, OURS if system.startswith("prima") else THEIRS)
              for system in dict.fromkeys(run["system"] for run in result["runs"])
              if (value := median(result, system, "tpot_ms")) is not None]
    if len(values) < 2:
        return None
    values.append(("physical limit", result["limit_tpot_ms"], LIMIT))
    most = max(value for _, value, _ in values)
    parts, y = [], 45.0
    for name, value, colour in values:
        parts += [_text(200, y + 17, name, "end"), _rect(210, y, 330 * value / most, 24, colour),
                  _text(216 + 330 * value / most, y + 17, _milliseconds(value))]
        y += 34
    return _svg(y + 10, f"{result['title']}: time per token", parts)


def _curve(points: Sequence[tuple[float, float]], title: str, below: str, labels: Sequence[str],
           lines: Sequence[tuple[str, Sequence[tuple[float, float]], str]]) -> str:
    """Curves through (x, milliseconds) over common x, from zero."""
    most = max(y for _, curve, _ in lines for _, y in curve) * 1.1
    xs = [x for x, _ in points]
    span = (max(xs) - min(xs)) or 1

    def place(x: float, y: float) -> tuple[float, float]:
        return (LEFT + (x - min(xs)) / span * (WIDTH - LEFT - RIGHT - 30),
                HEIGHT - BOTTOM - y / most * (HEIGHT - TOP - BOTTOM))

    parts = []
    for i in range(5):
        _, y = place(xs[0], most * i / 4)
        parts += [f'<line x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}" stroke="#e2e8f0"/>',
                  _text(LEFT - 8, y + 4, _milliseconds(most * i / 4), "end")]
    for (x, _), label in zip(points, labels):
        parts.append(_text(place(x, 0)[0], HEIGHT - BOTTOM + 18, label, "middle"))
    for number, (name, curve, colour) in enumerate(lines):
        path = " ".join(f"{px:.1f},{py:.1f}" for px, py in (place(*point) for point in curve))
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{px:.1f}" cy="{py:.1f}" r="3.5" fill="{colour}"/>'
                  for px, py in (place(*point) for point in curve)]
        parts.append(_text(WIDTH - RIGHT, TOP + 14 + 16 * number, name, "end", fill=colour))
    parts.append(_text(WIDTH / 2, HEIGHT - 10, below, "middle"))
    return _svg(HEIGHT, title, parts)


def over_rounds(result: dict) -> str | None:
    points = [(point["rounds"], value) for point in result["sweeps"]["rounds"]
              if (value := median(point, "prima", "tpot_ms")) is not None]
    if len(points) < 2:
        return None
    # Rounds double from point to point.
    placed = [(math.log2(rounds), value) for rounds, value in points]
    limit = [(x, result["limit_tpot_ms"]) for x, _ in placed]
    return _curve(placed, f"{result['title']}: time per token over rounds", "rounds",
                  [str(rounds) for rounds, _ in points], [("Prima", placed, OURS), ("physical limit", limit, LIMIT)])


def over_memory(result: dict) -> str | None:
    points = sweep_points(result)
    if len(points) < 2:
        return None
    lines = []
    for system, colour in (("prima", OURS), ("llama.cpp", THEIRS)):
        curve = [(point["memory_bytes"] / 2**30, value) for point in points
                 if (value := median(point, system, "tpot_ms")) is not None]
        if curve:
            lines.append((shown_title(system), curve, colour))
    limit = [(point["memory_bytes"] / 2**30, point["limit_tpot_ms"]) for point in points]
    return _curve(limit, f"{result['title']}: time per token over memory", "memory, GiB",
                  [f"{x:g}" for x, _ in limit], [*lines, ("physical limit", limit, LIMIT)]) if lines else None


def timeline(result: dict) -> str | None:
    """One token's way as planned: what each device does when."""
    lines = {name: line for name, line in result["plan"]["timeline"].items() if line}
    if len(lines) < 2:
        return None
    end = max(part[2] for line in lines.values() for part in line)
    parts, y = [], 45.0
    for name, line in lines.items():
        parts.append(_text(LEFT - 8, y + 15, name, "end"))
        for what, begin, until in line:
            parts.append(_rect(LEFT + begin / end * (WIDTH - LEFT - RIGHT), y,
                               max(0.5, (until - begin) / end * (WIDTH - LEFT - RIGHT)), 20,
                               TIMELINE.get(what, "#a0aec0")))
        y += 30
    x = LEFT
    for what, colour in TIMELINE.items():
        if any(part[0] == what for line in lines.values() for part in line):
            parts += [_rect(x, y + 4, 12, 12, colour), _text(x + 16, y + 14, what.replace("_", " "))]
            x += 110
    parts.append(_text(WIDTH - RIGHT, y + 14, _milliseconds(1000 * end), "end"))
    return _svg(y + 28, f"{result['title']}: one token, as planned", parts)


def all_plots(result: dict) -> dict[str, str]:
    """By the end of their names."""
    found = {"systems": bars(result), "rounds": over_rounds(result), "memory": over_memory(result),
             "timeline": timeline(result)}
    return {name: drawing for name, drawing in found.items() if drawing and counted(result)}

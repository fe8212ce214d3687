"""The timeline of a block: rows are memories, slowest first, columns are the ticks of one hyperperiod. As text, and as SVG.

A long hyperperiod is not written out: its columns are runs of ticks at which the same happens, and where there are too many
of them those in the middle are left out, which is said.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from html import escape

from nldsl.check.dependences import EACH_TICK
from nldsl.render.svg import FONT, SHADES, svg_text
from nldsl.timeline import Kept, Timeline

TICKS = 64  # a hyperperiod of so many ticks is written out tick by tick
WIDTH = 72  # characters for the columns of a longer one
RUNS = 40  # columns of a longer one in a drawing
ROWS = 40
READERS = 16
MARKS = {
    "W": "takes its step", "R": "starts anew, then takes its step", "r": "starts anew, and does not take its step",
    "f": "adds a gradient to its sum, as it does at W and r",
    "[": "a window begins", "]": "a window ends, the next one starts from here", ".": "holds",
}  # fmt: skip


@dataclass(frozen=True)
class Run:
    """Ticks first .. last, at all of which the same happens; `gap`: they are left out, and all sorts of things happen."""

    first: int
    last: int
    gap: bool = False

    @property
    def label(self) -> str:
        return str(self.first) if self.first == self.last else f"{self.first}-{self.last}"


@dataclass(frozen=True)
class Row:
    """Memories to which the same happens at the same ticks."""

    members: tuple[Kept, ...]

    @property
    def label(self) -> str:
        return listed([k.path for k in self.members], 34)

    def rhythm(self, tick: str) -> str:
        """Its clocks in words; of a rule, whose ticks are steps, with the word step."""
        first = self.members[0]
        bases = list(dict.fromkeys(k.base for k in self.members if k.base is not None))
        words = replace(first, base=listed(bases, 24) if bases else None).rhythm.replace("each tick", f"each {tick}")
        return f"{words}, a step of {first.step_of}" if first.step_of is not None and len(self.members) == 1 else words

    def mark(self, tick: int) -> str:
        """One of `MARKS`."""
        first = self.members[0]
        kinds = {kind for kind, clock in first.kinds if tick in clock}
        if first.window is not None:
            return "]" if "write" in kinds else "[" if "window" in kinds else "."
        if "reset" in kinds:
            return "R" if "write" in kinds else "r"
        return "W" if "write" in kinds else "f" if "fold" in kinds else "."


def listed(names: Sequence[str], width: int) -> str:
    """Names in a line of about so many characters, the others counted."""
    text = names[0]
    for n, name in enumerate(names[1:], 1):
        if len(text) + 2 + len(name) > width:
            return f"{text} and {len(names) - n} more"
        text += f", {name}"
    return text


def rows(timeline: Timeline) -> list[Row]:
    """Memories with one rhythm, slowest first."""
    groups: dict[object, list[Kept]] = {}
    for k in timeline.kept:
        groups.setdefault((k.kinds, k.over, k.window, k.base is None, k.step_of is None), []).append(k)
    return [Row(tuple(members)) for members in groups.values()]


def runs(timeline: Timeline, limit: int = RUNS, width: int | None = None) -> list[Run]:
    """The columns: ticks, or for a long hyperperiod runs of them, at most `limit`, or `width` characters with their labels."""
    if timeline.period <= TICKS:
        return [Run(t, t) for t in range(timeline.period)]
    last = _backwards(timeline, 3)
    end = last[0].first
    room = limit if width is None else width - sum(len(r.label) + 1 for r in last)
    found: list[Run] = []
    tick = 0
    while tick < end:
        run = Run(tick, min(_next(timeline, tick), end) - 1)
        room -= 1 if width is None else len(run.label) + 1
        if room < 0 and len(found) >= 6:
            found.append(Run(tick, end - 1, gap=True))
            break
        found.append(run)
        tick = run.last + 1
    return [*found, *last]


def _slow(timeline: Timeline) -> set[tuple[int, int]]:
    return {(clock.period, clock.phase) for k in timeline.kept for _, clock in k.kinds if clock != EACH_TICK}


def _next(timeline: Timeline, tick: int) -> int:
    """The first tick after the run that begins here: what happens at the tick of some clock happens at it alone."""
    clocks = _slow(timeline)
    if any(tick % period == phase for period, phase in clocks):
        return tick + 1
    return min(tick + (phase - tick) % period for period, phase in clocks)


def _backwards(timeline: Timeline, count: int) -> list[Run]:
    """The last runs of a hyperperiod."""
    clocks, end = _slow(timeline), timeline.period
    found: list[Run] = []
    while len(found) < count:
        tick = end - 1
        back = min((tick - phase) % period for period, phase in clocks)
        first = tick if back == 0 else max(0, tick - back + 1)
        found.append(Run(first, end - 1))
        end = first
        if end == 0:
            break
    return found[::-1]


# --- text ------------------------------------------------------------------------------------------


def timeline_text(timeline: Timeline, head: str = "block", tick: str = "tick") -> str:
    """The table, its legend, and who reads which version of what."""
    shown = rows(timeline)
    columns = runs(timeline, width=WIDTH)
    names = [row.label for row in shown[:ROWS]]
    notes = [row.rhythm(tick) for row in shown[:ROWS]]
    left = 2 + max(map(len, names), default=0) + 2
    middle = left + max(map(len, notes), default=0) + 2
    every = f"{timeline.period} {tick}s" if timeline.period > 1 else f"one {tick}"
    lines = [f"{head} {timeline.block}: a hyperperiod of {every}, after which all happens again"]
    if shown:
        lines.append(f"{'':{middle}}{_heading(columns)}".rstrip())
    lines += [f"  {name}".ljust(left) + note.ljust(middle - left) + _cells(row, columns) for name, note, row in zip(names, notes, shown, strict=False)]
    if len(shown) > ROWS:
        lines.append(f"  and {len(shown) - ROWS} rows more")
    if timeline.stores:
        lines.append(f"  {listed(timeline.stores, 60)}: a pair is stored at each {tick}")
    gap = next((c for c in columns if c.gap), None)
    if gap is not None:
        lines.append(f"  ... {tick}s {gap.label} are left out here")
    used = [mark for mark in MARKS if any(mark == row.mark(c.first) for row in shown for c in columns if not c.gap)]
    lines += [f"{'marks' if n == 0 else '':<10}{mark}  {MARKS[mark]}" for n, mark in enumerate(used)]
    return "\n".join([*lines, *reads_lines(timeline)])


def _heading(columns: list[Run]) -> str:
    """Numbers of ticks over single columns, each fourth or eighth; labels over runs."""
    if all(c.first == c.last and not c.gap for c in columns):
        step = 4 if len(columns) <= 32 else 8
        return "".join(str(c.first).ljust(step) for c in columns[::step])
    return " ".join("..." if c.gap else c.label for c in columns)


def _cells(row: Row, columns: list[Run]) -> str:
    if all(c.first == c.last and not c.gap for c in columns):
        return "".join(row.mark(c.first) for c in columns)
    return " ".join("   " if c.gap else row.mark(c.first).ljust(len(c.label)) for c in columns).rstrip()


def reads_lines(timeline: Timeline) -> list[str]:
    """Each reader with the versions it reads, as they are written in the language; its own state before the step is not said."""
    found: dict[str, list[str]] = {}
    clocks = {k.path: k.clock for k in timeline.kept}
    for use in timeline.uses:
        if use.reader == use.memory and use.version == "last":
            continue
        what = use.memory if use.version == "now" else f"{use.version} {use.memory}"
        if use.when not in (EACH_TICK, clocks.get(use.reader)):
            what += f" every {use.when.period}"
        if what not in found.setdefault(use.reader, []):
            found[use.reader].append(what)
    lines = [f"{reader} reads {listed(read, 70)}" for reader, read in found.items()]
    if len(lines) > READERS:
        lines = [*lines[:READERS], f"and {len(lines) - READERS} readers more"]
    return [f"{'reads' if n == 0 else '':<10}{line}" for n, line in enumerate(lines)]


# --- SVG -------------------------------------------------------------------------------------------

CELL, LINE, TOP, PAD = 16.0, 30.0, 62.0, 24.0
WRITE, FOLD, RESET, WINDOW = "#2563eb", "#c2410c", "#059669", "#dbeafe"


def timeline_svg(timeline: Timeline, head: str = "block", tick: str = "tick") -> str:
    """One self-contained drawing."""
    shown, columns = rows(timeline)[:ROWS], runs(timeline)
    plain = all(c.first == c.last and not c.gap for c in columns)
    wide = [CELL if plain else max(CELL if c.first == c.last else 36.0, 8 + 6.2 * len("..." if c.gap else c.label)) for c in columns]
    left = 40 + 6.8 * max((max(len(r.label), 0.85 * len(r.rhythm(tick))) for r in shown), default=0)
    places = [left + sum(wide[:n]) for n in range(len(wide) + 1)]
    width, height = max(places[-1] + PAD, 640.0), TOP + LINE * len(shown) + 56
    title = f"{head} {timeline.block}: {timeline.period} {tick}s, then again"
    out = [f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width:.0f} {height:.0f}' width='{width:.0f}' height='{height:.0f}' {FONT}>"
           f"<title>{escape('timeline of ' + timeline.block)}</title><rect width='{width:.0f}' height='{height:.0f}' fill='#ffffff'/>",
           svg_text(14, 20, title, 14, "#0f172a", weight=600)]  # fmt: skip
    for n, row in enumerate(shown):
        out += _svg_row(row, columns, places, TOP + LINE * n, width, SHADES[n % 2], tick)
    out += _svg_heading(columns, places)
    return "\n".join([*out, *_svg_legend(shown, height - 22), "</svg>"]) + "\n"


def _svg_heading(columns: list[Run], places: list[float]) -> Iterable[str]:
    plain = all(c.first == c.last and not c.gap for c in columns)
    for n, c in enumerate(columns):
        if not plain or c.first % (4 if len(columns) <= 32 else 8) == 0:
            yield svg_text((places[n] + places[n + 1]) / 2, TOP - 14, "..." if c.gap else c.label, 10, "#64748b", "middle")


def _svg_row(row: Row, columns: list[Run], places: list[float], top: float, width: float, shade: str, tick: str) -> Iterable[str]:
    """A line of holding with what happens on it: several things may at one tick."""
    first, y = row.members[0], top + LINE / 2
    yield f"<g><title>{escape(', '.join(f'{k.path} ({k.span.where})' for k in row.members[:12]))}</title>"
    yield f"<rect x='0' y='{top:.0f}' width='{width:.0f}' height='{LINE:.0f}' fill='{shade}'/>"
    yield svg_text(14, y - 7, row.label, 13, "#0f172a")
    yield svg_text(14, y + 8, row.rhythm(tick), 10, "#64748b")
    for n, c in enumerate(columns):
        x, end = places[n], places[n + 1]
        if c.gap:
            continue
        kinds = {kind for kind, clock in first.kinds if c.first in clock}
        yield f"<line x1='{x:.1f}' y1='{y:.1f}' x2='{end:.1f}' y2='{y:.1f}' stroke='#cbd5e1' stroke-width='2'/>"
        middle = (x + end) / 2
        if "window" in kinds:
            yield f"<path d='M{x + 6:.1f} {y - 9:.1f} H{x + 2:.1f} V{y + 9:.1f} H{x + 6:.1f}' fill='none' stroke='{WRITE}' stroke-width='1.6'/>"
        if first.window is not None and "write" in kinds:
            yield f"<path d='M{end - 6:.1f} {y - 9:.1f} H{end - 2:.1f} V{y + 9:.1f} H{end - 6:.1f}' fill='none' stroke='{WRITE}' stroke-width='1.6'/>"
        elif "write" in kinds:
            yield f"<rect x='{x + 3:.1f}' y='{y - 8:.1f}' width='{end - x - 6:.1f}' height='16' rx='3' fill='{WRITE}'/>"
        for dot in ((middle,) if c.first == c.last else (middle - 8, middle, middle + 8)) if "fold" in kinds else ():
            yield f"<circle cx='{dot:.1f}' cy='{y:.1f}' r='2.6' fill='{FOLD}' stroke='#ffffff' stroke-width='0.8'/>"
        if "reset" in kinds:
            yield f"<line x1='{x + 1:.1f}' y1='{y - 12:.1f}' x2='{x + 1:.1f}' y2='{y + 12:.1f}' stroke='{RESET}' stroke-width='2.4'/>"
    yield "</g>"


def _svg_legend(shown: list[Row], y: float) -> Iterable[str]:
    kinds = {kind for row in shown for kind, _ in row.members[0].kinds}
    windows = any(row.members[0].window is not None for row in shown)
    steps = any(row.members[0].window is None for row in shown)
    signs = {
        "takes its step": (steps, f"<rect x='{{x}}' y='{y - 8:.1f}' width='10' height='16' rx='3' fill='{WRITE}'/>"),
        "adds a gradient to its sum": ("fold" in kinds, f"<circle cx='{{m}}' cy='{y:.1f}' r='2.6' fill='{FOLD}'/>"),
        "starts anew": ("reset" in kinds, f"<rect x='{{m}}' y='{y - 9:.1f}' width='2.4' height='18' fill='{RESET}'/>"),
        "a window": (windows, f"<path d='M{{m}} {y - 8:.1f} h-4 v16 h4 m4 0 h4 v-16 h-4' fill='none' stroke='{WRITE}' stroke-width='1.6'/>"),
    }  # fmt: skip
    x = 16.0
    for text, (used, sign) in signs.items():
        if used:
            yield sign.format(x=f"{x:.1f}", m=f"{x + 5:.1f}")
            yield svg_text(x + 18, y, text, 11, "#475569")
            x += 40 + 6.0 * len(text)

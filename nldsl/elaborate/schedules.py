"""`schedule` items to values: what each asks of the memories of its block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nldsl import tree
from nldsl.diagnostics import Diagnostic, Label, NlError, did_you_mean
from nldsl.dims import Dim
from nldsl.elaborate.constants import constant
from nldsl.elaborate.scope import Scope
from nldsl.parse import parse
from nldsl.schedules import FORMS, Ask, Schedule
from nldsl.source import Source, Span

MOST = 1 << 16  # ticks a chunk


def read_schedules(items: Sequence[tree.Item], scope: Scope) -> tuple[dict[str, Schedule], list[Diagnostic]]:
    """The schedule of each block that has one; memories are looked for when the block is lowered."""
    found: dict[str, Schedule] = {}
    first: dict[str, tree.Schedule] = {}
    diagnostics: list[Diagnostic] = []
    blocks = [item.name for item in items if isinstance(item, tree.Block)]
    for item in (i for i in items if isinstance(i, tree.Schedule)):
        name = _name(item)
        if item.name not in blocks:
            near = did_you_mean(item.name, blocks)
            diagnostics.append(
                Diagnostic("NL101", f"`{item.name}` is not a block of this file", (Label(name),), expected="a block", found=f"`{item.name}`",
                           help=f"did you mean `{near}`?" if near else None))  # fmt: skip
        elif item.name in first:
            diagnostics.append(
                Diagnostic("NL102", f"the block `{item.name}` has two schedules", (Label(name), Label(_name(first[item.name]), "the first")),
                           expected="one schedule a block", found="a second one"))  # fmt: skip
        else:
            first[item.name] = item
            found[item.name], wrong = read_schedule(item, scope)
            diagnostics += wrong
    return found, diagnostics


def schedules_of(texts: Mapping[tree.Block, str], scope: Scope) -> dict[str, Schedule]:
    """The schedules of blocks from what stands between their braces.

    Raises:
        NlError: a text is none.
    """
    text = "\n".join(f"schedule {block.name} {{\n{lines}\n}}" for block, lines in texts.items())
    file, unread = parse(Source("<schedule>", text))
    found, wrong = read_schedules((*texts, *file.items), scope)
    if unread or wrong:
        raise NlError(*unread, *wrong)
    return found


def without_schedules(file: tree.File) -> str:
    """The text of a file without its schedules, and without the white space before them, or behind one at the beginning."""
    text, at = "", 0
    for item in (i for i in file.items if isinstance(i, tree.Schedule)):
        text, at = text + file.span.text[at : item.span.start].rstrip(), item.span.end
    rest = file.span.text[at:]
    return text + rest if text or not at else rest.lstrip()


def _name(item: tree.Schedule) -> Span:
    """Where the name of the block stands."""
    at = item.span.source.text.index(item.name, item.span.start + len("schedule"))
    return Span(item.span.source, at, at + len(item.name))


def read_schedule(item: tree.Schedule, scope: Scope) -> tuple[Schedule, list[Diagnostic]]:
    asks: list[Ask] = []
    diagnostics: list[Diagnostic] = []
    for line in item.body:
        memory = "*" if line.memory is None else _memory(line.memory, scope)
        if isinstance(memory, Diagnostic):
            diagnostics.append(memory)
            continue
        for how in line.how:
            ask = _ask(memory, how, scope)
            if isinstance(ask, Diagnostic):
                diagnostics.append(ask)
                continue
            before = next((a for a in asks if (a.memory, a.word) == (ask.memory, ask.word)), None)
            if before is not None and before.span is not None:
                diagnostics.append(
                    Diagnostic("NL102", f"`{ask.memory}` is asked for this twice", (Label(how.span), Label(before.span, "the first")),
                               expected="one answer a question"))  # fmt: skip
            else:
                asks.append(ask)
    return Schedule(tuple(asks)), diagnostics


def _memory(expr: tree.Expr, scope: Scope) -> str | Diagnostic:
    """`F[4]`, the copy of a `for`, is `F.4`."""
    match expr:
        case tree.Name(id):
            return id
        case tree.Index(base, index):
            value, outer = constant(index, scope), _memory(base, scope)
            if isinstance(outer, Diagnostic):
                return outer
            if isinstance(value, (Dim, float)):
                return f"{outer}.{value}"
            return Diagnostic("NL105", "an index of a memory is known before any tick", (Label(index.span),), expected="a number or a constant of the file")
    raise AssertionError(expr)


def _ask(memory: str, how: tree.How, scope: Scope) -> Ask | Diagnostic:
    """One request of a line."""
    place = (Label(how.span),)
    match how:
        case tree.How("by", tree.Name(form)):
            if form in FORMS:
                return Ask(memory, "form", form, how.span)
            near = did_you_mean(form, FORMS)
            return Diagnostic("NL610", f"`{form}` is not a form", place, expected=", ".join(f"`{f}`" for f in FORMS), found=f"`{form}`",
                              help=f"did you mean `{near}`?" if near else None)  # fmt: skip
        case tree.How("chunk", tree.Num() | tree.Name() as size):
            value = constant(size, scope)
            ticks = value.integer if isinstance(value, Dim) else None
            if ticks is not None and 0 < ticks <= MOST:
                return Ask(memory, "chunk", ticks, how.span)
            return Diagnostic("NL610", "a chunk is a number of ticks", place, expected=f"a whole number from 1 to {MOST}", found=f"`{size.span.text}`")
        case tree.How("recompute", None):
            return Ask(memory, "recompute", True, how.span)
    help = f"write `{memory} by {how.word}`" if how.word in FORMS and how.value is None else None
    help = help or ("write `chunk = 16`" if how.word == "chunk" else None)
    return Diagnostic("NL610", "a schedule cannot ask for this", place, expected="`by FORM`, `chunk = N` or `recompute`",
                      found=f"`{how.span.text}`", help=help)  # fmt: skip

"""Trees and core units as text, for people: the stages `tree` and `core`."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

from nldsl.core import Atom, Equation, Init, Last, Num, Ref, Unit


def tree_text(node: Any, indent: int = 0) -> str:
    """A node a line, its parts indented below it; short nodes stay on one line.

    >>> from nldsl.parse import parse_text
    >>> print(tree_text(parse_text("const n = 3")[0]))
    File
      items
        Const name='n' value=Num(value=3)
    """
    pad = "  " * indent
    if not is_dataclass(node):
        return f"{pad}{node!r}"
    short, long = [], []
    for f in fields(node):
        value = getattr(node, f.name)
        if f.name == "span":
            continue
        flat = _flat(value)
        if len(flat) <= 60 and not (isinstance(value, tuple) and value and is_dataclass(value[0])):
            short.append(f"{f.name}={flat}")
        else:
            parts = value if isinstance(value, tuple) else (value,)
            long.append("\n".join([f"{pad}  {f.name}", *(tree_text(p, indent + 2) for p in parts)]))
    return "\n".join([" ".join([f"{pad}{type(node).__name__}", *short]), *long])


def _flat(value: Any) -> str:
    if is_dataclass(value):
        return f"{type(value).__name__}({', '.join(f'{f.name}={_flat(getattr(value, f.name))}' for f in fields(value) if f.name != 'span')})"
    if isinstance(value, tuple):
        return f"[{', '.join(map(_flat, value))}]"
    return repr(value)


def unit_text(unit: Unit) -> str:
    """A unit with one line for each declaration and equation."""
    lines = [f"unit {unit.key}"]
    lines += [f"  in {i.name} : {i.type}" for i in unit.inputs]
    lines += [f"  param {p.name} : {p.type} = {init_text(p.init)}" for p in unit.params]
    for s in unit.states:
        clock = f" every {s.every}" + (f" offset {s.offset}" if s.offset else "")
        reset = f" reset every {s.reset}" + (f" to {s.base}" if s.base else "") if s.reset is not None else ""
        flush = "" if s.flush == "carry" else f" flush {s.flush}" + (f" to {s.begun}" if s.begun else "")
        lines.append(f"  state {s.name} : {s.type} = {s.learned or init_text(s.init)}{clock}{reset}{flush}{' detached' if s.detached else ''}")
    for i in unit.instances:
        args = ", ".join(f"{name} = {atom_text(a)}" for name, a in i.args)
        lines.append(f"  {i.name} = block {i.unit or i.block} ({args})")
    lines += [line for e in unit.equations for line in equation_lines(e)]
    lines += [f"  out {name} = {atom_text(a)}" for name, a in unit.outputs]
    lines += [f"  schedule {ask}" for ask in unit.schedule.asks]
    return "\n".join(lines)


def equation_lines(equation: Equation, indent: str = "  ") -> list[str]:
    """An equation; the body of an objective follows indented."""
    objective = equation.attr("objective")
    attrs = "".join(f" {k}={getattr(v, 'id', v)}" for k, v in equation.attrs if k != "objective")
    line = f"{indent}{equation.name} = {equation.op}({', '.join(map(atom_text, equation.args))}){attrs}"
    if objective is None:
        return [line]
    body = [inner for e in objective.equations for inner in equation_lines(e, indent + "    ")]
    return [f"{line} of {objective.self}:", *body, f"{indent}    minimize {atom_text(objective.result)}"]


def atom_text(atom: Atom) -> str:
    match atom:
        case Ref(name):
            return name
        case Last(name):
            return f"last {name}"
        case Num(value):
            return str(value)
    raise AssertionError(atom)


def init_text(init: Init) -> str:
    if isinstance(init, tuple):
        name, *args = init
        return f"{name}({', '.join(init_text(a) for a in args)})" if args else str(name)
    return str(init)

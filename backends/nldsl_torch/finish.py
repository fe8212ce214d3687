"""The end of a stream: `finish(state)`, which applies or drops the periods that it cuts short."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nldsl.core import Equation, Last, Type, Unit
from nldsl.lower.ends import due, leading_to
from nldsl.lower.plan import Form
from nldsl.lower.rounding import is_rounded
from nldsl.lower.schedule import Recurrence
from nldsl_torch.body import Body, Names
from nldsl_torch.recurrence import Function, RecurrenceWriter

DOC = "The state after the end of the stream: periods that it cuts short are applied or dropped where a memory says `flush`."


def flushed(unit: Unit) -> bool:
    """Whether the end of a stream changes anything in a unit itself."""
    return any(s.flush != "carry" for s in unit.states)


class EndWriter(RecurrenceWriter):
    """Writes what the memories of a unit with `flush apply` become: the equations of their steps, from sums and held states."""

    def __init__(self, prefix: str, unit: Unit, types: Mapping[str, Type]):
        states = due(unit)
        step = Recurrence(tuple(leading_to(unit, states)), tuple(states), ())
        super().__init__(prefix, unit, types, set(), step, Form("loop", ""), [])

    def finish(self) -> Function:
        """finish(what is read, tick, fresh) -> the states that are due, of this tick number; `fresh`: no end of a stream was there."""
        names = Names()
        equations = list(self.step.equations)
        body = Body(names, self.types, {p.name for p in self.unit.params}, equations, set(self.states), self.rounded)
        for e in equations:
            if e.op == "fold":
                memory = self.states[e.attr("memory")]
                total = names.of(f"sum {e.name}")
                body.reads[f"sum {e.name}"] = None
                body.lines.append(f"{names.of(e.name)} = {total}" + (f" / {memory.every}" if e.attr("over") == "mean" else ""))
            elif e.name in self.states:
                self._due(body, e)
            else:
                body.equation(e)
        reads = list(body.reads)
        gives = [names.of(s) for s in self.states]
        lines = [f"def {self.prefix}_finish({', '.join([*map(names.of, reads), 'tick', 'fresh'])}):",
                 f'    """The end of the stream after `tick` ticks, for {", ".join(self.states)}."""',
                 *(f"    {line}" for line in body.lines), f"    return {', '.join(gives)},"]  # fmt: skip
        return Function(f"{self.prefix}_finish", lines, reads, [])

    def _due(self, body: Body, e: Equation) -> None:
        state, last = self.states[e.name], body.text(Last(e.name))
        narrow = self.narrow(e)
        text = body.expression(e) if narrow is None else self.widened(body, e, narrow)
        text = f"({text}).to({last}.dtype)" if is_rounded(e, self.rounded, self.types) else text
        body.note(e.span)
        since = f"(tick - {state.offset})" if state.offset else "tick"
        body.lines.append(f"{body.names.of(e.name)} = {text} if fresh and {since} % {state.every} else {last}")


def finish_method(prefix: str, unit: Unit, types: Mapping[str, Type], local: Mapping[str, str], inner: Sequence[str]) -> tuple[list[str], list[str]]:
    """Functions, and the method `finish` of a class.

    Args:
        local: text of what belongs to the module, params among them, by name.
        inner: the attributes of instances in which the end of a stream changes something.
    """
    head = ["", "    def finish(self, state: dict[str, Tensor]) -> dict[str, Tensor]:", f'        """{DOC}"""',
            "        state = fitting(state, self.initial_state(sequences(state)))"]  # fmt: skip
    own = flushed(unit)
    if not own and not inner:
        return [], [*head, "        return state"]
    functions, lines = [], ["new = dict(state)"]
    states = due(unit)
    if states:
        function = EndWriter(prefix, unit, types).finish()
        functions = [*function.lines, "", ""]

        def given(name: str) -> str:
            kind, _, core = name.partition(" ")
            key = f"{core}:sum" if kind == "sum" else core if kind == "last" else name
            return local.get(name, f'state["{key}"]')

        args = [*map(given, function.streams), "tick", "fresh"]
        lines += ['tick = int(state[":tick"])', 'fresh = tick != int(state[":finished"])']
        targets = "".join(f'new["{s}"], ' for s in states).strip()
        lines += [f"{targets} = {function.name}({', '.join(args)})", 'new[":finished"] = state[":tick"]']
    lines += [f'new["{s.name}"] = state["{s.begun}"]' for s in unit.states if s.begun is not None]
    ends = {s.name for s in unit.states if s.flush != "carry"}
    sums = [f"{e.name}:sum" for e in unit.equations if e.op == "fold" and e.attr("memory") in ends]
    lines += [f'new["{key}"] = torch.zeros_like(state["{key}"])' for key in sums]
    lines += [f'new |= whole(self.{name}.finish(part(state, "{name}.")), "{name}.")' for name in inner]
    return functions, [*head, *(f"        {line}" for line in (*lines, "return new"))]

"""The update equation that was recognised, as a person would write it."""

from __future__ import annotations

from nldsl.check.reading import Reading
from nldsl.core import Atom, Equation, Last, Num, Ref
from nldsl.lower.affine import Factor, Operator, Read, Vector, Write
from nldsl.lower.numbers import number
from nldsl.lower.plan import Form, Plan

INFIX = {"add": "+", "sub": "-", "mul": "*", "div": "/", "pow": "^"}
LETTERS = "abcefghijlmnprstuwz"
LONGEST = 8  # updates of one recurrence that are shown
DEEPEST = 8  # operations in one another that are


class Writer:
    """Writes the equations of one machine; longer coefficients get letters, listed in `where`."""

    def __init__(self, plan: Plan, form: Form):
        assert form.machine is not None
        self.plan, self.machine, self.transposed = plan, form.machine, form.transposed
        self.equations = {e.name: e for e in plan.unit.equations}
        self.where: dict[str, str] = {}
        every = {s.name: s.every for s in plan.unit.states}
        self.starts = {n: f"start({every[n]}) {whole}" for n, whole in Reading.of(plan.unit).starts.items()}
        used = {n.split(".")[0] for n in plan.types} | {name for name, _ in plan.unit.formals}
        self.free = iter([c for c in LETTERS if c not in used] + [f"c{n}" for n in range(99)])

    def lines(self) -> list[str]:
        """One line for every state, then what the letters stand for."""
        out = [f"{state}' = {self.operator(self.machine.next[state])}" for state in self.machine.states]
        return out + self.legend()

    def legend(self) -> list[str]:
        return [f"{'where' if n == 0 else '     '} {name} = {text}" for n, (text, name) in enumerate(self.where.items())]

    # --- pieces ------------------------------------------------------------------------------------

    def operator(self, operator: Operator, probe: str = "") -> str:
        text = ""
        writes = {w.name: w for w in self.machine.writes}
        for base, factor in operator.terms:
            sign, scale = self.factor(factor)
            if base in writes:
                flipped, body = self.write(writes[base], scale)
                sign = {"+": "-", "-": "+"}[sign] if flipped else sign
            else:
                body = f"{scale}{base}"
            text += f" {sign} {body}{probe}" if text else f"{'-' if sign == '-' else ''}{body}{probe}"
        return text + ("^T" if operator.transposed and not probe else "")

    def factor(self, f: Factor) -> tuple[str, str]:
        """(sign, text in front of a base)."""
        value = number(f.number)
        sign, parts = "+", []
        if value is not None:
            sign = "-" if value < 0 else "+"
            if abs(value) != 1:
                parts.append(f"{abs(value):g}")
        else:
            text = self.atom(f.number)
            if text.startswith("-"):
                sign, text = "-", text[1:]
            parts.append(text)
        for channels, side in ((f.values, "Diag"), (f.keys, "Diag")):
            if channels is not None:
                parts.append(f"{side}({self.atom(channels)})")
        return sign, " ".join(parts) + (" " if parts else "")

    def write(self, w: Write, scale: str) -> tuple[bool, str]:
        """Whether its sign is flipped, and scale left right^T."""
        left, right = self.vector(w.left), self.vector(w.right)
        flipped = left.startswith("-") and _simple(left[1:])
        left = left[1:] if flipped else left
        head, _, tail = left.partition(" (")
        product = _simple(head) and tail.endswith(")") and closes(f"({tail}")
        return flipped, f"{scale}{left if product else _bracket(left)} {_bracket(right)}^T"

    def vector(self, v: Vector) -> str:
        if len(v.reads) == 1 and v.constant is not None:
            shared = self._shared(v.reads[0][1], v.constant)
            if shared is not None:
                inner = self.vector(Vector(((v.reads[0][0], Num(1.0)),), shared))
                return f"{self.atom(v.reads[0][1])} ({inner})"
        text = ""
        for name, coefficient in v.reads:
            read = self.read(self.machine.reads[name])
            value = number(coefficient)
            sign = "-" if value is not None and value < 0 else "+"
            if value is None:
                scale = self.atom(coefficient)
                if scale.startswith("-"):
                    sign, scale = "-", scale[1:]
                read = f"{scale} {read}"
            elif abs(value) != 1:
                read = f"{abs(value):g} {read}"
            text += f" {sign} {read}" if text else f"{'-' if sign == '-' else ''}{read}"
        if v.constant is not None:
            constant = self.atom(v.constant)
            negative = constant.startswith("-")
            text += (f" - {constant[1:]}" if negative else f" + {constant}") if text else constant
        return text

    def _shared(self, coefficient: Atom, constant: Atom) -> Atom | None:
        """x where the constant is coefficient * x."""
        e = self.equations.get(constant.name) if isinstance(constant, Ref) and number(coefficient) is None else None
        if e is None or e.op != "mul":
            return None
        for factor, rest in (e.args, e.args[::-1]):
            if self.expression(factor) == self.expression(coefficient):
                return rest
        return None

    def read(self, r: Read) -> str:
        probe = f" {_bracket(self.atom(r.probe))}"
        inner = r.operator
        if any(base in {w.name for w in self.machine.writes} for base, _ in inner.terms):
            name = r.state + "'" if r.state is not None else "(" + self.operator(inner) + ")"
            return f"{name}{probe}"
        if len(inner.terms) == 1:
            base, factor = inner.terms[0]
            sign, scale = self.factor(factor)
            turned = f"{base}^T" if inner.transposed else base
            return f"{'-' if sign == '-' else ''}{scale}{turned}{probe}"
        return f"({self.operator(inner)}){probe}"

    # --- coefficients --------------------------------------------------------------------------------

    def atom(self, a: Atom) -> str:
        text = self.expression(a)
        negative = text.startswith("-")
        bare = text[1:] if negative else text
        if _simple(bare):
            return text
        bare = bare[1:-1] if bare.startswith("(") and closes(bare) else bare
        if bare not in self.where:
            self.where[bare] = next(self.free)
        return ("-" if negative else "") + self.where[bare]

    def expression(self, a: Atom, depth: int = 0) -> str:
        """The nested text of an atom; names of the author stand for themselves."""
        if isinstance(a, Num):
            return f"{number(a):g}" if number(a) is not None else str(a.value)
        if isinstance(a, Last):
            return self.starts.get(a.name, f"last {a.name}")
        e = self.equations.get(a.name)
        if e is None or self._named(a):
            return a.name
        return self._operation(e, depth)

    def _named(self, a: Ref) -> bool:
        """Whether the author gave this equation its name: `name =` stands right before it."""
        span = self.equations[a.name].span
        before = span.source.text[: span.start].rstrip()
        return before.endswith("=") and before[:-1].rstrip().endswith(a.name) and "." not in a.name

    def _operation(self, e: Equation, depth: int) -> str:
        args = [self.expression(x, depth + 1) for x in e.args]
        match e.op:
            case "mul" | "div":
                negative = args[0].startswith("-") != args[1].startswith("-")
                left, right = (x[1:] if x.startswith("-") else x for x in args)
                text = right if left == "1" and e.op == "mul" else left if right == "1" else f"({left} {INFIX[e.op]} {right})"
                return f"-{text}" if negative else text
            case "add" | "sub":
                minus = (e.op == "sub") != args[1].startswith("-")
                return f"({args[0]} {'-' if minus else '+'} {args[1].lstrip('-')})"
            case "pow":
                return f"({args[0]} ^ {args[1]})"
            case "neg":
                return args[0][1:] if args[0].startswith("-") else f"-{_bracket(args[0])}"
            case "sum" if all(n.integer == 1 for n in self.plan.types[_name(e.args[0])].shape):
                return args[0]
            case "copy" | "cast":
                return args[0]
            case "apply":
                return f"{args[0]}({args[1]})"
            case "delay":
                return f"delay({args[0]}, {e.attr('ticks')})"
            case "conv":
                return f"conv({args[0]}, {e.attr('ticks')})"
        return f"{e.op}({', '.join(a[1:-1] if a.startswith('(') and closes(a) else a for a in args)})"


def _name(atom: Atom) -> str:
    return "" if isinstance(atom, Num) else atom.name


def _simple(text: str) -> bool:
    return text.replace("_", "a").replace(".", "0").isalnum() or (text.startswith("delay(") and closes(text[5:]))


def closes(text: str) -> bool:
    """Whether the first bracket closes at the end."""
    depth = 0
    for i, char in enumerate(text):
        depth += (char == "(") - (char == ")")
        if depth == 0:
            return i == len(text) - 1
    return False


def _bracket(text: str) -> str:
    return text if _simple(text) or (text.startswith("(") and closes(text)) else f"({text})"


def machine_text(plan: Plan, form: Form) -> list[str]:
    """The lines of a machine."""
    return Writer(plan, form).lines()


def window_text(plan: Plan, form: Form) -> list[str]:
    """The lines of a recurrence in windows: what changes at every tick, and what at the end of a period."""
    assert form.windows is not None
    lines: list[str] = []
    writer: Writer | None = None
    totals = set(form.windows.sums.values())
    for inner in form.forms.values():
        if inner.machine is not None and not totals & set(inner.machine.states):
            before, writer = writer, Writer(plan, inner)
            if before is not None:  # one letter stands for one thing
                writer.where, writer.free = before.where, before.free
            lines += writer.lines()[: len(inner.machine.states)]
    ends = {e.name: e for e in form.windows.end}
    for state in form.windows.slow:
        e = ends[state.name]
        if e.op == "copy" and isinstance(e.args[0], Ref):
            continue
        lines.append(f"{state.name}' = {_period(plan, form, e)}, every {state.every} ticks")
    more = [f"and {len(lines) - LONGEST} more like these"] if len(lines) > LONGEST + 1 else []
    shown = lines[:LONGEST] if more else lines
    where = writer.legend() if writer is not None else []
    return [line if len(line) <= 150 else line[:147] + "..." for line in (*shown, *more, *where)]


def _period(plan: Plan, form: Form, e: Equation) -> str:
    """The step of a slow state over states and folded gradients."""
    equations = {x.name: x for x in (form.windows.end if form.windows is not None else ())}

    def text(a: Atom, depth: int = 0) -> str:
        if isinstance(a, Num):
            return f"{number(a):g}" if number(a) is not None else str(a.value)
        x = equations.get(a.name)
        if isinstance(a, Last) or x is None or (depth and any(s.name == a.name for s in form.windows.slow)):  # type: ignore[union-attr]
            return a.name
        if x.op == "fold":
            return f"{x.attr('over')} of its gradients"
        if depth > DEEPEST:
            return "..."  # what is used twice is written twice
        args = [text(y, depth + 1) for y in x.args]
        if x.op == "pool":
            return f"{x.attr('over')} over the batch of the {args[0]}"
        if x.op in INFIX:
            plain = f"{args[0]} {INFIX[x.op]} {args[1]}"
            return f"({plain})" if depth else plain
        return args[0] if x.op in ("copy", "cast") else f"{x.op}({', '.join(args)})"

    return text(Ref(e.name))

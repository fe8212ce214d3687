"""Work and memory of a plan: multiply-adds counted twice, per token and sequence, as formulas over the sizes."""

from __future__ import annotations

from nldsl.core import Axis, Equation, Num, Type
from nldsl.dims import Dim
from nldsl.lower.plan import Form, Plan
from nldsl.lower.schedule import Recurrence, Region

BYTES = Dim.of(4)


def copies(axes: tuple[Axis, ...]) -> Dim:
    total = Dim.of(1)
    for axis in axes:
        total = total * axis.size
    return total


def entries(type: Type) -> Dim:
    """The numbers of a stream at one tick."""
    total = copies(type.axes)
    for size in type.shape:
        total = total * size
    return total


def state_bytes(plan: Plan) -> Dim:
    """Float32 bytes of the memories of one sequence; a full store grows and is not counted."""
    total = Dim.of(0)
    for state in (s for s in plan.unit.states if s.name not in plan.same):
        total = total + entries(state.type) * BYTES
    for e in stores(plan):
        window = e.attr("window")
        if window is not None:
            pairs = [plan.types[a.name] for a in e.args[1:] if not isinstance(a, Num)]
            for pair in pairs:
                total = total + entries(pair) * Dim.of(window) * BYTES
    return total


def equation_flops(e: Equation, types: dict[str, Type]) -> Dim:
    result = types[e.name]
    args = [types[a.name] for a in e.args if not isinstance(a, Num)]
    match e.op:
        case "apply" if args[-1].kind != "int":
            return Dim.of(2) * copies(result.axes) * args[0].codomain * args[0].domain
        case "matmul":
            return Dim.of(2) * entries(result) * args[0].domain
        case "solve":
            n, sides = args[0].codomain, args[-1].domain if result.kind == "map" else Dim.of(1)
            return copies(result.axes) * (Dim.of(2) / Dim.of(3) * n * n * n + Dim.of(2) * n * n * sides)
        case "eigenvectors" | "matrix_power":
            # Reduction to tridiagonal form, the iteration on it and the vectors; then one product more.
            n = result.codomain
            return copies(result.axes) * Dim.of(9 if e.op == "eigenvectors" else 11) * n * n * n
        case "row_mean" | "column_mean":
            return entries(args[0])
        case "conv":
            return Dim.of(2 * e.attr("ticks")) * entries(result)
        case "outer" | "add" | "sub" | "mul" | "div" | "scale_values" | "where":
            return entries(result)
        case "dot" | "sqnorm" | "sum" | "mean":
            return Dim.of(2) * entries(args[0])
        case "unit" | "norm" | "softmax" | "silu" | "gelu" | "sigmoid" | "softplus" | "exp" | "log" | "tanh" | "turn" | "turn_back":
            return Dim.of(4) * entries(result)
    return Dim.of(0)


def map_flops(plan: Plan) -> Dim:
    """Everything that runs for all ticks at once."""
    total = Dim.of(0)
    for step in plan.steps:
        if isinstance(step, Region):
            for e in step.equations:
                total = total + equation_flops(e, plan.types)
    return total


def tick_flops(plan: Plan, step: Recurrence) -> Dim:
    """One tick of a recurrence, as decoding runs it."""
    total = Dim.of(0)
    for e in step.equations:
        total = total + equation_flops(e, plan.types)
    return total


def decoding_flops(plan: Plan) -> Dim:
    """One tick of everything, the blocks inside left out."""
    total = map_flops(plan)
    for step in plan.steps:
        if isinstance(step, Recurrence):
            total = total + tick_flops(plan, step)
    return total


def chunk_flops(plan: Plan, step: Recurrence, form: Form) -> Dim | None:
    """One token of the chunk form: scores, the inverse, and products with states."""
    machine, chunk = form.machine, Dim.of(form.chunk)
    if machine is None:
        return None
    state = plan.types[machine.states[0]]
    known, other = (state.codomain, state.domain) if form.transposed else (state.domain, state.codomain)
    n, u = Dim.of(len(machine.states)), Dim.of(len(machine.unknown))
    writes, reads = Dim.of(len(machine.writes)), Dim.of(len(machine.vectors))
    two = Dim.of(2)
    scores = two * chunk * known * (u * writes + reads * writes)
    solve = two * u * (other * (n * known + u * chunk)) + u * u * u * chunk * chunk * Dim.of(1) / Dim.of(3)
    move = two * writes * n * known * other
    out = two * reads * other * (n * known + writes * chunk)
    return copies(state.axes) * (scores + solve + move + out)


def stores(plan: Plan) -> list[Equation]:
    """A read of each store."""
    return list({e.attr("memory"): e for e in reversed(plan.unit.equations) if e.op == "attend" and e.attr("of") is None}.values())[::-1]

"""What must hold of every block. Each property is a function of one example that raises `Falsified`.

They are all said of the same two things: the interpreter, which is the meaning, and the lowerings, which are what people run.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from nldsl.lower.explicit import explicit
from nldsl.lower.plan import plan
from nldsl_interpreter import Interpreter
from nldsl_testing.compare import LEAST, TOLERANCE, close, difference, equal, within_range
from nldsl_testing.example import VALUES, Example
from nldsl_testing.runs import Falsified, Run, agree, compiled, interpret, rounding, with_future
from nldsl_testing.subject import Subject, Tensors, cut


@dataclass(frozen=True)
class Property:
    """Something that holds of every example.

    Attributes:
        name, says: in one word, and in one line.
        check: raises `Falsified` where it does not hold.
        applies: why it cannot be asked of a block, or None.
        examples: as a share of those of the first property.
        ticks: the longest sequence, as a share.
        values: ways to draw inputs.
        lowerings: those it is asked of; None is all.
    """

    name: str
    says: str
    check: Callable[[Subject, Example], None]
    applies: Callable[[Subject], str | None] = lambda subject: None
    examples: float = 1.0
    ticks: float = 1.0
    batch: int = 3
    values: Sequence[str] = VALUES[:5]
    noise: Sequence[float] = (0.2, 0.0, 1.0)
    lowerings: Sequence[str] | None = None


def lowerings(subject: Subject, example: Example) -> None:
    """A lowering gives the interpreter's first values, outputs, states and gradients."""
    _first_values(subject, example.lowering)
    agree(subject, example, compiled(subject, example), interpret(subject, example), f"`{example.lowering}` and the interpreter")


def _first_values(subject: Subject, lowering: str) -> None:
    """Parameters of a new module start as the interpreter's, where they are not drawn; they are computed in float32."""
    first, other = (subject.interpreter.parameters(torch.float32, torch.Generator().manual_seed(seed)) for seed in (0, 1))
    own = subject.module(lowering).state_dict()
    for name, value in first.items():
        if equal(value, other[name]) and not torch.allclose(own[name].double(), value.double(), rtol=1e-5, atol=1e-6, equal_nan=True):
            raise Falsified(f"in `{lowering}` the first value of `{name}` is not the interpreter's", name)


def derivatives(subject: Subject, example: Example) -> None:
    """Autodiff of the declared objectives is the update that was derived, and no later pass changes it."""
    wanted = interpret(subject, example)
    units, types, key = subject.elaborated.parts
    for name, passes in (("the derived updates", explicit), ("the plan", _planned)):
        made = {k: passes(u, types[k]) for k, u in units.items()}
        machine = Interpreter({k: u for k, (u, _) in made.items()}, {k: t for k, (_, t) in made.items()}, key)
        agree(subject, example, interpret(subject, example, by=machine), wanted, f"{name} and autodiff of the objectives")


def _planned(unit, types):  # type: ignore[no-untyped-def]
    found = plan(unit, types)
    return found.unit, found.types


def splits(subject: Subject, example: Example) -> None:
    """Any split into calls and steps, by any lowering, gives what one call gives."""
    agree(subject, example, compiled(subject, example, pieces=True), compiled(subject, example), "in pieces and as a whole")


def causality(subject: Subject, example: Example) -> None:
    """Outputs, and what they depend on, are the same bit for bit whatever comes after them.

    As long as that is numbers: a product with what comes later is a product with 0, and 0 * inf is no number.
    """
    prefix, longer = example.ticks, with_future(example)
    one = longer.inputs(subject)
    new = _another(subject, one)
    other = {n: torch.cat([x[:, :prefix], new[n][:, prefix:]], 1) for n, x in one.items()}
    runs = [compiled(subject, longer, inputs=x) for x in (one, other)]
    if not all(y.isfinite().all() for run in runs for y in run.y.values()):
        return
    for name, y in runs[0].y.items():
        # The proof says how far behind the inputs an output stays; with a change from tick `prefix` on, it is the same so much longer.
        lags = [subject.proof.lags.get((name, i.name)) for i in subject.inputs]
        same = min((prefix + lag for lag in lags if lag is not None), default=longer.ticks)
        for t in range(min(same, longer.ticks)):
            if not equal(y[:, t], runs[1].y[name][:, t]):
                raise Falsified(f"output `{name}` of tick {t} depends on inputs of tick {prefix + max(0, t - prefix)} or later", name)
    weights = {n: w[:, :prefix] for n, w in runs[0].weights().items()}
    first, second = (run.gradients(weights) for run in runs)
    for name, g in first.items():
        if g is not None and name in one:
            if g[:, prefix:].nan_to_num().any():
                raise Falsified(f"outputs before tick {prefix} have a gradient with respect to later ticks of `{name}`", name)
        elif not equal(g, second[name]):
            raise Falsified(f"the gradient of `{name}` of outputs before tick {prefix} depends on later inputs", name)


def _another(subject: Subject, inputs: Tensors) -> Tensors:
    """Other values of the same kinds."""
    bounds = {i.name: i.type.bound for i in subject.inputs}

    def other(name: str, x: torch.Tensor) -> torch.Tensor:
        if x.is_floating_point():
            return x.flip(-1) + 3 * x + 1
        bound = bounds[name]
        return (x + 1) % (bound.integer if bound is not None and bound.integer else 2)

    return {n: other(n, x) for n, x in inputs.items()}


def batches(subject: Subject, example: Example) -> None:
    """A sequence has the same numbers alone and among others, whatever the others are."""
    example = replace(example, batch=max(2, example.batch))
    one = example.inputs(subject)
    new = _another(subject, one)
    other = {n: torch.cat([x[:1], new[n][1:]]) for n, x in one.items()}
    among, changed = compiled(subject, example, inputs=one), compiled(subject, example, inputs=other)
    for name, y in among.y.items():
        if not equal(y[:1], changed.y[name][:1]):
            raise Falsified(f"output `{name}` of one sequence depends on another", name)
    alone = replace(example, batch=1)
    first = {n: x[:1] for n, x in one.items()}
    run = compiled(subject, alone, inputs=first)
    kept = Run({n: y[:1] for n, y in among.y.items()}, {n: v[:1] if v.dim() else v for n, v in among.state.items()}, {})
    agree(subject, alone, kept, Run(run.y, run.state, {}), "among others and alone", gradients=False)


def cadence(subject: Subject, example: Example) -> None:
    """Every memory changes at the ticks of the timeline and at no other, when run whole and tick by tick."""
    ticks = subject.timeline
    params, x = subject.parameters(example.seed, example.noise), example.inputs(subject)
    module = subject.fresh(example.lowering, params)
    keys = {ticks.state(m): m for m in ticks.memories}
    due = {m: ticks.writes(m) | ticks.resets(m) for m in ticks.memories}
    with torch.no_grad():
        first = subject.initial_state(module, example.batch)
        by_steps = [first]
        in_calls, meant = [first], [first]
        for t in range(example.ticks):
            by_steps.append(subject.step(module, cut(x, t, t + 1), by_steps[-1])[1])
            in_calls.append(subject.call(module, cut(x, 0, t + 1))[1])
            state = None if t == 0 else meant[-1]
            meant.append(subject.interpreter.run(params, cut(x, t, t + 1), state)[1])
    for key, memory in keys.items():
        for t in range(example.ticks):
            moves = [key in run[t] and not same(run[t][key], run[t + 1][key]) for run, same in ((meant, equal), (by_steps, equal), (in_calls, close))]
            if moves[0] and t % ticks.period not in due[memory]:
                raise Falsified(f"`{memory}` changes at tick {t}, which is none of its clock", key)
            for how, moved, run in (("tick by tick", moves[1], by_steps), ("in one call", moves[2], in_calls)):
                # What moves by no more than the run was off before may seem to rest.
                at, off = run if moved else meant, 10 * difference(run[t].get(key), meant[t].get(key))
                least = off + TOLERANCE * max(meant[t + 1][key].norm().item(), LEAST)
                if key in run[t] and moved != moves[0] and difference(at[t + 1][key], at[t][key]) > least:
                    raise Falsified(f"`{memory}` {'changes' if moved else 'does not change'} at tick {t} when run {how}; its clock says otherwise", key)


def states(subject: Subject, example: Example) -> None:
    """A state that was saved and loaded goes on bit for bit; it and the inputs are left as they were; nothing is random."""
    params, x = subject.parameters(example.seed, example.noise), example.inputs(subject)
    module = subject.fresh(example.lowering, params)
    longer = with_future(example, 2)
    x = longer.inputs(subject)
    with torch.no_grad():
        _, state = subject.call(module, cut(x, 0, example.ticks))
        saved, params_saved = _saved(state), _saved(dict(module.state_dict()))
        rest = cut(x, example.ticks, longer.ticks)
        copies = {n: v.clone() for n, v in rest.items()}
        y, after = subject.call(module, rest, state)
        for n, v in rest.items():
            if not equal(v, copies[n]):
                raise Falsified(f"a call writes into its input `{n}`", n)
        for n, v in saved.items():
            if not equal(v, state[n]):
                raise Falsified(f"a call writes into the state it was given, `{n}`", n)
        again = subject.fresh(example.lowering, params_saved)
        for run_y, run_state in (subject.call(again, rest, saved), subject.call(again, rest, state)):
            for n in y:
                if not equal(y[n], run_y[n]):
                    raise Falsified(f"output `{n}` after a state was saved and loaded is not what it was", n)
            for n in after:
                if not equal(after[n], run_state[n]):
                    raise Falsified(f"state `{n}` after a state was saved and loaded is not what it was", n)


def endings(subject: Subject, example: Example) -> None:
    """The end of a stream at any tick does what `flush` says, once; the ticks after it go on from there."""
    params, longer = subject.parameters(example.seed, example.noise), with_future(example)
    x = longer.inputs(subject)
    module = subject.fresh(example.lowering, params)
    first, rest = cut(x, 0, example.ticks), cut(x, example.ticks, longer.ticks)
    with torch.no_grad():
        meant = subject.interpreter.finish(params, before := subject.interpreter.run(params, first)[1])
        found = subject.finish(module, subject.call(module, first)[1])
        again = subject.finish(module, found)
        runs = [subject.interpreter.run(params, rest, meant), subject.call(module, rest, found)]
    for key, state in subject.states.items():
        if key not in found:
            continue
        partial = (example.ticks - state.offset) % state.every
        if state.flush == "carry" and not equal(meant[key], before[key]):
            raise Falsified(f"the end of the stream changes `{key}`, which carries its period on", key)
        if state.flush == "apply" and not partial and not equal(meant[key], before[key]):
            raise Falsified(f"the end of the stream changes `{key}` at the end of a whole period", key)
        if not equal(found[key], again[key]):
            raise Falsified(f"a second end of the stream changes `{key}`", key)
    agree(subject, longer, Run({}, found, {}), Run({}, meant, {}), "the end of the stream and the interpreter's", gradients=False)
    agree(subject, longer, Run(*runs[1], {}), Run(*runs[0], {}), "after the end of the stream", gradients=False)


def _ends(subject: Subject) -> str | None:
    return None if any(s.flush != "carry" for s in subject.states.values()) else "no memory says `flush`"


def _saved(tensors: Tensors) -> Tensors:
    file = io.BytesIO()
    torch.save(tensors, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def finite(subject: Subject, example: Example) -> None:
    """First values are numbers; where the interpreter in float32 gives numbers, so does every lowering; and inputs that are zero give some.

    Of an example whose numbers leave the range of float32 on the way, as the square of one does, the interpreter's are as meaningless as none.
    """
    for name, value in subject.parameters(example.seed, example.noise).items():
        if not value.isfinite().all():
            raise Falsified(f"the first value of `{name}` is not finite", name)
    wanted, found = interpret(subject, example, torch.float32), compiled(subject, example, torch.float32)
    weights = wanted.weights()
    gradients = wanted.gradients(weights)
    kinds = (("output", found.y, wanted.y), ("state", found.state, wanted.state), ("gradient of", found.gradients(weights), gradients))
    numbers = [v.nan_to_num(0.0) for _, _, b in kinds for v in b.values() if v is not None]
    for kind, a, b in kinds if within_range(numbers, torch.float32) else ():
        for name in b:
            g, w = a.get(name), b[name]
            if g is not None and g.is_floating_point() and not g.isfinite().all() and (w is None or w.isfinite().all()):
                if max(rounding(subject, example, interpret(subject, example), torch.float32, True).values()) < 0.5:
                    raise Falsified(f"{kind} `{name}` is not finite in float32, where the interpreter's is", name)
    if example.values in ("zeros", "sparse"):
        for kind, values in (("output", wanted.y), ("state", wanted.state), ("gradient of", gradients)):
            for name, v in values.items():
                if v is not None and v.is_floating_point() and v.isnan().any() and _undefined(subject, example, kind, name):
                    raise Falsified(f"the spec itself gives no number where inputs are zero: {kind} `{name}`", name)


def _undefined(subject: Subject, example: Example, kind: str, name: str) -> bool:
    """Whether the interpreter gives none in float64 and with usual params either, so that nothing has merely overflowed:

    it has none at the first tick, or has some where inputs are not zero.
    """

    def undefined(example: Example) -> bool:
        run = interpret(subject, replace(example, noise=min(example.noise, 1.0)))
        v = run.y.get(name) if kind == "output" else run.state.get(name) if kind == "state" else run.gradients(run.weights()).get(name)
        return v is not None and bool(v.isnan().any())

    return undefined(example) and (undefined(replace(example, cuts=(1,))) or not undefined(replace(example, values="normal")))


def precision(subject: Subject, example: Example) -> None:
    """In float32 and bfloat16 a lowering loses no more digits than the computation itself."""
    wanted = interpret(subject, example)
    for dtype in subject.dtypes:
        found = compiled(subject, example, dtype)
        agree(subject, example, found, wanted, f"`{example.lowering}` in {str(dtype)[6:]}", dtype=dtype)


def slopes(subject: Subject, example: Example) -> None:
    """Gradients are the slopes of the outputs, by finite differences."""
    example = replace(example, cuts=(min(example.ticks, 4),), batch=1)
    params = subject.parameters(example.seed, example.noise)
    x = example.inputs(subject)
    module = subject.fresh(example.lowering, params)
    names = [n for n in params if n in subject.trained]
    weights: Tensors = {}

    def of(run_module: bool) -> Callable[..., torch.Tensor]:
        def loss(*leaves: torch.Tensor) -> torch.Tensor:
            held = dict(zip([*names, *reals], leaves, strict=True))
            inputs = {n: held.get(f"input {n}", v) for n, v in x.items()}
            if run_module:
                y = subject.outputs(torch.func.functional_call(module, {n: held[n] for n in names}, tuple(inputs[i.name] for i in subject.inputs)))
            else:
                y, _ = subject.interpreter.run({**params, **{n: held[n] for n in names}}, inputs)
            weights.update({} if weights else Run(y, {}, {}).weights())
            total = sum((y[n] * w).sum() for n, w in weights.items())
            return torch.as_tensor(total)

        return loss

    reals = [f"input {n}" for n, v in x.items() if v.is_floating_point()]
    leaves = [params[n].clone().requires_grad_() for n in names] + [x[n[6:]].clone().requires_grad_() for n in reals]
    if leaves and not _gradcheck(of(True), leaves) and _gradcheck(of(False), leaves):
        raise Falsified("gradients differ from the slopes of the outputs, those of the interpreter do not", *subject.trained)


def _gradcheck(f: Callable[..., torch.Tensor], leaves: list[torch.Tensor]) -> bool:
    if not f(*leaves).requires_grad:
        return True
    return torch.autograd.gradcheck(f, leaves, eps=1e-6, atol=1e-5, rtol=1e-3, fast_mode=True, raise_exception=False)


def _has_slopes(subject: Subject) -> str | None:
    ops = {e.op for _, unit in subject.parts for e in unit.equations}
    inside = {p.op for _, unit in subject.parts for e in unit.equations if e.op == "grad" for p in e.attr("objective").equations}
    stopped = (ops | inside) & {"stop", "bfloat16"}
    return f"`{min(stopped)}` makes gradients other than slopes" if stopped else None


def proof(subject: Subject, example: Example) -> None:
    """Every read depends on earlier writes only, by a proof over all ticks."""
    found = subject.proof
    if not found.holds:
        raise Falsified("; ".join(d.message for d in found.violations))


def _is_apart(subject: Subject) -> str | None:
    shared = any(m.shared is not None for _, unit in subject.parts for m in unit.memories)
    return "memories are shared by the sequences of a batch" if shared else None


PROPERTIES: tuple[Property, ...] = (
    Property("proof", "each read depends only on earlier writes, proven for all ticks", proof, examples=0.01),
    Property("lowerings", "every lowering = interpreter: outputs, states, gradients", lowerings),
    Property("derivatives", "autodiff of the declared objectives = the derived updates", derivatives, examples=0.4, lowerings=("chosen",)),
    Property("splits", "any split into calls and steps, by any schedule = one call", splits),
    Property("causality", "a changed future changes no bit of the past, nor its gradients", causality, examples=0.6),
    Property("batches", "a sequence alone = the same among others", batches, applies=_is_apart, examples=0.5),
    Property("cadence", "every memory changes at the ticks of its timeline, and at no other", cadence, examples=0.4, noise=(0.2, 1.0), values=VALUES[:1]),
    Property("endings", "the end of a stream does what `flush` says, once, at any tick", endings, applies=_ends, examples=0.4),
    Property("states", "saved and loaded at any tick, a state goes on bit for bit", states, examples=0.4),
    Property("finite", "outputs and gradients stay finite: extreme retention, large, zero and repeated keys", finite, examples=0.8,
             values=(*VALUES[1:], "normal"), noise=(1.0, 10.0, 30.0)),
    Property("precision", "float32 and bfloat16 lose no more than the computation must", precision, examples=0.4, ticks=0.7),
    Property("slopes", "gradients = finite differences", slopes, applies=_has_slopes, examples=0.2),
)  # fmt: skip

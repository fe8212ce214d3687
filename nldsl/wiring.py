"""How the objective of a `train` block uses its model: what feeds its inputs, which outputs are read.

    minimize cross_entropy(model(byte), next)                one output
    m = model(byte, next)  minimize m.loss                   several: the reading has a name first, as everywhere

A model that takes `next` learns from the answers while it reads. What it predicts must not see them: its logits at a
tick may depend on the answers of the ticks before, never on that of the tick itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from nldsl import tree
from nldsl.check.reading import Reading
from nldsl.core import Instance, Ref, Type, Unit
from nldsl.diagnostics import Diagnostic, Label
from nldsl.dims import Dim
from nldsl.source import Span
from nldsl.walk import walk

STREAMS = ("byte", "next")
LOGITS = "logits"
VOCABULARY = Dim.of(256)
HELP = "minimize cross_entropy(model(byte), next) by adamw(lr = 2e-3)"


@dataclass(frozen=True)
class Wiring:
    """What a trainer has to know of a model.

    Attributes:
        inputs: `byte` or `next`, for each input of the model in its order.
        logits: the output that predicts the next byte; None where the model has one output, which then is it.
        read: the outputs that the objective takes, in its order; empty where the model has one output.
    """

    inputs: tuple[str, ...] = ("byte",)
    logits: str | None = None
    read: tuple[str, ...] = ()

    @property
    def answers(self) -> bool:
        """Whether the model is told the byte that follows."""
        return "next" in self.inputs


ALONE = Wiring()
"""A model that takes the byte and gives logits."""


@dataclass(frozen=True)
class Use:
    """The one place where a `train` block applies its model: `call`, named by the equation `reading` if by any."""

    call: tree.Call
    reading: tree.Equation | None


def use_of(body: tuple[tree.Stmt, ...], objective: tree.Expr) -> Use | None:
    """The use of the model in a `train` block; None where there is none, or several that differ."""
    inline = {c for c in walk(objective) if is_use(c)}
    named = [s for s in body if isinstance(s, tree.Equation) and s.name.id != "model" and is_use(s.expr)]
    if len(inline) + len(named) != 1:
        return None
    call = named[0].expr if named else inline.pop()
    assert isinstance(call, tree.Call)
    if named and named[0].name.id not in {n.id.partition(".")[0] for n in walk(objective) if isinstance(n, tree.Name)}:
        return None
    return Use(call, named[0] if named else None)


def is_use(node: Any) -> bool:
    """`model(...)`."""
    return isinstance(node, tree.Call) and isinstance(node.fn, tree.Name) and node.fn.id == "model"


def checked_block(train: tree.Train, objective: tree.Expr, use: Use, model: tree.Call) -> tree.Block:
    """The objective as a block over the streams of the data, with the model at its parameters in it."""
    whole = tree.Call(model.fn, (*use.call.args, *model.args), use.call.span)
    ins = [(name, tree.IntType(tree.Num(256, objective.span), objective.span)) for name in STREAMS]
    if use.reading is None:
        return _block(train, ins, [], substitute(objective, use.call, whole))
    return _block(train, ins, [replace(use.reading, expr=whole)], objective)


def objective_block(
    train: tree.Train, objective: tree.Expr, use: Use, wiring: Wiring, outputs: Mapping[str, Type]
) -> tree.Block:
    """The objective as a block over the outputs it reads, and `next`."""
    span = objective.span
    names = wiring.read or tuple(outputs)
    for name in names:
        if use.reading is None:
            old: tree.Expr = use.call
        else:
            reading = use.reading.name.id
            old = tree.Name(f"{reading}.{name}" if wiring.read else reading, span)
        objective = substitute(objective, old, tree.Name(f"model_{name}", span))
    ins = [(f"model_{name}", _type(outputs[name], span)) for name in names]
    return _block(train, [*ins, ("next", tree.IntType(tree.Num(256, span), span))], [], objective)


def wire(
    units: Mapping[str, Unit], types: Mapping[str, Mapping[str, Type]], key: str, block: str, use: Use, objective: tree.Expr
) -> tuple[Wiring, dict[str, Type]] | Diagnostic:
    """How the block `key` uses the model, and the types of the model's outputs; or what is wrong with that."""
    instance = next(i for i in units[key].instances if i.block == block)
    assert instance.unit is not None
    inputs = _inputs(instance, units[instance.unit])
    span = use.call.span
    if len(inputs) != len(instance.args) or sorted(inputs.values()) not in (["byte"], ["byte", "next"]):
        return Diagnostic("NL721", "a model takes the streams of the data as they are", (Label(span),),
                          expected="model(byte), or model(byte, next)", found=f"`{span.text}`", help=HELP)  # fmt: skip
    outputs = {name: types[key][f"{instance.name}.{name}"] for name in instance.outputs}
    several = len(outputs) > 1
    if several and LOGITS not in outputs:
        return Diagnostic("NL721", f"none of the outputs of `{block}` is named `{LOGITS}`", (Label(span),),
                          expected="out logits : what predicts the next byte", found=", ".join(f"`{n}`" for n in outputs))  # fmt: skip
    logits = LOGITS if several else next(iter(outputs))
    if several and (outputs[logits].kind, outputs[logits].shape, outputs[logits].axes) != ("real", (VOCABULARY,), ()):
        return Diagnostic("NL716", "the logits have the wrong shape for training on bytes", (Label(span),),
                          expected="real[256]", found=str(outputs[logits]))  # fmt: skip
    if any(name in seen_at_once(units, instance.unit, logits) for name, stream in inputs.items() if stream == "next"):
        return Diagnostic("NL731", f"`{logits}` knows the byte it has to predict", (Label(span),),
                          expected="a prediction that the answers of earlier ticks have changed, not that of its own",
                          found=f"a way from `next` to `{logits}` within one tick",
                          help="read what learns from the answer with `last`")  # fmt: skip
    read: tuple[str, ...] = ()
    if several:
        assert use.reading is not None
        mentioned = {node.id for node in walk(objective) if isinstance(node, tree.Name)}
        read = tuple(n for n in outputs if f"{use.reading.name.id}.{n}" in mentioned)
    order = [i.name for i in units[instance.unit].inputs]
    return Wiring(tuple(inputs[n] for n in order), LOGITS if several else None, read), outputs


def _inputs(instance: Instance, unit: Unit) -> dict[str, str]:
    """The stream of the data behind each input; what is none is left out."""
    names = [i.name for i in unit.inputs]
    return {
        given or names[n]: atom.name for n, (given, atom) in enumerate(instance.args) if isinstance(atom, Ref) and atom.name in STREAMS
    }


def seen_at_once(units: Mapping[str, Unit], key: str, output: str) -> set[str]:
    """The inputs of a unit that an output depends on within one tick."""
    unit = units[key]
    reading = Reading.of(unit)
    inputs = {i.name for i in unit.inputs}
    stack = [atom.name for name, atom in unit.outputs if name == output and isinstance(atom, Ref)]
    seen: set[str] = set()
    while stack:
        name = stack.pop()
        if name in seen:
            continue
        seen.add(name)
        instance = reading.instances.get(name)
        if instance is None:
            stack += [a.name for a in reading.atoms(name) if isinstance(a, Ref)]
            continue
        assert instance.unit is not None
        through = seen_at_once(units, instance.unit, name.removeprefix(f"{instance.name}."))
        order = [i.name for i in units[instance.unit].inputs]
        stack += [a.name for n, (given, a) in enumerate(instance.args) if isinstance(a, Ref) and (given or order[n]) in through]
    return seen & inputs


def substitute(node: Any, old: Any, new: Any) -> Any:
    """A tree with every `old` in it replaced."""
    if node == old:
        return new
    if isinstance(node, tuple):
        return tuple(substitute(n, old, new) for n in node)
    if hasattr(node, "__dataclass_fields__") and not isinstance(node, Span):
        return replace(node, **{k: substitute(v, old, new) for k, v in vars(node).items() if k != "span"})
    return node


def _block(train: tree.Train, inputs: list[tuple[str, Any]], body: list[tree.Stmt], objective: tree.Expr) -> tree.Block:
    span = objective.span
    ins = tuple(tree.In((tree.Declared(name, None, span),), type, span) for name, type in inputs)
    return tree.Block(train.name, (), (*ins, *body, tree.Out(tree.Declared("loss", None, span), objective, span)), train.span)


def _type(type: Type, span: Span) -> tree.Type:
    """The type of an output as the author would write it; sizes are known."""
    dims = tuple(tree.Num(int(d.integer or 0), span) for d in type.shape)
    return tree.IntType(tree.Num(int(type.bound.integer or 0), span), span) if type.kind == "int" and type.bound else tree.RealType(dims, span)

"""Hypothesis strategies for syntax trees: every tree here is one that some text parses to."""

from __future__ import annotations

from hypothesis import strategies as st

from nldsl import tree
from nldsl.parse_table import tables
from nldsl.source import Source, Span

SPAN = Span(Source("<made>", ""), 0, 0)

names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,6}", fullmatch=True).filter(lambda text: text not in tables().words)
dotted = st.lists(names, min_size=2, max_size=3).map(".".join)
plain_text = st.text(st.characters(codec="utf-8", exclude_characters="\ufffd"), max_size=8)


def node(kind, *parts):
    return st.builds(lambda *values: kind(*values, SPAN), *parts)


def tuples(part, least=0, most=3):
    return st.lists(part, min_size=least, max_size=most).map(tuple)


def optional(part):
    return st.none() | part


name_exprs = node(tree.Name, names | dotted)
numbers = node(tree.Num, st.integers(0, 10**12) | st.floats(0, 1e300, allow_nan=False))
atoms = st.one_of(name_exprs, name_exprs, numbers, node(tree.Str, plain_text))


def _compound(part):
    place = name_exprs | node(tree.Index, name_exprs, part)
    return st.one_of(
        node(tree.Index, part, part),
        node(tree.Call, part, tuples(node(tree.Arg, optional(names | st.just("at")), part))),
        node(tree.Unary, st.just("-"), part),
        node(tree.Binary, st.sampled_from("+-*/^"), part, part),
        node(tree.Last, place),
        node(tree.Start, part, place),
        node(tree.ListOf, tuples(part)),
        node(tree.Range, part, part),
        node(tree.Sum, part, names, part),
    )


exprs = st.recursive(atoms, _compound, max_leaves=8)
args = node(tree.Arg, optional(names), exprs)
maps = node(tree.MapType, exprs, exprs)
types = st.one_of(
    node(tree.RealType, tuples(exprs)),
    node(tree.IntType, optional(exprs)),
    node(tree.BoolType),
    maps,
    node(tree.StoreType, maps, tuples(args, most=2)),
    node(tree.LikeType, names),
)
structures = node(tree.StructureType, exprs)
declared = node(tree.Declared, names, optional(exprs))
updates = node(tree.Update, exprs) | st.builds(lambda e: tree.Update(e, SPAN, True), exprs)
by = tuples(exprs | node(tree.Step, exprs, exprs), least=1)
steps = st.builds(
    lambda e, over, by, start: tree.Minimize(e, over, by, SPAN, (), start), exprs, optional(names), by, optional(exprs)
)
selectors = st.one_of(
    node(tree.Name, names),
    node(tree.Str, plain_text),
    node(tree.Call, node(tree.Name, names), tuples(args, least=1)),
)
routes = node(tree.Route, selectors, exprs, optional(exprs))
routed = st.builds(lambda e, r: tree.Minimize(e, None, (), SPAN, r), exprs, tuples(routes, least=1))
minimizes = st.builds(lambda e, by: tree.Minimize(e, None, by, SPAN), exprs, by) | routed
places = name_exprs | node(tree.Index, name_exprs, exprs)
resets = node(tree.Reset, names, st.none()) | st.builds(
    lambda period, to: tree.Reset("every", period, SPAN, to), exprs, optional(places)
)
clauses = st.one_of(node(tree.Key, exprs), node(tree.Value, exprs), steps, updates, resets, node(tree.Writes, names), node(tree.Flush, names), node(tree.Shared, names))
equations = node(tree.Equation, declared, exprs)
settings = node(tree.Equation, st.just(tree.Declared("schedule", None, SPAN)), exprs)
hows = st.one_of(
    node(tree.How, st.just("by"), node(tree.Name, names)),
    node(tree.How, names, st.none() | node(tree.Name, names) | numbers),
)
asks = node(tree.Ask, optional(places), tuples(hows, least=1))
simple = st.one_of(
    node(tree.In, tuples(declared, least=1), types),
    node(tree.Param, tuples(declared, least=1), types, optional(exprs)),
    node(tree.Memory, declared, types | structures, optional(exprs), optional(exprs), optional(exprs), tuples(clauses)),
    equations,
    node(tree.Out, declared, optional(exprs)),
)


def statements(leaf):
    """Statements with nested bodies of a given kind of simple statement."""

    def loops(part):
        body = tuples(part)
        return st.one_of(
            node(tree.Each, names, exprs, body),
            node(tree.For, names, exprs, body),
            node(tree.Chain, names, exprs, names, exprs, body),
        )

    return st.recursive(leaf, loops, max_leaves=3)


sized = node(tree.RealType, tuples(exprs)) | node(tree.MapType, node(tree.Name, names), node(tree.Name, names))
formals = tuples(node(tree.Formal, names, optional(exprs)))
items = st.one_of(
    node(tree.Import, names | dotted),
    node(tree.Const, names, exprs),
    node(tree.Block, names, formals, tuples(statements(simple), most=4)),
    st.builds(
        lambda name, formals, body, on: tree.Rule(name, formals, body, SPAN, *on),
        names,
        formals,
        tuples(statements(simple | updates), most=4),
        st.just((None, None)) | st.tuples(types, optional(names), optional(names)) | st.builds(
            lambda roles, shape, other, word: (shape, other, word if shape is not None else None, roles),
            tuples(node(tree.Name, names), least=1), optional(sized), optional(names), optional(names),
        ),
    ),
    node(tree.Schedule, names, tuples(asks, most=4)),
    node(tree.Train, names, tuples(equations | settings | minimizes, most=4)),
)
files = node(tree.File, tuples(items, most=3))

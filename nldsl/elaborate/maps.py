"""Which blocks are maps: without params, memories and a past, so that each use of one is its equations, written out in place."""

from __future__ import annotations

from nldsl import tree
from nldsl.elaborate.scope import Constant, Scope
from nldsl.walk import walk

PAST = {"conv", "delay", "rope", "count"}  # words that look at other ticks
KEPT = (tree.Memory, tree.Param, tree.Each, tree.Last, tree.Start)


def looks_back(node: object) -> bool:
    return isinstance(node, tree.Call) and isinstance(node.fn, tree.Name) and node.fn.id in {*PAST, "attend"}


def is_map(block: tree.Block, home: Scope, known: dict[int, bool]) -> bool:
    """Whether a block, and every block it uses, has one output and nothing that is kept.

    Args:
        home: where the names of its file are.
        known: the answers so far, by the id of a block.
    """
    if id(block) not in known:
        known[id(block)] = False  # while it is asked: a block inside itself is none
        known[id(block)] = _is_map(block, home, known)
    return known[id(block)]


def _is_map(block: tree.Block, home: Scope, known: dict[int, bool]) -> bool:
    body, formals = _body(block), {f.name for f in block.formals}
    if sum(isinstance(s, tree.Out) for s in body) != 1 or not tree.inputs(block.body):
        return False
    for node in walk(body):
        if isinstance(node, KEPT) or looks_back(node):
            return False
        if isinstance(node, tree.Call) and isinstance(node.fn, tree.Name):
            found = home.find(node.fn.id)
            used = found.value if isinstance(found, Constant) and isinstance(found.value, tree.Block) else None
            if node.fn.id in formals or (used is not None and not is_map(used, home, known)):
                return False
    return True


def needed(block: tree.Block) -> tuple[tree.Formal, ...]:
    """The parameters that the equations of a map mention; the others are sizes of its inputs, which it is given."""
    named = {n.id for n in walk((_body(block), tuple(f.default for f in block.formals))) if isinstance(n, tree.Name)}
    return tuple(f for f in block.formals if f.name in named)


def to_give(block: tree.Block) -> set[str]:
    """The parameters that a map needs at its use: those without a default, and sizes, which are otherwise read off its arguments."""
    sizes = {n.id for s in tree.inputs(block.body) for n in walk(s.type) if isinstance(n, tree.Name)}
    return {f.name for f in needed(block) if f.default is None or f.name in sizes}


def _body(block: tree.Block) -> tuple[tree.Stmt, ...]:
    return tuple(s for s in block.body if not isinstance(s, tree.In))

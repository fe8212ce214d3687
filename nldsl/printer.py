"""Trees back to text: expressions with the fewest brackets, and whole files (without comments)."""

from __future__ import annotations

from nldsl import tree

# How tightly a form binds, as in the grammar: range, + -, * /, unary -, ^, last, application and index, atoms.
_RANGE, _SUM, _PRODUCT, _MINUS, _POWER, _LAST, _APPLY, _ATOM = range(8)
_BINARY = {"+": _SUM, "-": _SUM, "*": _PRODUCT, "/": _PRODUCT, "^": _POWER}
_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "\r": "\\r"})


def print_expr(expr: tree.Expr) -> str:
    """The text of an expression, on one line."""
    return _at(expr, _RANGE)


def _at(expr: tree.Expr, least: int) -> str:
    """The text where the grammar asks for a form that binds at least so tightly."""
    text = _text(expr)
    return f"({text})" if _binds(expr) < least else text


def _binds(expr: tree.Expr) -> int:
    match expr:
        case tree.Range():
            return _RANGE
        case tree.Binary(op):
            return _BINARY[op]
        case tree.Unary():
            return _MINUS
        case tree.Num(value):
            return _MINUS if value < 0 else _ATOM
        case tree.Last() | tree.Start():
            return _LAST
        case tree.Call() | tree.Index() | tree.Sum():
            return _APPLY
        case _:
            return _ATOM


def _text(expr: tree.Expr) -> str:
    match expr:
        case tree.Num(value):
            return repr(value)
        case tree.Str(value):
            return f'"{value.translate(_ESCAPES)}"'
        case tree.Name(id):
            return id
        case tree.Index(base, index):
            return f"{_at(base, _APPLY)}[{print_expr(index)}]"
        case tree.Call(fn, args):
            return f"{_at(fn, _LAST)}({', '.join(map(_arg, args))})"
        case tree.Unary(op, operand):
            return f"{op}{_at(operand, _MINUS)}"
        case tree.Binary("^", left, right):
            return f"{_at(left, _LAST)}^{_at(right, _MINUS)}"
        case tree.Binary(op, left, right):
            return f"{_at(left, _BINARY[op])} {op} {_at(right, _BINARY[op] + 1)}"
        case tree.Last(operand):
            return f"last {_at(operand, _APPLY)}"
        case tree.Start(ticks, operand):
            return f"start({print_expr(ticks)}) {_at(operand, _APPLY)}"
        case tree.ListOf(items):
            return f"[{', '.join(map(print_expr, items))}]"
        case tree.Range(low, high):
            return f"{_at(low, _SUM)} .. {_at(high, _SUM)}"
        case tree.Sum(body, var, over):
            return f"sum({print_expr(body)} for {var} in {print_expr(over)})"
    raise TypeError(f"not an expression: {expr!r}")


def _arg(arg: tree.Arg) -> str:
    return print_expr(arg.value) if arg.name is None else f"{arg.name} = {print_expr(arg.value)}"


def print_type(type_: tree.Type) -> str:
    match type_:
        case tree.RealType(dims):
            return f"real[{', '.join(map(print_expr, dims))}]" if dims else "real"
        case tree.IntType(bound):
            return "int" if bound is None else f"int[{print_expr(bound)}]"
        case tree.BoolType():
            return "bool"
        case tree.MapType(domain, codomain):
            return f"{_at(domain, _SUM)} -> {_at(codomain, _SUM)}"
        case tree.StoreType(map_, args):
            return f"store({', '.join([print_type(map_), *map(_arg, args)])})"
        case tree.LikeType(name):
            return f"like({name})"
        case tree.StructureType(expr):
            return _at(expr, _SUM)
    raise TypeError(f"not a type: {type_!r}")


def print_stmt(stmt: tree.Stmt | tree.Clause | tree.Ask) -> str:
    """The text of a statement, a clause or a line of a schedule; the braces of a memory on one line."""
    match stmt:
        case tree.In(names, type_):
            return f"in {_names(names)} : {print_type(type_)}"
        case tree.Param(names, type_, init):
            return f"param {_names(names)} : {print_type(type_)}{_part(' =', init)}"
        case tree.Memory(name, type_, init, every, offset, clauses):
            head = f"memory {_names((name,))} : {print_type(type_)}"
            head += _part(" =", init) + _part(" every", every) + _part(" offset", offset)
            return f"{head} {{ {'  '.join(map(print_stmt, clauses))} }}"
        case tree.Equation(name, expr):
            return f"{_names((name,))} = {print_expr(expr)}"
        case tree.Each(var, range_, body):
            return f"each {var} in {print_expr(range_)} {_body(body)}"
        case tree.For(var, range_, body):
            return f"for {var} in {print_expr(range_)} {_body(body)}"
        case tree.Chain(name, init, var, range_, body):
            return f"chain {name} = {print_expr(init)} over {var} in {print_expr(range_)} {_body(body)}"
        case tree.Out(name, expr):
            return f"out {_names((name,))}{_part(' =', expr)}"
        case tree.Update(expr, sampled=sampled):
            return f"update {print_expr(expr)}{' over last' if sampled else ''}"
        case tree.Minimize(objective, routes=routes) if routes:
            return f"minimize {print_expr(objective)} {', '.join(map(_route, routes))}"
        case tree.Minimize(objective, over, steps, start=start):
            over_ = f" over {over}" if over else ""
            at = f" at start({print_expr(start)})" if start is not None else ""
            return f"minimize {print_expr(objective)}{over_}{at} by {', '.join(map(_step, steps))}"
        case tree.Key(expr):
            return f"key {print_expr(expr)}"
        case tree.Value(expr):
            return f"value {print_expr(expr)}"
        case tree.Reset(when, period, to=to):
            return f"reset {when}{_part('', period)}{_part(' to', to)}"
        case tree.Ask(memory, how):
            return f"{'*' if memory is None else _at(memory, _APPLY)} {', '.join(map(_how, how))}"
        case tree.Writes(how):
            return f"writes {how}"
        case tree.Flush(how):
            return f"flush {how}"
        case tree.Shared(how):
            return f"shared {how}"
    raise TypeError(f"not a statement: {stmt!r}")


def print_item(item: tree.Item) -> str:
    match item:
        case tree.Import(path):
            return f"import {path}"
        case tree.Const(name, value):
            return f"const {name} = {print_expr(value)}"
        case tree.Block(name, formals, body):
            return f"block {name}{_formals(formals)} {_body(body)}"
        case tree.Rule(name, formals, body):
            return f"rule {name}{_formals(formals)}{_accepts(item)} {_body(body)}"
        case tree.Schedule(name, asks):
            return "\n".join([f"schedule {name} {{", *map(print_stmt, asks), "}"])
        case tree.Train(name, body):
            return f"train {name} {_body(body)}"
    raise TypeError(f"not an item: {item!r}")


def _step(step: tree.Expr | tree.Step) -> str:
    return f"{print_expr(step.rule)} every {print_expr(step.every)}" if isinstance(step, tree.Step) else print_expr(step)


def _how(how: tree.How) -> str:
    return how.word if how.value is None else f"{how.word} {'' if how.word == 'by' else '= '}{print_expr(how.value)}"


def _route(route: tree.Route) -> str:
    return f"{_text(route.selector)} by {print_expr(route.step)}{_part(' every', route.every)}"


def _names(names: tuple[tree.Declared, ...]) -> str:
    return ", ".join(d.id if d.index is None else f"{d.id}[{print_expr(d.index)}]" for d in names)


def _part(word: str, expr: tree.Expr | None) -> str:
    return "" if expr is None else f"{word} {print_expr(expr)}"


def _accepts(rule: tree.Rule) -> str:
    roles, shape = ", ".join(role.id for role in rule.roles), print_type(rule.on) if rule.on is not None else ""
    on = " ".join(part for part in (roles, shape, rule.word) if part)
    return (f" on {on}" if on else "") + (f" else {rule.otherwise}" if rule.otherwise else "")


def _formals(formals: tuple[tree.Formal, ...]) -> str:
    parts = [f.name if f.default is None else f"{f.name} = {print_expr(f.default)}" for f in formals]
    return f"({', '.join(parts)})" if parts else ""


def _body(body: tuple[tree.Stmt, ...]) -> str:
    return "{\n" + "".join(f"{print_stmt(stmt)}\n" for stmt in body) + "}"

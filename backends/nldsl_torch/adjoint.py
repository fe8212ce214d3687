"""The reverse of straight-line code: a function of tensors, and the function that takes its outputs' gradients back to its inputs.

Generated lines (assignments, `if test:` / `else:` that assign the same names) are cut in single operations. The reverse goes through
them from the last to the first with a rule for each; an operation without a rule runs under torch's own tape (`taped`).
What the reverse reads of the values in between, the function gives besides its results.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from nldsl_torch.adjoint_lines import CONSTANT, Branch, Inside, Item, Op, is_number, made, parts_of, with_operands
from nldsl_torch.adjoint_rules import RULES, SEVERAL, Rule
from nldsl_torch.adjoint_shapes import Shape, shape_of, shapes_of


@dataclass
class Adjoint:
    """Cuts lines in operations and writes both functions.

    Attributes:
        fresh: gives an unused Python name for a hint.
        inputs: the arguments; `whole` are those of whole numbers, which carry no gradients.
        sizes: shapes of names, where they are known.
    """

    fresh: Callable[[str], str]
    inputs: list[str]
    sizes: dict[str, Shape] = field(default_factory=dict)
    whole: frozenset[str] = frozenset()
    needed: dict[str, None] = field(default_factory=dict)  # values that the reverse reads
    objects: dict[str, None] = field(default_factory=dict)  # the same for what is not a tensor
    shapes: dict[str, str] = field(default_factory=dict)  # name -> the name of its shape in the reverse
    gradients: dict[str, str] = field(default_factory=dict)  # name -> the name of its gradient

    def __post_init__(self) -> None:
        self.active = set(self.inputs) - self.whole
        self.like = next(n for n in self.inputs if n in self.active)
        self.producer: dict[str, Op] = {}
        self.slopes: dict[str, str] = {}
        self.owned: dict[str, bool] = {}  # gradients so far, and whether they may be added to in place
        self.perhaps: set[str] = set()  # gradients of inputs that may be None
        self.minus: set[str] = set()  # gradients of which the negative is kept
        self.turned = False  # whether that is so for the operation in hand
        self.plain: list[str] = []  # lines that give no tensor
        self.constant: set[str] = set()  # tensors without gradients
        self.merged: set[str] = set()  # names that both sides of a branch assign

    def write(self, name: str, numbers: Sequence[str], lines: Sequence[str], outputs: Sequence[str], doc: str, fused: Callable[[str], str]) -> list[str]:
        """`name(numbers, inputs) -> (outputs, tensors kept, objects kept)` and its reverse `name_back`.

        `fused` gives further arguments of the decorator for the text of the function.
        """
        items = self._slopes(self.read(lines))
        given = [self.fresh(f"d {o}") for o in outputs]
        back: list[str] = []
        for o, d in zip(outputs, given, strict=True):
            if o in self.owned:
                self.give(back, o, d, fresh=False)
            elif o in self.active:
                self.gradients[o], self.owned[o] = d, False
        self._reverse(items, back)
        self.straight(back, self.inputs)
        returned = [self.gradients[n] if n in self.owned else "None" for n in self.inputs]
        partial = self._partial(items)
        kept = [n for n in self.needed if n not in self.inputs]
        sizes = [n for n in self.shapes if n not in self.needed and n not in self.inputs]
        objects = [*self.objects, *(f"{n} if {n} is None else {n}.shape" if n in partial else f"{n}.shape" for n in sizes)]
        taken = [*self.objects, *(self.shapes[n] for n in sizes)]
        head = [f"{self.shapes[n]} = {n}.shape{f' if {n} is not None else None' * (n in partial)}" for n in self.shapes if n not in sizes]
        used = "\n".join(back)
        head = [line for line in self.plain if re.search(rf"\b{line.partition(' = ')[0]}\b", used)] + head
        forward = self._forward(items)
        out = [f"def {name}_back({', '.join([*numbers, *self.inputs, *kept, *taken, *given])}):", f'    """Gradients of `{name}`."""',
               *(f"    {line}" for line in [*head, *back]), f"    return {_tuple(returned)}", "", ""]  # fmt: skip
        out += [f"@reversible({name}_back, {len(numbers)}{fused(chr(10).join(forward))})", f"def {name}({', '.join([*numbers, *self.inputs])}):"]
        return [*out, f'    """{doc}"""', *(f"    {line}" for line in forward), f"    return {_tuple(outputs)}, {_tuple(kept)}, {_tuple(objects)}"]

    # --- lines to operations -----------------------------------------------------------------------

    def read(self, lines: Sequence[str]) -> list[Item]:
        """Lines as single operations; the shapes of what they make are in `sizes` then."""
        items: list[Item] = []
        n = 0
        while n < len(lines):
            line = lines[n]
            n += 1
            if line.startswith("if "):
                sides: list[list[str]] = [[], []]
                side = 0
                while n < len(lines) and (lines[n].startswith("    ") or lines[n] == "else:"):
                    if lines[n] == "else:":
                        side = 1
                    else:
                        sides[side].append(lines[n][4:])
                    n += 1
                items.append(self._branch(line[3:-1], sides[0], sides[1]))
            elif line.startswith("#"):
                items.append(line)
            else:
                (statement,) = ast.parse(line).body
                assert isinstance(statement, ast.Assign), line
                self._assign(items, statement.targets[0], statement.value)
        return items

    def _branch(self, test: str, then: Sequence[str], other: Sequence[str]) -> Branch:
        return Branch(test, (self.read(then), self.read(other)))

    def _assign(self, items: list[Item], target: ast.expr, value: ast.expr) -> None:
        if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
            for t, v in zip(target.elts, value.elts, strict=True):
                self._assign(items, t, v)
            return
        name = ast.unparse(target)
        if isinstance(value, ast.IfExp):
            sides = tuple(f"{name} = {ast.unparse(v)}" for v in (value.body, value.orelse))
            items.append(self._branch(ast.unparse(value.test), [sides[0]], [sides[1]]))
        elif not self._active(value):
            line = f"{name} = {ast.unparse(value)}"
            if line.endswith(("n_", ".shape[0]")):
                self.plain.append(line)
            else:
                self.constant |= {t.id for t in ast.walk(target) if isinstance(t, ast.Name)}
            items.append(line)
        else:
            targets = tuple(t.id for t in target.elts if isinstance(t, ast.Name)) if isinstance(target, ast.Tuple) else (name,)
            self._operation(items, targets, value)

    def _names(self, node: ast.AST, among: set[str]) -> list[str]:
        return list(dict.fromkeys(n.id for n in ast.walk(node) if isinstance(n, ast.Name) and n.id in among))

    def _active(self, node: ast.expr) -> bool:
        """Whether gradients pass through an expression."""
        if isinstance(node, ast.Compare) or (isinstance(node, ast.Attribute) and node.attr in CONSTANT):
            return False
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in CONSTANT:
            return False
        if isinstance(node, ast.Name):
            return node.id in self.active
        return any(self._active(child) for child in ast.iter_child_nodes(node) if isinstance(child, ast.expr)) or (
            isinstance(node, ast.GeneratorExp) and self._active(node.generators[0].iter)
        )

    def _operation(self, items: list[Item], targets: tuple[str, ...], node: ast.expr, temporary: bool = False) -> None:
        parts = parts_of(node)
        if parts is None or parts[0] not in RULES or (len(targets) > 1) != (parts[0] in SEVERAL):
            op = Op(targets, node, "taped", tuple(self._names(node, self.active)), (), temporary)
        else:
            kind, operands, constants = parts
            names = [self._atom(items, x) for x in operands]
            op = Op(targets, with_operands(node, kind, names), kind, tuple(ast.unparse(x) for x in names), constants, temporary)
        items.append(op)
        self.active |= set(targets)
        self.merged |= {t for t in targets if t in self.producer or t in self.constant}
        self.producer |= dict.fromkeys(targets, op)
        if op.kind in SEVERAL:
            self.sizes |= dict(zip(targets, shapes_of(op.kind, self.sizes.get(op.args[0])), strict=False))
        elif op.kind != "taped" and targets[0] not in self.merged:
            self.sizes[targets[0]] = self._size(op)

    def _size(self, op: Op) -> Shape:
        if op.kind == "spread":
            own, to = self.sizes.get(op.args[0]), op.constants[0]
            if own is None or not to.startswith("("):
                return self.sizes.get(to)
            lead = tuple(n.strip() for n in to.strip("()").split(",") if n.strip())
            return (*lead, *own[len(own) - int(op.constants[1]) :])
        return shape_of(op.kind, [() if is_number(a) else self.sizes.get(a) for a in op.args], op.constants)

    def _atom(self, items: list[Item], node: ast.expr) -> ast.expr:
        """A name for what gradients pass through; anything else as it stands."""
        if isinstance(node, ast.Name | ast.Constant) or (not self._active(node) and not any(isinstance(n, ast.Name) for n in ast.walk(node))):
            return node
        name = self.fresh("part")
        if not self._active(node):
            self.constant.add(name)
            items.append(f"{name} = {ast.unparse(node)}")
            return ast.Name(name)
        self._operation(items, (name,), node, temporary=True)
        return ast.Name(name)

    def _slopes(self, items: list[Item]) -> list[Item]:
        """`gelu_pull(c, x)` as c times a slope, which the derivative of `gelu(x)` uses too."""
        out: list[Item] = []
        for item in items:
            if isinstance(item, Branch):
                item = Branch(item.test, (self._slopes(item.sides[0]), self._slopes(item.sides[1])))
            elif isinstance(item, Op) and item.kind == "gelu_pull":
                c, x = item.args
                slope = self.fresh(f"slope {x}")
                if x in self.active:
                    first = Op((slope,), ast.parse(f"gelu_slope({x})", mode="eval").body, "gelu_slope", (x,))
                    self.slopes[x] = slope
                    self.active.add(slope)
                    self.producer[slope] = first
                    self.sizes[slope] = self.sizes.get(x)
                    out.append(first)
                else:
                    self.constant.add(slope)
                    out.append(f"{slope} = gelu_slope({x})")
                item = Op(item.targets, ast.parse(f"{c} * {slope}", mode="eval").body, "mul", (c, slope))
                self.producer |= dict.fromkeys(item.targets, item)
                self.sizes[item.targets[0]] = self._size(item)
            out.append(item)
        return out

    # --- the reverse ---------------------------------------------------------------------------------

    def value(self, name: str) -> str:
        """The value of a name in the reverse; a view is written out."""
        op = self.producer.get(name)
        if op is not None and name not in self.merged and op.kind in ("mT", "unsqueeze", "same") and op.args[0] in self.active:
            inner = self.value(op.args[0])
            if op.kind == "mT":
                return inner[:-3] if inner.endswith(".mT") else f"{inner}.mT"
            return inner if op.kind == "same" else f"{inner}.unsqueeze({op.constants[0]})"
        if name in self.active or name in self.constant:
            self.needed[name] = None
        return name

    def transposed(self, name: str) -> str:
        text = self.value(name)
        return text[:-3] if text.endswith(".mT") else f"{text}.mT"

    def summed(self, text: str, name: str, given: Shape, *, lead: bool = False) -> str:
        """A gradient of the shape `given`, summed over what `name` was broadcast along; with `lead` but for the last two dimensions."""
        own = self.sizes.get(name)
        if own is not None and given is not None and (own[:-2] == given[:-2] if lead else own == given):
            return text
        return f"like({text}, {self.shape(name)})"

    def extent(self, name: str, dim: str) -> str:
        """The size of one dimension."""
        size = self.sizes.get(name)
        return f"{self.shape(name)}[{dim}]" if size is None else size[int(dim)]

    def shape(self, name: str) -> str:
        size = self.sizes.get(name)
        if size is not None:
            return f"({', '.join(size)}{',' if len(size) == 1 else ''})"
        if name not in self.shapes:
            self.shapes[name] = self.fresh(f"shape {name}")
        return self.shapes[name]

    def give(self, lines: list[str], name: str, text: str, *, fresh: bool, minus: bool = False, product: tuple[str, str, str] | None = None) -> None:
        """Add to the gradient of a name; a `fresh` tensor is nobody else's. A `product` (function, a, b) is what the text computes."""
        if name not in self.active:
            return
        if name not in self.gradients:
            self.gradients[name] = self.fresh(f"d {name}")
        d, minus = self.gradients[name], minus != self.turned
        if name not in self.owned:
            lines.append(f"{d} = {text}")
            self.owned[name] = fresh
            (self.minus.add if minus else self.minus.discard)(name)
            return
        if name in self.perhaps:
            self.perhaps.discard(name)
            turn = minus != (name in self.minus)
            lines.append(f"{d} = plus({d}, {f'-({text})' if turn else text})")
            self.owned[name] = fresh or turn
            return
        sign = "-" if minus != (name in self.minus) else "+"
        if product is not None:
            kind, a, b = product
            value = "" if sign == "+" else ", value=-1" if kind == "addcmul" else ", -1"
            if kind == "addcmul":
                lines.append(f"{d}.addcmul_({a}, {b}{value})" if self.owned[name] else f"{d} = torch.addcmul({d}, {a}, {b}{value})")
            else:
                lines.append(f"{d} = add_product{'_' * self.owned[name]}({d}, {a}, {b}{value})")
        else:
            lines.append(f"{d} {sign}= {text}" if self.owned[name] else f"{d} = {d} {sign} {text}")
        self.owned[name] = True

    def straight(self, lines: list[str], names: Iterable[str]) -> None:
        """Turn gradients kept as their negative."""
        for n in names:
            if n in self.minus and n in self.owned:
                self.minus.discard(n)
                lines.append(f"{self.gradients[n]} = -{self.gradients[n]}")
                self.owned[n] = True

    def _reverse(self, items: Sequence[Item], lines: list[str]) -> None:
        """Every operation from the last to the first, under the `.nl` line it comes from."""
        said = ""
        above = [next((x for x in reversed(items[: n + 1]) if isinstance(x, str) and x.startswith("#")), "") for n in range(len(items))]
        for item, comment in zip(reversed(items), reversed(above), strict=True):
            own: list[str] = []
            if isinstance(item, Branch):
                self._both(item, own)
            elif isinstance(item, Op):
                self._back(item, own)
            elif not item.startswith("#"):
                self.owned.pop(item.partition(" = ")[0], None)
            lines += [*([comment] if own and comment not in ("", said) else []), *own]
            said = comment if own else said

    def _back(self, op: Op, lines: list[str]) -> None:
        if not any(t in self.owned for t in op.targets):
            return
        if len(op.targets) > 1:
            self.straight(lines, op.targets)
        d = [self.gradients[t] if t in self.owned else "None" for t in op.targets]
        self.turned = op.targets[0] in self.minus
        for t in op.targets:
            self.owned.pop(t, None)
        rule: Rule = RULES[op.kind]
        rule(self, lines, op, d[0] if len(d) == 1 else f"({', '.join(d)})")
        self.turned = False

    def _both(self, branch: Branch, lines: list[str]) -> None:
        self.straight(lines, list(self.owned))
        before, perhaps = dict(self.owned), self.perhaps
        texts: list[list[str]] = []
        after: list[dict[str, bool]] = []
        maybe: set[str] = set()
        for side in branch.sides:
            self.owned, self.perhaps = dict(before), set(perhaps)
            text: list[str] = []
            self._reverse(side, text)
            self.straight(text, list(self.owned))
            texts.append(text)
            after.append(self.owned)
            maybe |= self.perhaps
        self.perhaps = maybe
        self.owned = {n: after[0].get(n, True) and after[1].get(n, True) for n in (*after[0], *after[1])}
        if not texts[0] and not texts[1]:
            return
        for text, own, other in zip(texts, after, reversed(after), strict=True):
            for n in other:
                if n not in own and n in self.inputs:
                    self.perhaps.add(n)
                    text.append(f"{self.gradients[n]} = None")
                elif n not in own:
                    text.append(f"{self.gradients[n]} = torch.zeros({self.shape(n)}, dtype={self.like}.dtype, device={self.like}.device)")
        lines += [f"if {branch.test}:", *(f"    {x}" for x in texts[0] or ["pass"])]
        lines += ["else:", *(f"    {x}" for x in texts[1])] if texts[1] else []

    # --- the function itself -----------------------------------------------------------------------------

    def _forward(self, items: Iterable[Item]) -> list[str]:
        """The lines again; what only the next operation reads stays inside it."""
        lines: list[str] = []
        inside: dict[str, ast.expr] = {}
        for item in items:
            if isinstance(item, Branch):
                sides = [self._forward(side) for side in item.sides]
                lines += [f"{n} = None" for n in (*self.needed, *self.objects, *self.shapes) if n in made(sides[0]) ^ made(sides[1])]
                lines += [f"if {item.test}:", *(f"    {x}" for x in sides[0])]
                lines += ["else:", *(f"    {x}" for x in sides[1])] if sides[1] else []
            elif isinstance(item, str):
                lines.append(item)
            else:
                node = Inside(inside).visit(item.node)
                (name, *more) = item.targets
                if item.temporary and item.kind not in ("taped", "norm", "unit") and name not in self.needed and name not in self.shapes:
                    inside[name] = node
                    continue
                text = ast.unparse(node)
                if aux := item.second:
                    if item.kind == "taped":
                        text = f"taped(lambda {', '.join(item.args)}: {text}, {', '.join(item.args)})"
                        targets = f"({name}, {', '.join(more)})" if more else name
                        lines.append(f"{targets}, {aux} = {text}")
                    else:
                        lines.append(f"{name}, {aux} = {item.kind}_scale({text.partition('(')[2][:-1]})")
                    continue
                lines.append(f"{', '.join(item.targets)} = {text}")
        return lines

    def _partial(self, items: Iterable[Item]) -> set[str]:
        """Names that one side of a branch gives."""
        found: set[str] = set()
        for item in items:
            if isinstance(item, Branch):
                a, b = (made(self._forward(side)) for side in item.sides)
                found |= a ^ b
        return found

    def auxiliary(self, op: Op, tensor: bool) -> str:
        """The name of a second result of an operation, for its rule."""
        if not op.second:
            op.second = self.fresh(f"{'scale' if tensor else 'pull'} {op.targets[0]}")
        name = op.second
        (self.needed if tensor else self.objects)[name] = None
        return name


def _tuple(items: Sequence[str]) -> str:
    return f"({', '.join(items)}{',' if len(items) == 1 else ''})"

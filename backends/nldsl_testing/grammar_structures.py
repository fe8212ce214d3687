"""What stands beside the main block: structures of memories, rules, blocks that are used."""

from __future__ import annotations

from dataclasses import dataclass, field

from nldsl_testing.grammar_expressions import SMOOTH, Draw

PROJECTIONS = {
    "bounded": "rule bounded(most) { update min(1, most / sqrt(sqnorm(last w) + 1e-6)) * last w }",
    "squash": "rule squash(most) { update most * tanh(last w / most) }",
}


GAPS = {
    "far": "block far(d, width = 1) {\n  in a, b : real[d]\n  u = a - b\n  out z = width * sqnorm(u) / sqrt(1 + sqnorm(u))\n}\n",
    "near": "block near(d, width = 1) {\n  in a, b : real[d]\n  out z = far(a, b) - 0.1 * width * dot(a, b)\n}\n",
}


LAYERS = {
    "layer": "block layer(d) {\n  in x : real[d]\n  param W : d -> d\n  out y = x + 0.5 * tanh(W(x))\n}\n",
    "mixer": "block mixer(d) {\n  in x : real[d]\n  param p : real[d] = ones\n  z = layer(norm(x))\n  out y = p * z\n}\n",
}


@dataclass
class File:
    """The items of a file, made when they are first asked for."""

    choice: Draw
    items: dict[str, str] = field(default_factory=dict)
    structures: dict[str, bool] = field(default_factory=dict)  # and whether they are for vectors only
    rules: list[str] = field(default_factory=list)

    def structure(self, a: str, b: str) -> str:
        """A network from a to b, as the type of a memory. Nothing is normalised where b is 1: little more than a sign would be left."""
        known = [name for name, wide in self.structures.items() if wide <= (b != "1")]
        if not known or self.choice.chance(3):
            known = [f"net{len(self.structures) + 1}"]
            self.structures[known[0]] = b != "1"
            self.items[known[0]] = structure_text(self.choice, known[0], b != "1")
        return f"{self.choice.pick(known)}({a}, {b})"

    def rule(self) -> str:
        """A rule of two numbers: a rate, and what is kept."""
        if not self.rules or self.choice.chance(3):
            name = f"rule{len(self.rules) + 1}"
            self.rules.append(name)
            self.items[name] = rule_text(self.choice, name, "rate, beta = 0.9")
        return self.choice.pick(self.rules)

    def gap(self) -> str:
        """How far two vectors are from each other, as a block; one calls the other."""
        name = self.choice.pick(list(GAPS))
        self.items |= {n: text for n, text in GAPS.items() if n in ("far", name)}
        return name

    def layer(self) -> str:
        """A block with params, from any size to itself; one calls the other."""
        name = self.choice.pick(list(LAYERS))
        self.items |= {n: text for n, text in LAYERS.items() if n in ("layer", name)}
        return name

    def projection(self) -> str:
        name = self.choice.pick(list(PROJECTIONS))
        self.items[name] = PROJECTIONS[name]
        return f"{name}(2)"

    def text(self) -> str:
        return "\n".join(self.items.values())


def structure_text(choice: Draw, name: str, norms: bool) -> str:
    """Layers with biases, gates, gains, norms and chains; any two sizes, the two of a residual too."""
    lines, act = ["in x : real[a]"], choice.pick(SMOOTH)
    kind = choice.pick(["linear", "affine", "mlp", "gated", "gained", "deep", *(["residual"] * norms)])
    if kind in ("linear", "affine"):
        lines += ["param W : a -> b", "z = W(x)"]
        if kind == "affine":
            lines += ["param s : real[b]", "u = z + s"]
    elif kind == "deep":
        lines += [f"chain r = x over i in 0 .. {choice.count(1, 2)} {{ param V : a -> a  r = {act}(V(r)) }}", "param W : a -> b", "z = W(r)"]
    else:
        lines += ["param up : a -> hidden", "param down : hidden -> b = normal(0.4)", f"r = {act}(up(x))"]
        if kind == "gated":
            lines += ["param gate : a -> hidden", "z = down(r * sigmoid(gate(x)))"]
        elif kind == "gained":
            lines += ["param g : real = 0.5", "z = (1 + g) * down(r)"]
        elif kind == "residual":
            lines += ["param skip : a -> b", "z = skip(x) + norm(down(r))"]
        else:
            lines += ["z = down(r)"]
    last = "u" if kind == "affine" else "z"
    lines.append(f"out y = {choice.pick([last, f'tanh({last})', *([f'norm({last})'] * norms)])}")
    body = "".join(f"  {line}\n" for line in lines)
    return f"block {name}(a, b, hidden = 4) {{\n{body}}}\n"


# --- rules -------------------------------------------------------------------------------------------


@dataclass
class RuleWords:
    """What a rule may read, entry by entry and as numbers."""

    choice: Draw
    entries: list[str]
    numbers: list[str]

    def entry(self, depth: int = 2) -> str:
        """A tensor like w."""
        choice = self.choice
        if depth <= 0:
            return choice.pick(self.entries)
        forms = ["{a}", "({a} + {n} * {b})", "{a} / sqrt(0.1 + {b} * {b})", "tanh({a})", "min(1, {n} / sqrt(0.1 + sqnorm({a}))) * {a}", "{n} * {a}",
                 "where({b}, {a}, 0.5 * {a})", "max({a}, -1)", "({a} - {b})", "sign({a}) * abs({b})"]  # fmt: skip
        form = choice.pick(forms)
        a, b = self.entry(depth - 1), self.entry(depth - 1) if "{b}" in form else ""
        return form.format(a=a, b=b, n=self.number() if "{n}" in form else "")

    def number(self) -> str:
        forms = ["0.5", *self.numbers, "1 / (1 + sqnorm(g))", "1 / (1 + count())", "tanh(dot(g, last w))", "1 / (1 + mean(abs(g)))"]
        found = self.choice.pick(forms)
        return f"({found})" if " " in found else found


def rule_text(choice: Draw, name: str, formals: str) -> str:
    """A rule with memories of its own; its step is a sum of what is kept and a bounded direction."""
    words = RuleWords(choice, ["g"], ["rate", "beta"])
    lines = []
    if choice.chance(3):
        lines.append(f"d = {words.entry()}")
        words.entries.append("d")
    for n in range(choice.pick([1, 0, 2])):
        m = f"m{n + 1}"
        target = words.entry(1)
        clause = choice.pick([f"update beta * last {m} + {target}", f"minimize 0.5 * sqnorm({m} - {target}) by gd(1 - 0.5 * beta)",
                              f"minimize -dot({m}, {target}) by gd(1, keep = 0.5 * beta)", f"update max(0.9 * last {m}, abs({target}))"])  # fmt: skip
        first = choice.pick(["zeros", "0.1"])
        lines.append(f"memory {m} : like(w) = {first} {{ {clause} }}")
        words.entries += [m, f"last {m}"]
    if choice.chance(4):
        lines.append(f"chain s = {words.entry(1)} over i in 0 .. 2 {{ s = 0.5 * s + {words.entry(1)} }}")
        words.entries.append("s")
    direction = words.entry()
    if choice.chance(5):
        direction += " + 0.1 * grad(at = last w - 0.1 * rate * g)" if choice.chance(2) else " + 0.1 * last w"
        direction = f"({direction})"
    kept = choice.pick(["last w", "(1 - 0.1 * rate) * last w", "0.9 * last w"])
    lines.append(f"update {kept} - rate * {direction}")
    body = "".join(f"  {line}\n" for line in lines)
    return f"rule {name}({formals}) {{\n{body}}}\n"

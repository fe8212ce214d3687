"""NL3xx: clocks, causality and initialisation."""

from nldsl.catalogue.page import error, warning

_TABLE = (
    "block all(d) {\n  each h in 2 { in q : real[d] }\n  out y = flatten(q)\n}\nblock b(d) {\n  in x : real[d]\n  param W : 2 * d -> d\n"
    "  memory m : real[2 * d] = 0 { update 0.5 * last m + u }\n  each h in 2 { p = x + W(last m) }\n"
)
PAGES = {
    "NL301": error(
        "not a clock",
        "A clock is strictly periodic: `every N offset K` with whole numbers, N at least 1 and K below N.",
        "block b(d) {\n  in x : real[d]\n  memory m : real[d] = 0 every 0 { minimize -dot(m, x) by gd(1) }\n  out y = m\n}",
        "block b(d) {\n  in x : real[d]\n  memory m : real[d] = 0 every 4 { minimize -dot(m, x) by gd(1) }\n  out y = m\n}",
    ),
    "NL302": error(
        "ticks cannot be folded this way",
        "The gradients of the ticks of one period are added (`over sum`, the default) or averaged (`over mean`).",
        "block b(d) {\n  in x : real[d]\n  memory m : real[d] every 4 { minimize -dot(m, x) over median by gd(1) }\n  out y = m\n}",
        "block b(d) {\n  in x : real[d]\n  memory m : real[d] every 4 { minimize -dot(m, x) over mean by gd(1) }\n  out y = m\n}",
    ),
    "NL303": error(
        "not an initial value",
        "A memory or a param starts as a number, `zeros`, `ones`, `eye`, `constant(c)`, `normal(s)`, `uniform(a, b)`, a"
        " function of these, or, for a memory, `learned`. It is computed once, when a module is made, so it does not depend on streams or"
        " on params, which change in training. A memory that starts at zeros and is added to a param wherever it is read, `S(k) + W(k)`,"
        " starts there too, and `reset every N to M` starts a memory from another.",
        "block b(d) {\n  in x : real[d]\n  param W : d -> d = x\n  out y = W(x)\n}",
        "block b(d) {\n  in x : real[d]\n  param W : d -> d = normal(0.02)\n  out y = W(x)\n}",
    ),
    "NL304": error(
        "a fast stream in a slow memory's step",
        "A memory with `every N` changes once in N ticks. The gradients of these ticks are folded into one; a rate or a"
        " retention that has a value each tick is not: only its value at the last of the N ticks would count. Use a"
        " constant, a param, or a stream that changes as slowly as the memory. A stream of a rule that reads its own past has a value"
        " each tick too: a memory of the rule changes with the step.",
        "block b(d) {\n  in x : real[d]\n  param a : d -> 1\n  k = unit(x)\n  memory S : d -> d every 4 {\n"
        "    minimize 0.5 * sqnorm(S(k) - x) over mean by gd(sigmoid(a(x)))\n  }\n  out y = S(k)\n}",
        "block b(d) {\n  in x : real[d]\n  param a : real\n  k = unit(x)\n  memory S : d -> d every 4 {\n"
        "    minimize 0.5 * sqnorm(S(k) - x) over mean by gd(sigmoid(a))\n  }\n  out y = S(k)\n}",
    ),
    "NL305": error(
        "periods of steps that do not begin with the sequence",
        "A memory of a rule with `every f`, in a rule that trains a memory with `every N`, counts steps: its period is f of them, f N ticks. Where it"
        " adds up the gradients of these steps, the first period begins with the sequence, so neither of the two may have an offset.",
        "rule r(a) {\n  memory m : like(w) every 4 { minimize -dot(m, g) by gd(0.9) }\n  update last w + a * last m\n}\n"
        "block b(d) {\n  in x : real[d]\n  memory S : d -> d every 8 offset 2 { minimize -dot(S(x), x) by r(1) }\n  out y = S(x)\n}",
        "rule r(a) {\n  memory m : like(w) every 4 { minimize -dot(m, g) by gd(0.9) }\n  update last w + a * last m\n}\n"
        "block b(d) {\n  in x : real[d]\n  memory S : d -> d every 8 { minimize -dot(S(x), x) by r(1) }\n  out y = S(x)\n}",
    ),
    "NL306": warning(
        "a reset inside a period",
        "A memory that changes once in N ticks and starts anew every R ticks should have R a multiple of N: otherwise a"
        " period is cut short, and what its ticks wrote falls into the time after the reset.",
        "block b(d) {\n  in x : real[d]\n  memory m : real[d] = 0 every 4 { minimize -dot(m, x) by gd(1)  reset every 6 }\n  out y = m\n}",
        "block b(d) {\n  in x : real[d]\n  memory m : real[d] = 0 every 4 { minimize -dot(m, x) by gd(1)  reset every 8 }\n  out y = m\n}",
    ),
    "NL310": error(
        "a cycle within one tick",
        "A value of this tick depends on itself. `last NAME` reads the value before this tick and breaks the cycle,"
        " and so does `delay(NAME, n)` by a tick or more. Only"
        " an implicit step may read the state it computes, through the gradient taken there: `grad(at = w)`.",
        "block b(d) {\n  in x : real[d]\n  memory S : d -> d { update 0.9 * last S + outer(S(x), x) }\n  out y = S(x)\n}",
        "block b(d) {\n  in x : real[d]\n  memory S : d -> d { update 0.9 * last S + outer(last S(x), x) }\n  out y = S(x)\n}",
    ),
    "NL311": error(
        "a block with inputs in copies in a recurrence",
        "A block that is used in a recurrence is written out. One whose inputs stand in an `each` of its own cannot be, so its"
        " arguments cannot depend on its result, not even through `last`. Write its body in place.",
        _TABLE + "  u = all(p)\n  out y = m\n}",
        _TABLE + "  u = flatten(p)\n  out y = m\n}",
    ),
}

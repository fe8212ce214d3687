"""NL4xx: memories, objectives, ownership and gradient flow."""

from nldsl.catalogue.page import error, warning

_HEAD = "block b(d) {\n  in x : real[d]\n  k = unit(x)\n"

PAGES = {
    "NL401": error(
        "a memory without a step",
        "A memory changes by `minimize OBJECTIVE by STEP` or by `update EXPR`.",
        _HEAD + "  memory S : d -> d { key k  value x }\n  out y = S(k)\n}",
        _HEAD + "  memory S : d -> d { key k  value x  minimize -dot(S(k), x) by gd(1) }\n  out y = S(k)\n}",
    ),
    "NL402": error(
        "clauses that do not go together",
        "A memory has one `minimize` or one `update`, and one of each other clause. A store has `key` and `value` only. `writes`"
        " stands beside `minimize`, and `straight_through` where a first value is learned.",
        _HEAD + "  memory A : store(d -> d) { key k }\n  out y = A(k)\n}",
        _HEAD + "  memory A : store(d -> d) { key k  value x }\n  out y = A(k)\n}",
    ),
    "NL403": error(
        "not a reset",
        "A state starts anew with each sequence (`reset sequence`, the default) or every N ticks (`reset every N`). To keep"
        " it from call to call, pass it on: `forward(x, state, return_state=True)`.",
        "block b(d) {\n  in x : real[d]\n  memory m : real[d] = 0 { update last m + x  reset never }\n  out y = m\n}",
        "block b(d) {\n  in x : real[d]\n  memory m : real[d] = 0 { update last m + x  reset every 8 }\n  out y = m\n}",
    ),
    "NL404": error(
        "an objective that does not mention its memory",
        "The gradient is taken with respect to the memory, so the objective reads it: `S(k)`.",
        _HEAD + "  memory S : d -> d { minimize 0.5 * sqnorm(k - x) by gd(0.1) }\n  out y = S(k)\n}",
        _HEAD + "  memory S : d -> d { minimize 0.5 * sqnorm(S(k) - x) by gd(0.1) }\n  out y = S(k)\n}",
    ),
    "NL405": error(
        "not a rule's body",
        "A rule has equations, memories and exactly one `update`: the state after its step.",
        "rule r(a) { m = a * g }\nblock b(d) {\n  in x : real[d]\n  memory S : d -> d { minimize -dot(S(x), x) by r(1) }\n  out y = S(x)\n}",
        "rule r(a) { update last w - a * g }\nblock b(d) {\n  in x : real[d]\n  memory S : d -> d { minimize -dot(S(x), x) by r(1) }\n  out y = S(x)\n}",
    ),
    "NL406": error(
        "no objective to take a gradient of",
        "`g` and `grad(at = ...)` stand in a rule, which is a step after `minimize E by`. So does `x`, what the operator that learns"
        " is applied to: at one place of the objective, at each tick.",
        "block b(d) {\n  in x : real[d]\n  memory S : d -> d { update last S - grad(at = last S) }\n  out y = S(x)\n}",
        "block b(d) {\n  in x : real[d]\n  memory S : d -> d { minimize -dot(S(x), x) by gd(1) }\n  out y = S(x)\n}",
    ),
    "NL407": error(
        "an objective that is not one number",
        "An objective is a scalar at each tick: `0.5 * sqnorm(S(k) - v)`, `-dot(S(k), v)`.",
        _HEAD + "  memory S : d -> d { minimize S(k) - x by gd(0.1) }\n  out y = S(k)\n}",
        _HEAD + "  memory S : d -> d { minimize 0.5 * sqnorm(S(k) - x) by gd(0.1) }\n  out y = S(k)\n}",
    ),
    "NL408": warning(
        "an objective whose gradient is zero",
        "Every way from the memory to its objective passes through `stop` or `sign`, so the gradient is zero and the"
        " memory never learns from it.",
        _HEAD + "  memory S : d -> d { minimize 0.5 * sqnorm(stop(S(k)) - x) by gd(0.1) }\n  out y = S(k)\n}",
        _HEAD + "  memory S : d -> d { minimize 0.5 * sqnorm(S(k) - stop(x)) by gd(0.1) }\n  out y = S(k)\n}",
    ),
    "NL409": error(
        "an objective beyond its tick",
        "An objective may be a stream that reads its memory, through anything between them within a tick, steps of other"
        " memories too, through convolutions, delays and stores, of which the past is given. But an objective that is written as an"
        " expression of its memory keeps nothing from tick to tick, and no objective passes the folded gradient of another memory.",
        _HEAD + "  memory F : d -> d { minimize sqnorm(conv(F(k), 2) - x) by gd(0.1) }\n  out y = F(k)\n}",
        _HEAD + "  memory F : d -> d { minimize e by gd(0.1) }\n  e = sqnorm(conv(last F(k), 2) - x)\n  out y = F(k)\n}",
    ),
    "NL410": warning(
        "a memory that nothing reads",
        "Nothing that reaches an output reads this memory. Read it (`S(q)`), or remove it.",
        _HEAD + "  memory S : d -> d { minimize -dot(S(k), x) by gd(1) }\n  out y = k\n}",
        _HEAD + "  memory S : d -> d { minimize -dot(S(k), x) by gd(1) }\n  out y = S(k)\n}",
    ),
    "NL411": error(
        "two owners of one tensor",
        "Every tensor has one declaration and one role: a param is trained by the outer objective, a memory by its own.",
    ),
    "NL412": error(
        "no period to flush",
        "`flush` says what becomes of a period that the end of the stream cuts short, of a memory with `every N` or `at start(N)`:"
        " `apply`, `drop` or `carry`. A memory that changes at every tick has no such period, an `update` adds nothing up, and"
        " the memories of a rule end with the memory that it trains.",
        _HEAD + "  memory S : d -> d { minimize -dot(S(k), x) by gd(1)  flush apply }\n  out y = S(k)\n}",
        _HEAD + "  memory S : d -> d every 4 { minimize -dot(S(k), x) by gd(1)  flush apply }\n  out y = S(k)\n}",
    ),
    "NL413": error(
        "no gradients to share",
        "`shared sum` and `shared mean` give all sequences of a batch one state, which learns from the sum or mean of their gradients. They"
        " stand beside `minimize`, not in a store or beside `update`; the memories of a rule are shared with the memory that it trains.",
        _HEAD + "  memory S : d -> d { minimize -dot(S(k), x) by gd(1)  shared max }\n  out y = S(k)\n}",
        _HEAD + "  memory S : d -> d { minimize -dot(S(k), x) by gd(1)  shared mean }\n  out y = S(k)\n}",
    ),
    "NL414": error(
        "a shared memory that would differ",
        "A memory with `shared` has one state for all sequences of a batch. Only its gradients come from all of them: whatever else its step"
        " reads, rates, retentions and a memory it is reset to, must be the same for each, a number, a param or another shared memory.",
        _HEAD + "  param r : d -> 1\n  memory S : d -> d { minimize -dot(S(k), x) by gd(sigmoid(r(x)))  shared mean }\n  out y = S(k)\n}",
        _HEAD + "  param r : real\n  memory S : d -> d { minimize -dot(S(k), x) by gd(sigmoid(r))  shared mean }\n  out y = S(k)\n}",
    ),
    "NL420": warning(
        "a param that no gradient reaches",
        "Every way from this param to an output passes through `stop`, `sign` or a whole number, so the outer objective"
        " cannot train it.",
        "block b(d) {\n  in x : real[d]\n  param W : d -> d\n  out y = x + stop(W(x))\n}",
        "block b(d) {\n  in x : real[d]\n  param W : d -> d\n  out y = stop(x) + W(x)\n}",
    ),
    "NL430": error(
        "a rule that does not learn on this",
        "`rule NAME(...) on d -> e` learns on operators, `on real[n]` on vectors, and names their sizes. Roles before it, `on"
        " vectors`, are those of shapes in a memory: an operator is a matrix. Without `on` a rule learns on anything.",
        "rule r(a) on real[n] { update last w - a * g }\nblock b(d) {\n  in x : real[d]\n  memory S : d -> d { minimize -dot(S(x), x) by r(1) }\n  out y = S(x)\n}",
        "rule r(a) on n -> m { update last w - a * g }\nblock b(d) {\n  in x : real[d]\n  memory S : d -> d { minimize -dot(S(x), x) by r(1) }\n  out y = S(x)\n}",
    ),
    "NL431": error(
        "a rule's default that is not a number",
        "The numbers of an optimizer come in with each step, so their defaults are numbers or lists of numbers. A number"
        " that a range or a size reads fixes what is compiled: it is a whole number and needs a default.",
        "rule r(a, steps) { chain x = g over i in 0 .. steps { x = 0.5 * x }  update last w - a * x }",
        "rule r(a, steps = 5) { chain x = g over i in 0 .. steps { x = 0.5 * x }  update last w - a * x }",
    ),
    "NL432": error(
        "a rule that is no optimizer",
        "An optimizer's step depends on the gradient `g` of the tensor it trains. A rule that takes the gradient elsewhere,"
        " `grad(at = ...)`, needs the objective itself: it stands after `minimize E by`.",
    ),
    "NL433": error(
        "a number whose name is taken",
        "The constructor of an optimizer has `params`, `maximize`, `every` and others, and Python has words of its own: a"
        " number of a rule needs a name that is none of these. In a memory the rule can be used as it is.",
    ),
    "NL434": error(
        "no part of an optimizer",
        "A step of an optimizer sees one gradient of one tensor: no sequence, no copies, no stores. Its memories start from"
        " numbers, the same in every run, and never anew; each has one period at most, and no copy from the start of a window.",
    ),
    "NL435": error(
        "a role that no parameter has",
        "Before what a rule learns on stands what its parameters are for: matrices, vectors, embeddings, heads, convolutions, or"
        " several of them. `d -> e` are matrices, embeddings and heads, `d -> e stacked` convolutions too, `real[n]` vectors.",
        "rule r(lr = 0.1) on matrixes d -> e else adamw { update last w - lr * g }",
        "rule r(lr = 0.1) on matrices d -> e else adamw { update last w - lr * g }",
    ),
}

"""NL1xx: names and elaboration."""

from nldsl.catalogue.page import error, warning

PAGES = {
    "NL101": error(
        "unknown name",
        "A name stands for nothing here. Names are those of the block, of its parameters, of the file and of the library;"
        " a name declared inside an `each` or a `for` with an index is visible outside it.",
        "block b(d) {\n  in x : real[d]\n  out y = 2 * z\n}",
        "block b(d) {\n  in x : real[d]\n  out y = 2 * x\n}",
    ),
    "NL102": error(
        "defined twice",
        "A name has one equation, and the words of the language are not names. Order is irrelevant, so nothing is overwritten.",
        "block b(d) {\n  in x : real[d]\n  z = 2 * x\n  z = 3 * x\n  out y = z\n}",
        "block b(d) {\n  in x : real[d]\n  z = 2 * x\n  u = 3 * z\n  out y = u\n}",
    ),
    "NL103": error(
        "only a name can stand here",
        "What is applied or indexed is a name; give the expression a name of its own first.",
        "block b(d) {\n  in x : real[d]\n  param W : d -> d\n  out y = (W + W)(x)\n}",
        "block b(d) {\n  in x : real[d]\n  param W : d -> d\n  V = W + W\n  out y = V(x)\n}",
    ),
    "NL104": error(
        "not a stream",
        "A list, a range or a text is known before any tick and carries no value at a tick. Use its elements in a `for`.",
        "block b(d) {\n  in x : real[d]\n  out y = x * [1, 2]\n}",
        "block b(d) {\n  in x : real[d]\n  out y = sum(x * n for n in [1, 2])\n}",
    ),
    "NL105": error(
        "not known before any tick",
        "Indices, ranges, windows, numbers of ticks and constants are computed from numbers and parameters of the block,"
        " never from streams.",
        "block b(d) {\n  in x : real[d]\n  in n : int\n  out y = delay(x, n)\n}",
        "block b(d, n = 2) {\n  in x : real[d]\n  out y = delay(x, n)\n}",
    ),
    "NL106": error(
        "a store or a network as a value",
        "A store keeps pairs, and a memory whose structure is a block has several states: neither is an operator, both"
        " can only be read at a query.",
        "block b(d) {\n  in x : real[d]\n  memory A : store(d -> d) { key x  value x }\n  out y = A\n}",
        "block b(d) {\n  in x : real[d]\n  memory A : store(d -> d) { key x  value x }\n  out y = A(x)\n}",
    ),
    "NL107": error(
        "several outputs",
        "A block with several outputs is called in an equation of its own, and its outputs are picked by name.",
        "block two(d) {\n  in x : real[d]\n  out a = 2 * x\n  out b = 3 * x\n}\n"
        "block b(d) {\n  in x : real[d]\n  m = two(x)\n  out y = m\n}",
        "block two(d) {\n  in x : real[d]\n  out a = 2 * x\n  out b = 3 * x\n}\n"
        "block b(d) {\n  in x : real[d]\n  m = two(x)\n  out y = m.a + m.b\n}",
    ),
    "NL108": error(
        "the wrong kind of thing",
        "An operator, a memory or a block can be applied; a rule stands after `by`; a constant is a number.",
        "block b(d) {\n  in x : real[d]\n  out y = gd(x)\n}",
        "block b(d) {\n  in x : real[d]\n  param W : d -> d\n  out y = W(x)\n}",
    ),
    "NL109": error(
        "`last` of something without a past",
        "`last` looks one tick back at a stream or a memory. For more ticks use `delay(x, n)`.",
        "block b(d) {\n  in x : real[d]\n  param W : d -> d\n  out y = last W(x)\n}",
        "block b(d) {\n  in x : real[d]\n  param W : d -> d\n  out y = W(last x)\n}",
    ),
    "NL110": error(
        "arguments do not fit",
        "An argument is missing, given twice, or not one the callee has. Streams are positional or by the name of the"
        " input, parameters of a block by name.",
        "block b(d) {\n  in x : real[d]\n  out y = unit(x, x)\n}",
        "block b(d) {\n  in x : real[d]\n  out y = unit(x)\n}",
    ),
    "NL111": error(
        "a sum over nothing",
        "A sum needs at least one term: over an empty range its shape is unknown.",
        "block b(d) {\n  in x : real[d]\n  out y = sum(x * n for n in 1 .. 1)\n}",
        "block b(d) {\n  in x : real[d]\n  out y = sum(x * n for n in 1 .. 3)\n}",
    ),
    "NL112": error(
        "not a rule",
        "What stands after `by` is a rule of the file or of the library with its arguments, as `gd(0.1)`.",
        "block b(d) {\n  in x : real[d]\n  memory S : d -> d { minimize 0.5 * sqnorm(S(x) - x) by gdd(0.1) }\n  out y = S(x)\n}",
        "block b(d) {\n  in x : real[d]\n  k = unit(x)\n  memory S : d -> d { minimize 0.5 * sqnorm(S(k) - x) by gd(0.1) }\n  out y = S(x)\n}",
    ),
    "NL113": error(
        "a block without an input or output",
        "A block is a function from input streams to output streams: `out y = ...`.",
        "block b(d) {\n  in x : real[d]\n  y = 2 * x\n}",
        "block b(d) {\n  in x : real[d]\n  out y = 2 * x\n}",
    ),
    "NL114": error(
        "an output inside an `each` or `for`, or an input inside a `for`",
        "Outputs are streams of the block as a whole; an input of an `each` comes as a table, one row for each copy. Outside the `each` its names carry the axis: `flatten(o)`.",
        "block b(d, n = 2) {\n  in x : real[d]\n  each h in n {\n    param W : d -> d\n    out y = W(x)\n  }\n}",
        "block b(d, n = 2) {\n  in x : real[d]\n  each h in n {\n    param W : d -> d\n    o = W(x)\n  }\n  out y = flatten(o)\n}",
    ),
    "NL115": error(
        "statement out of place",
        "`minimize` and `update` stand inside a memory, a rule or a `train`.",
    ),
    "NL116": error(
        "a chain without its equation",
        "The body of `chain h = E over i in R` has exactly one equation for `h`: the step from one copy to the next.",
        "block b(d) {\n  in x : real[d]\n  chain h = x over i in 0 .. 2 { g = 2 * h }\n  out y = h\n}",
        "block b(d) {\n  in x : real[d]\n  chain h = x over i in 0 .. 2 { h = 2 * h }\n  out y = h\n}",
    ),
    "NL117": error(
        "a block of tables where it has to be written out",
        "In an `each`, in a recurrence and in an objective the statements of a block stand in place of its call. A block with inputs"
        " in copies of its own takes tables, of which there are none in there.",
        "block heads(d, n) {\n  each h in n {\n    in q : real[d]\n    o = 2 * q\n  }\n  out y = flatten(o)\n}\n"
        "block b(d, n = 2) {\n  in x : real[d]\n  each h in n {\n    q = h * x\n    o = heads(q, n = n)\n  }\n  out y = flatten(o)\n}",
        "block heads(d, n) {\n  each h in n {\n    in q : real[d]\n    o = 2 * q\n  }\n  out y = flatten(o)\n}\n"
        "block b(d, n = 2) {\n  in x : real[d]\n  each h in n { q = h * x }\n  out y = heads(q, n = n)\n}",
    ),
    "NL118": error(
        "a block or a rule inside itself",
        "Blocks are unfolded into one another, so none can contain itself, and they nest at most 32 deep. So are rules:"
        " a memory inside a rule is not trained by that rule.",
        "block b(d) {\n  in x : real[d]\n  out y = b(x)\n}",
        "block b(d) {\n  in x : real[d]\n  out y = 2 * x\n}",
    ),
    "NL119": error(
        "unknown module",
        "The library is `std`; its rules are known without an import.",
        "import stdlib\nblock b(d) {\n  in x : real[d]\n  out y = x\n}",
        "import std\nblock b(d) {\n  in x : real[d]\n  out y = x\n}",
    ),
    "NL120": error(
        "not a real number",
        "Numbers known before any tick are computed when the file is read: nothing is divided by zero, a root is not"
        " taken of a negative number, and no number is above 1e308.",
        "const a = 1 / 0",
        "const a = 1 / 2",
    ),
    "NL121": error(
        "not the structure of a memory",
        "A block is the structure of a memory if it has one input, one output and params, and no past of its own: its"
        " equations, chains and inner blocks use no memory, `each`, `conv`, `delay`, `rope`, `count` or `last`.",
        "block half(d) {\n  in x : real[d]\n  out y = 0.5 * x\n}\n"
        "block b(d) {\n  in x : real[d]\n  memory M : half(d) { minimize -dot(M(x), x) by gd(1) }\n  out y = M(x)\n}",
        "block scale(d) {\n  in x : real[d]\n  param a : real[d] = ones\n  out y = a * x\n}\n"
        "block b(d) {\n  in x : real[d]\n  memory M : scale(d) { minimize -dot(M(x), x) by gd(1) }\n  out y = M(x)\n}",
    ),
    "NL190": warning(
        "a param that nothing uses",
        "A param without a use is trained by nobody and only costs memory. Remove it, or use it.",
        "block b(d) {\n  in x : real[d]\n  param W : d -> d\n  out y = 2 * x\n}",
        "block b(d) {\n  in x : real[d]\n  param W : d -> d\n  out y = W(x)\n}",
    ),
    "NL191": warning(
        "a name that nothing reads",
        "An equation or an input reaches no output and no memory. It is computed by nobody; remove it, or use it.",
        "block b(d) {\n  in x : real[d]\n  z = 3 * x\n  out y = 2 * x\n}",
        "block b(d) {\n  in x : real[d]\n  z = 3 * x\n  out y = 2 * z\n}",
    ),
}

"""NL2xx: shapes."""

from nldsl.catalogue.page import error

PAGES = {
    "NL201": error(
        "not a dimension",
        "A dimension is a whole number above 0, computed from numbers and parameters of the block before any tick.",
        "block b(d) {\n  in x : real[d]\n  param W : d -> 1.5\n  out y = W(x)\n}",
        "block b(d) {\n  in x : real[d]\n  param W : d -> 2\n  out y = W(x)\n}",
    ),
    "NL202": error(
        "shapes do not fit",
        "An operation got an argument whose shape it does not take. Sizes are compared as formulas over the parameters:"
        " `heads * (d / heads)` is `d`.",
        "block b(d, e) {\n  in x : real[d]\n  param W : e -> d\n  out y = W(x)\n}",
        "block b(d, e) {\n  in x : real[d]\n  param W : d -> e\n  out y = W(x)\n}",
    ),
    "NL203": error(
        "the update does not have the memory's type",
        "What a memory becomes has the type it was declared with, and no axis more.",
        "block b(d) {\n  in x : real[d]\n  memory m : real = 0 { update last m + x }\n  out y = m * x\n}",
        "block b(d) {\n  in x : real[d]\n  memory m : real[d] = 0 { update last m + x }\n  out y = m * x\n}",
    ),
    "NL204": error(
        "a shape that depends on itself",
        "A stream that reads its own past has the shape that its equations give it whatever that past is: through what is"
        " added to it, or through an operator. Here none does. Make it a memory, which has a declared type.",
        "block b(d) {\n  in x : real[d]\n  z = tanh(last z)\n  out y = x + z\n}",
        "block b(d) {\n  in x : real[d]\n  memory z : real[d] = 1 { update tanh(last z) }\n  out y = x + z\n}",
    ),
}

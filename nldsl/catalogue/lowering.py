"""NL6xx: lowering."""

from nldsl.catalogue.page import error

PAGES = {
    "NL601": error(
        "no derivative",
        "The objective uses an operation that has no derivative with respect to its memory. Write it with others, "
        "or put `stop` around what is not to be differentiated.",
    ),
    "NL602": error(
        "an implicit step that cannot be solved",
        "`grad(at = w)` makes an equation for the next state. It is solved in closed form for objectives that are "
        "linear or squared in one reading `S(k)` of the memory.",
    ),
}

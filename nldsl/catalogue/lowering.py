"""NL6xx: lowering."""

from nldsl.catalogue.page import error

_BLOCK = (
    "block b(d) {\n  in x : real[d]\n  k = unit(x)\n"
    "  memory S : d -> d { minimize 0.5 * sqnorm(S(k) - x) by gd(0.5) }\n  out y = S(k)\n}\n"
)

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
    "NL610": error(
        "not what a schedule can ask",
        "Of a memory a schedule asks for a form (`by closed`, `solve`, `scan`, `windows` or `loop`), for the ticks of a chunk"
        " (`chunk = 16`) or for windows that are computed again in the reverse pass (`recompute`).",
        _BLOCK + "schedule b { S by chunks }",
        _BLOCK + "schedule b { S by loop }",
    ),
    "NL611": error(
        "a schedule for a memory that is not there",
        "A schedule names the memories of its block as `nldsl explain` does, `S`, `M.up`, `F[4]`; a name stands for all that is"
        " below it, `*` for every memory of the block. A block inside has a schedule of its own.",
        _BLOCK + "schedule b { T by loop }",
        _BLOCK + "schedule b { S by loop }",
    ),
    "NL612": error(
        "a schedule that asks for what is not proven",
        "A form has obligations, and a schedule cannot waive them: it never changes a result. The message says which one fails."
        " `loop` has none. Chunks are of `closed` and `solve`, `recompute` is of `windows`.",
        _BLOCK + "schedule b { S by closed }",
        _BLOCK + "schedule b { S by solve, chunk = 16 }",
    ),
}

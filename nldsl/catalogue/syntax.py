"""NL0xx: text and syntax."""

from nldsl.catalogue.page import error

_RIGHT = "block b(d) {\n  in x : real[d]\n  param W : d -> d\n  out y = W(x)\n}"

PAGES = {
    "NL001": error(
        "unexpected text",
        "Something that cannot stand here; what could is listed as expected. A statement starts with a keyword or with"
        " `NAME =` and ends where the next one starts.",
        "const a = 3 4",
        "const a = 3 * 4",
    ),
    "NL002": error(
        "unknown character",
        "A character that starts nothing. Names have the letters a to z, digits and `_`; texts are UTF-8.",
        "const a = 3 $",
        "const a = 3",
    ),
    "NL003": error(
        "too large or too deep",
        "A file over 1 MB, an expression or brackets nested over 100 deep (a sum of over 100 terms is, too) or an"
        " elaboration over its budget (20000 equations or copies in one block, 4096 blocks inside one)"
        " is refused. Give a part a name of its own, or write `sum(E for j in R)`.",
        "const a = 1" + " + 1" * 101,
        "const a = 101",
    ),
    "NL004": error(
        "malformed number",
        "A number is `3`, `3.0` or `1e-3`. It does not run into a name (`2 * x`, not `2x`) and is at most 1e308.",
        "const a = 3\nconst b = 2a",
        "const a = 3\nconst b = 2 * a",
    ),
    "NL005": error(
        "unclosed string",
        "A string starts and ends with a double quote, on one line.",
        'const a = "text',
        'const a = "text"',
    ),
    "NL006": error(
        "unmatched bracket",
        "A `{`, `(` or `[` has no partner, or the other way round. The second place is the bracket that was opened.",
        _RIGHT.replace("W(x)", "W((x)"),
        _RIGHT,
    ),
    "NL007": error(
        "reserved word as a name",
        "The words of the language (`memory`, `key`, `by`, `last` and so on) cannot be names; with a `_` behind it,"
        " a word is one.",
        "const key = 3",
        "const key_ = 3",
    ),
    "NL008": error(
        "another language's spelling",
        "Other languages write this differently: here `#` starts a comment, `^` is the power, `W(x)` applies an"
        " operator, and statements need no `;`.",
        "const a = 2 ** 3;",
        "const a = 2^3",
    ),
    "NL009": error(
        "missing part",
        "A statement lacks a part: an expression, a name, a `,`, the `: TYPE` of a declaration, the `by STEP` of a"
        " `minimize`, the `->` of an operator's type.",
        "const a =\nconst b = 3",
        "const a = 2\nconst b = 3",
    ),
    "NL010": error(
        "statement out of place",
        "`update` stands in rules and in the braces of a memory, `minimize` in the braces of a memory and in a `train`,"
        " which has only settings besides; `key`, `value` and `reset` stand in the braces of a memory, all other"
        " statements outside them, in a block or rule.",
        "param W : 3 -> 3",
        "block b {\n  in x : real[3]\n  param W : 3 -> 3\n  out y = W(x)\n}",
    ),
    "NL011": error(
        "`for` in an argument",
        "`E for j in R` is the argument of `sum` only.",
        "block b {\n  in x : real[3]\n  z = norm(j * x for j in 0 .. 4)\n  out y = 2 * x\n}",
        "block b {\n  in x : real[3]\n  z = sum(j * x for j in 0 .. 4)\n  out y = 2 * z\n}",
    ),
    "NL012": error(
        "`last` of an expression",
        "`last` stands before the name of a memory or stream, without brackets: `last M` or `last M[p]`; `last M(q)`"
        " reads `last M` at `q`. For another expression, give it a name first.",
        "block b {\n  in x : real[3]\n  memory s : real[3] = zeros { update last(s) + x }\n  out y = s\n}",
        "block b {\n  in x : real[3]\n  memory s : real[3] = zeros { update last s + x }\n  out y = s\n}",
    ),
}

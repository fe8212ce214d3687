"""NL5xx: ranges and stability."""

from nldsl.catalogue.page import warning

_HEAD = "block b(d) {\n  in x : real[d]\n  param a : d -> 1\n  k = unit(x)\n"
_DGD = "rule dgd(e, along) { update last w - e * outer(last w(along), along) - e * g }\nblock b(d) {\n  in x : real[d]\n  k = unit(x)\n"

PAGES = {
    "NL501": warning(
        "a retention that may leave [0, 1]",
        "A factor on the state before the step keeps a part of it. Above 1 the memory can grow without bound, below 0 it"
        " changes its sign each tick. `sigmoid(a)` and `exp(-softplus(a))` stay within (0, 1). A factor that divides the state by"
        " its own size is a normalisation, and nothing is said of it.",
        _HEAD + "  memory S : d -> d { minimize -dot(S(k), x) by decay(a(x)), gd(1) }\n  out y = S(k)\n}",
        _HEAD + "  memory S : d -> d { minimize -dot(S(k), x) by decay(sigmoid(a(x))), gd(1) }\n  out y = S(k)\n}",
    ),
    "NL502": warning(
        "a step that may overshoot",
        "One step on `0.5 * sqnorm(S(k) - v)` scales the error at k by 1 - rate * |k|^2; above 2 in rate * |k|^2 the error"
        " grows each tick. Make the key `unit(...)` and keep the rate in [0, 2], below 1 for no change of sign.",
        _HEAD + "  memory S : d -> d { minimize 0.5 * sqnorm(S(x) - x) by gd(sigmoid(a(x))) }\n  out y = S(k)\n}",
        _HEAD + "  memory S : d -> d { minimize 0.5 * sqnorm(S(k) - x) by gd(sigmoid(a(x))) }\n  out y = S(k)\n}",
    ),
    "NL503": warning(
        "a rate that may be negative",
        "A step against a negative rate climbs the objective instead of descending it.",
        _HEAD + "  memory S : d -> d { minimize -dot(S(k), x) by gd(a(x)) }\n  out y = S(k)\n}",
        _HEAD + "  memory S : d -> d { minimize -dot(S(k), x) by gd(softplus(a(x))) }\n  out y = S(k)\n}",
    ),
    "NL504": warning(
        "a double erase",
        "The rule erases along the key and the squared objective erases there again: what was stored at k is scaled by"
        " a - 2 e instead of a - e. For a stable memory the rate stays below half the retention; use -dot(S(k), v) as the"
        " objective to erase once.",
        _DGD + "  memory S : d -> d { minimize 0.5 * sqnorm(S(k) - x) by dgd(0.9, k) }\n  out y = S(k)\n}",
        _DGD + "  memory S : d -> d { minimize -dot(S(k), x) by dgd(0.9, k) }\n  out y = S(k)\n}",
    ),
}

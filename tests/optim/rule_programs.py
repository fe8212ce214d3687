"""Programs of optimizer rules written by hand, as generated source holds them."""

import torch

from nldsl_torch.optim.optimizer import RuleOptimizer
from nldsl_torch.optim.program import Program, Segment, State, Tick, Variant


def zero(h):
    return 0.0


def like(name):
    return State(name, "like", None, zero)


# --- AdamW
def adamw_prologue(t, h):
    lr, b1, b2 = h["lr"], h["betas.0"], h["betas.1"]
    return {
        "decay": 1 - lr * h["weight_decay"], "b1": b1, "c1": 1 - b1, "b2": b2, "c2": 1 - b2, "root": (1 - b2**t) ** 0.5,
        "eps": h["eps"], "size": lr / (1 - b1**t),
    }  # fmt: skip


def adamw_pass(w, g, exp_avg, exp_avg_sq, decay, b1, c1, b2, c2, root, eps, size):
    m = exp_avg * b1 + g * c1
    v = exp_avg_sq * b2 + g * g * c2
    return w * decay - m / (torch.sqrt(v) / root + eps) * size, m, v


ADAMW_PASS = Segment(
    "adamw", ("w", "g", "exp_avg", "exp_avg_sq"), ("w", "exp_avg", "exp_avg_sq"),
    ("decay", "b1", "c1", "b2", "c2", "root", "eps", "size"), adamw_pass,
    """
    const T new_exp_avg = exp_avg * b1 + g * c1;
    const T new_exp_avg_sq = exp_avg_sq * b2 + g * g * c2;
    const T new_w = w * decay - new_exp_avg / (std::sqrt(new_exp_avg_sq) / root + eps) * size;
    """,
)  # fmt: skip
ADAMW = Program(
    "adamw", (("lr", 1e-3), ("betas", (0.9, 0.999)), ("eps", 1e-8), ("weight_decay", 1e-2)), (), (),
    {(): Variant((like("exp_avg"), like("exp_avg_sq")), {0: Tick(adamw_prologue, ADAMW_PASS, None)})},
)  # fmt: skip


# --- SGD: momentum 0 has no buffer
def sgd_prologue(t, h):
    return {"lr": h["lr"], "mu": h["momentum"] if t > 1 else 0.0, "c": 1.0 if t == 1 else 1 - h["dampening"]}


SGD = Program(
    "sgd", (("lr", 1e-3), ("momentum", 0.0), ("dampening", 0.0)), (), ("momentum",),
    {
        (False,): Variant((), {0: Tick(sgd_prologue, Segment("sgd", ("w", "g"), ("w",), ("lr",), lambda w, g, lr: (w - g * lr,), "const T new_w = w - g * lr;"), None)}),
        (True,): Variant((like("momentum_buffer"),), {0: Tick(sgd_prologue, Segment(
            "sgdm", ("w", "g", "momentum_buffer"), ("w", "momentum_buffer"), ("lr", "mu", "c"),
            lambda w, g, b, lr, mu, c: (w - (b * mu + g * c) * lr, b * mu + g * c),
            "const T new_momentum_buffer = momentum_buffer * mu + g * c;\nconst T new_w = w - new_momentum_buffer * lr;",
        ), None)}),
    },
)  # fmt: skip


# --- NAdam: a number state
def nadam_prologue(t, h):
    b1, b2 = h["betas.0"], h["betas.1"]
    mu = b1 * (1 - 0.5 * 0.96 ** (t * h["momentum_decay"]))
    after = b1 * (1 - 0.5 * 0.96 ** ((t + 1) * h["momentum_decay"]))
    product = h["mu_product"] * mu
    return {
        "new mu_product": product, "b1": b1, "c1": 1 - b1, "b2": b2, "c2": 1 - b2, "bias": 1 - b2**t, "eps": h["eps"],
        "sg": h["lr"] * (1 - mu) / (1 - product), "sm": h["lr"] * after / (1 - product * after),
    }  # fmt: skip


def nadam_pass(w, g, exp_avg, exp_avg_sq, b1, c1, b2, c2, bias, eps, sg, sm):
    m = exp_avg * b1 + g * c1
    v = exp_avg_sq * b2 + g * g * c2
    d = torch.sqrt(v / bias) + eps
    return w - g / d * sg - m / d * sm, m, v


NADAM = Program(
    "nadam", (("lr", 2e-3), ("betas", (0.9, 0.999)), ("eps", 1e-8), ("momentum_decay", 4e-3)), (), (),
    {(): Variant((like("exp_avg"), like("exp_avg_sq"), State("mu_product", "number", None, lambda h: 1.0)), {0: Tick(nadam_prologue, Segment(
        "nadam", ("w", "g", "exp_avg", "exp_avg_sq"), ("w", "exp_avg", "exp_avg_sq"),
        ("b1", "c1", "b2", "c2", "bias", "eps", "sg", "sm"), nadam_pass,
        """
        const T new_exp_avg = exp_avg * b1 + g * c1;
        const T new_exp_avg_sq = exp_avg_sq * b2 + g * g * c2;
        const T d = std::sqrt(new_exp_avg_sq / bias) + eps;
        const T new_w = w - g / d * sg - new_exp_avg / d * sm;
        """,
    ), None)})},
)  # fmt: skip

# --- Muon: two passes with matrix products between them, and a shaped state
MIX = Segment(
    "mix", ("g", "momentum_buffer"), ("momentum_buffer", "u"), ("mu",), lambda g, m, mu: (m * mu + g, g + (m * mu + g) * mu),
    "const T new_momentum_buffer = momentum_buffer * mu + g;\nconst T new_u = g + new_momentum_buffer * mu;",
)  # fmt: skip
MOVE = Segment("move", ("w", "o"), ("w",), ("decay", "lr"), lambda w, o, decay, lr: (w * decay - o * lr,), "const T new_w = w * decay - o * lr;")


def orthogonal(x):
    x = x / (torch.linalg.norm(x) + 1e-7)
    for _ in range(3):
        a = x @ x.mT
        x = 1.5 * x - 0.5 * a @ x
    return x


def muon_function(arrays, s, run):
    m, u = run(MIX, (arrays["g"], arrays["momentum_buffer"]), (s["mu"],))
    (w,) = run(MOVE, (arrays["w"], orthogonal(u)), (s["decay"], s["lr"]))
    return {"w": w, "momentum_buffer": m, "rows": arrays["rows"] + 1, "left": arrays["left"] * 0.5}


MUON = Program(
    "muon", (("lr", 2e-2), ("momentum", 0.95), ("weight_decay", 0.1)), (), (),
    {(): Variant((like("momentum_buffer"), State("rows", "shaped", lambda s: (s[0], 1), zero), State("left", "shaped", lambda s: (s[0], s[0]), "eye")),
     {0: Tick(lambda t, h: {"mu": h["momentum"], "decay": 1 - h["lr"] * h["weight_decay"], "lr": h["lr"]}, None, muon_function)})},
    "matrix", None,
)  # fmt: skip

# --- two clocks: `slow` takes the sum of `period` gradients, `slower` counts in threes from step 2
FAST = Segment("fast", ("w", "g", "slow", "fold"), ("w", "fold"), ("lr", "mu"), lambda w, g, slow, fold, lr, mu: (w - (g + slow * mu) * lr, fold + g),
               "const T new_w = w - (g + slow * mu) * lr;\nconst T new_fold = fold + g;")  # fmt: skip
FLUSH = Segment("flush", ("w", "g", "slow", "fold"), ("w", "slow", "fold"), ("lr", "mu"),
                lambda w, g, slow, fold, lr, mu: (w - (g + (slow * mu + (fold + g)) * mu) * lr, slow * mu + (fold + g), fold * 0.0),
                "const T new_slow = slow * mu + (fold + g);\nconst T new_w = w - (g + new_slow * mu) * lr;\nconst T new_fold = fold * T(0);")  # fmt: skip


def clocks_prologue(t, h):
    return {"lr": h["lr"], "mu": h["mu"]}


def counted(segment):
    def function(arrays, s, run):
        new = dict(zip(segment.writes, run(segment, tuple(arrays[n] for n in segment.reads), (s["lr"], s["mu"]))))
        return {**new, "slower": arrays["slower"] + 1}

    return function


TWO_CLOCKS = Program(
    "clocks", (("lr", 1e-2), ("mu", 0.5), ("period", 4)), (("period", 0), (3, 2)), (),
    {(): Variant((like("slow"), like("fold"), like("slower")), {
        0: Tick(clocks_prologue, FAST, None), 1: Tick(clocks_prologue, FLUSH, None),
        2: Tick(clocks_prologue, None, counted(FAST)), 3: Tick(clocks_prologue, None, counted(FLUSH)),
    })},
)  # fmt: skip

# --- a rule that reads its layer: one step on the layer's own loss
DELTA = Program(
    "delta", (("lr", 1e-2),), (), (),
    {(): Variant((), {0: Tick(lambda t, h: dict(h), None, lambda a, s, run: {"w": a["w"] - (a["delta"] @ a["x"].mT) * s["lr"]})})},
    "matrix", "sgd", ("x", "delta"),
)  # fmt: skip


def optimizer_class(name, *programs):
    """A class such as generated source has."""

    def __init__(self, params, **values):
        hypers = {k: values.pop(k, v) for k, v in programs[0].hypers}
        RuleOptimizer.__init__(self, params, hypers, **values)

    return type(name, (RuleOptimizer,), {"programs": {p.name: p for p in programs}, "default": programs[0].name, "__init__": __init__, "__module__": __name__})


AdamW = optimizer_class("AdamW", ADAMW)
Sgd = optimizer_class("Sgd", SGD)
NAdam = optimizer_class("NAdam", NADAM)
Muon = optimizer_class("Muon", MUON, ADAMW)
Clocks = optimizer_class("Clocks", TWO_CLOCKS)
Delta = optimizer_class("Delta", DELTA, SGD)

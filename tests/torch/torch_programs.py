"""Small programs that the zoo does not have: name -> (forms by first state, text)."""

HEAD = """  in x : real[d]
  param Wk, Wv, Wq : d -> d
  param wa, wb, wc : d -> 1
  param Wa : d -> d
  k = unit(Wk(x))    v = Wv(x)    q = Wq(x)
  a = sigmoid(wa(x) + 2)    b = sigmoid(wb(x))    c = sigmoid(wc(x))    A = sigmoid(Wa(x) + 2)
"""


def memory(
    steps: str, objective: str = "0.5 * sqnorm(S(k) - v)", init: str = "zeros", out: str = "S(q)", more: str = ""
) -> str:
    """One memory with the streams k, v, q, numbers a, b, c in (0, 1) and channels A."""
    return f"{more}block m(d) {{\n{HEAD}  memory S : d -> d = {init} {{ minimize {objective} by {steps} }}\n  out y = {out}\n}}\n"


def update(steps: str, init: str = "zeros", out: str = "S(q)") -> str:
    return f"block m(d) {{\n{HEAD}  memory S : d -> d = {init} {{ update {steps} }}\n  out y = {out}\n}}\n"


NESTEROV = "rule lookahead(rate, beta) {\n  memory m : like(w) = zeros { update beta * last m + grad(at = last w - rate * beta * last m) }\n  update last w - rate * m\n}\n"

PROGRAMS: dict[str, tuple[dict[str, str], str]] = {
    # decay and gradient, in every order
    "gd": ({"S": "solve"}, memory("gd(b)")),
    "decay_gd": ({"S": "solve"}, memory("decay(a), gd(b)")),
    "gd_decay": ({"S": "solve"}, memory("gd(b), decay(a)")),
    "decay_gd_decay": ({"S": "solve"}, memory("decay(a), gd(b), decay(c)")),
    "gd_gd": ({"S": "solve"}, memory("gd(b), gd(c)")),
    "gd_decay_gd": ({"S": "solve"}, memory("gd(b), decay(a), gd(c)")),
    "constant_decay": ({"S": "solve"}, memory("decay(0.9), gd(0.5)")),
    "decay_one": ({"S": "solve"}, memory("decay(1), gd(0.5)")),
    "decay_zero": ({"S": "solve"}, memory("decay(0), gd(0.5)", init="learned")),
    # by channel
    "channels_gd": ({"S": "solve"}, memory("decay(A), gd(b)")),
    "gd_channels": ({"S": "solve"}, memory("gd(b), decay(A)")),
    "gd_channels_gd": ({"S": "solve"}, memory("gd(0.5), decay(A), gd(0.3)", init="learned")),
    "channels_scalar_gd": ({"S": "solve"}, memory("decay(A), decay(a), gd(b)")),
    "channels_hebb": ({"S": "closed"}, memory("decay(A), gd(1)", "-dot(S(k), v)")),
    "hebb_channels": ({"S": "closed"}, memory("gd(b), decay(A)", "-dot(S(k), v)", out="S(q) + last S(k)")),
    "values_hebb": ({"S": "loop"}, memory("decay_values(A), gd(1)", "-dot(S(k), v)")),
    "hebb_values": ({"S": "loop"}, memory("gd(b), decay_values(A)", "-dot(S(k), v)", init="learned")),
    "values_gd": ({"S": "loop"}, memory("decay_values(A), gd(b)")),
    "both_channels": ({"S": "loop"}, memory("decay(A), decay_values(sigmoid(v)), gd(1)", "-dot(S(k), v)")),
    "values_oja": ({"S": "solve"}, memory("decay_values(A), gd(b)", "0.5 * sqnorm(transpose(S)(unit(v))) - dot(S(k), unit(v))", out="transpose(S)(q)")),
    "values_hebb_transposed": ({"S": "closed"}, memory("decay_values(A), gd(1)", "-dot(S(k), v)", out="transpose(S)(q) + transpose(last S)(v)")),
    # learners with a memory of their own
    "momentum": ({"S": "solve"}, memory("momentum(0.2, 0.7)")),
    "decay_momentum": ({"S": "solve"}, memory("decay(a), momentum(0.2, 0.7)")),
    "momentum_decay": ({"S": "solve"}, memory("momentum(0.2, 0.7), decay(a)")),
    "momentum_streams": ({"S": "solve"}, memory("decay(a), momentum(0.3 * b, c)")),
    "momentum_hebb": ({"S": "closed"}, memory("decay(a), momentum(0.3 * b, c)", "-dot(S(k), v)", out="S(q) + last S(x)")),
    "momentum_momentum": ({"S": "solve"}, memory("momentum(0.2, 0.7), momentum(0.1, 0.5)")),
    "gd_momentum": ({"S": "solve"}, memory("gd(0.3), decay(a), momentum(0.2, 0.7)", out="S(q) + last S(k)")),
    "momentum_gd": ({"S": "solve"}, memory("momentum(0.2, 0.7), gd(0.3 * b)", init="learned")),
    "titans": ({"S": "solve"}, memory("titans(theta = 0.5 * b, eta = c, alpha = 0.1 * a)")),
    "titans_decay": ({"S": "solve"}, memory("decay(a), titans(theta = 0.5 * b, eta = c, alpha = 0.1 * a), gd(0.1)")),
    "channels_momentum": ({"S": "loop"}, memory("decay(A), momentum(0.2, 0.7)")),
    "lookahead": ({"S": "solve"}, memory("lookahead(0.2, 0.7)", more=NESTEROV)),
    "two_memories_learner": ({"S": "solve"}, memory("twice(0.2, 0.7)", more="rule twice(rate, beta) {\n  memory m : like(w) = zeros { update beta * last m + g }\n  memory n : like(w) = zeros { update 0.5 * last n + m }\n  update 0.95 * last w - rate * m - 0.1 * n\n}\n")),
    # implicit steps
    "implicit": ({"S": "solve"}, memory("implicit(b)")),
    "implicit_decay": ({"S": "solve"}, memory("implicit(b), decay(a)")),
    "decay_implicit": ({"S": "solve"}, memory("decay(a), implicit(b)", init="learned")),
    "channels_implicit": ({"S": "solve"}, memory("decay(A), implicit(b)")),
    "implicit_weighted": ({"S": "solve"}, memory("implicit(b)", "c * sqnorm(S(k) - v)")),
    "implicit_gd": ({"S": "solve"}, memory("implicit(b), gd(0.3)")),
    # objectives
    "two_terms": ({"S": "solve"}, memory("decay(a), gd(0.4)", "0.5 * sqnorm(S(k) - v) + 0.3 * b * sqnorm(S(unit(v)) - k)")),
    "three_keys": ({"S": "solve"}, memory("decay(a), gd(0.3)", "0.5 * sqnorm(S(k) - v) + 0.5 * sqnorm(S(unit(q)) - x) - dot(S(unit(x)), v)")),
    "two_terms_momentum": ({"S": "solve"}, memory("decay(a), momentum(0.2, c)", "0.5 * sqnorm(S(k) - v) + 0.3 * sqnorm(S(unit(v)) - k)")),
    "oja": ({"S": "solve"}, memory("decay(a), gd(b)", "0.5 * sqnorm(transpose(S)(unit(v))) - dot(S(k), unit(v))")),
    "both_sides": ({"S": "loop"}, memory("decay(a), gd(0.3)", "0.5 * sqnorm(S(k) - v) + 0.5 * sqnorm(transpose(S)(unit(v)) - k)")),
    "huber": ({"S": "loop"}, memory("decay(0.9), gd(0.5)", "sum(softplus(S(k) - v))", init="learned(normal(0.1))")),
    "weight_decay": ({"S": "solve"}, memory("gd(0.3)", "0.5 * sqnorm(S(k) - v) + 0.05 * sqnorm(S(k))")),
    "unit_read": ({"S": "loop"}, memory("gd(0.3)", "0.5 * sqnorm(unit(S(k) + x) - v)")),
    "surprise_rate": ({"S": "loop"}, memory("gd(0.1 * sigmoid(sqnorm(last S(k) - v)))")),
    # reads and first states
    "read_last": ({"S": "solve"}, memory("decay(a), gd(b)", out="last S(q)")),
    "read_both": ({"S": "solve"}, memory("decay(a), gd(b)", init="learned", out="S(q) + 0.5 * last S(x)")),
    "read_transposed": ({"S": "solve"}, memory("decay(a), gd(b)", init="eye", out="transpose(S)(v) + S(q)")),
    "read_last_transposed": ({"S": "solve"}, memory("decay(a), gd(b)", init="learned", out="transpose(last S)(v)")),
    "hebb_transposed": ({"S": "closed"}, memory("decay(a), gd(1)", "-dot(S(k), v)", init="learned", out="transpose(S)(v) + last S(q)")),
    "momentum_transposed": ({"S": "solve"}, memory("decay(a), momentum(0.2, 0.7)", out="transpose(S)(v) + S(q)")),
    "error_read": ({"S": "solve"}, memory("decay(a), gd(b)", init="normal(0)", out="S(q) + (last S(k) - v) * a")),
    "no_write": ({"S": "loop"}, memory("decay(a), gd(0)", init="learned")),
    "only_decay": ({"S": "loop"}, memory("decay(a)", init="learned", out="transpose(S)(v) + S(q)")),
    # explicit updates
    "ema_outer": ({"S": "closed"}, update("a * last S + (1 - a) * outer(v, k)")),
    "erase": ({"S": "solve"}, update("A * last S - outer(last S(k), b * k) + outer(v, k) - 0.1 * outer(x, q)", init="learned")),
    "scaled_write": ({"S": "closed"}, update("A * (last S + outer(v, k))")),
    "scaled_values": ({"S": "loop"}, update("scale_values(A, last S + outer(v, k))")),
    "half": ({"S": "closed"}, update("(last S + outer(v, k)) / (1 + b)")),
    "only_write": ({"S": "closed"}, update("outer(v, k)", init="learned", out="S(q) + last S(x)")),
    "growing": ({"S": "loop"}, update("1.01 * last S + outer(v, k)")),
    "negative": ({"S": "loop"}, update("-0.5 * last S + outer(v, k)")),
    "transposed_state": ({"S": "loop"}, update("0.9 * transpose(last S) + outer(v, k)")),
    "turned_state": ({"S": "loop"}, update("0.9 * transpose(last S)", init="learned")),
    "turned_write": ({"S": "closed"}, update("0.9 * last S + transpose(a * outer(v, k) + outer(q, k))")),
    "double_swap": ({"S": "loop"}, update("0.9 * transpose(transpose(last S) + outer(k, v))")),
    # chains of memories
    "keyed_by_memory": ({"S": "closed", "M": "solve"}, f"""block m(d) {{
{HEAD}  memory S : d -> d {{ minimize -dot(S(k), v) by decay(0.95), gd(1) }}
  z = tanh(S(q))
  memory M : d -> d {{ minimize 0.5 * sqnorm(M(unit(z)) - x) by implicit(0.7), decay(0.8) }}
  out y = M(z) + transpose(M)(k)
}}
"""),
    "valued_by_memory": ({"S": "solve", "M": "solve"}, f"""block m(d) {{
{HEAD}  memory S : d -> d = learned {{ minimize 0.5 * sqnorm(S(k) - v) by decay(a), gd(b) }}
  memory M : d -> d {{ minimize 0.5 * sqnorm(M(k) - (v - S(k))) by momentum(0.2, 0.7), decay(sigmoid(sum(last S(q)))) }}
  out y = M(q)
}}
"""),
    "shared_write": ({"S": "solve"}, f"""block m(d) {{
{HEAD}  memory S : d -> d {{ minimize 0.5 * sqnorm(S(k) + last M(k) - v) by gd(0.3) }}
  memory M : d -> d {{ minimize 0.5 * sqnorm(M(k) + last S(k) - v) by decay(0.9), gd(0.3) }}
  out y = M(q) + S(q)
}}
"""),
    "self_keyed": ({"K": "loop"}, """block m(d) {
  in x : real[d]
  param Wq : d -> d
  memory K : d -> d = learned(normal(0.3)) { minimize 0.5 * sqnorm(K(k) - x) by gd(0.1) }
  k = unit(last K(x))
  out y = K(Wq(x))
}
"""),
    # clocks
    "every": ({"S": "loop"}, memory("decay(0.9), gd(0.2)").replace("= zeros {", "= zeros every 3 offset 1 {").replace("- v)", "- v) over sum")),
    "every_mean": ({"S": "loop"}, memory("momentum(0.1, 0.8)", "0.5 * sqnorm(S(k) - v) over mean", init="eye every 4", out="S(q) + last S(x)").replace("by", "by")),
    "reset": ({"S": "loop"}, memory("decay(a), gd(b)", init="learned").replace("by decay(a), gd(b)", "by decay(a), gd(b)\n    reset every 5")),
    # streams
    "ema": ({"m": "scan"}, "block m(d) {\n  in x : real[d]\n  memory m : real[d] = zeros { update 0.9 * last m + 0.1 * x }\n  out y = m + last m\n}\n"),
    "gated_ema": ({"m": "scan"}, "block m(d) {\n  in x : real[d]\n  param W : d -> d\n  memory m : real[d] = learned { update sigmoid(W(x)) * last m + tanh(x) }\n  out y = m * last m\n}\n"),
    "recurrent": ({"h": "loop"}, "block m(d) {\n  in x : real[d]\n  param W, U : d -> d\n  memory h : real[d] = learned(normal(0.5)) { update tanh(W(x) + U(last h)) }\n  out y = h\n}\n"),
    "learned_vector": ({"m": "loop"}, "block m(d) {\n  in x : real[d]\n  memory m : real[d] { minimize 0.5 * sqnorm(m - x) by momentum(0.3, 0.5), decay(0.9) }\n  out y = m\n}\n"),
    "time": ({}, "block m(d) {\n  in x : real[d]\n  param W : d -> d\n  z = W(x)\n  out y = last z + delay(x, 3) + x / count() + rope(z) - conv(x, 3)\n}\n"),
    "time_each": ({"S": "solve"}, """block m(d) {
  in x : real[d]
  each h in 2 {
    param W, V : d -> 4
    k = unit(rope(W(x)))
    memory S : 4 -> 4 { minimize 0.5 * sqnorm(S(k) - delay(V(x), 2)) by decay(1 - 2 ^ (-2 - h)), gd(1 / (1 + count())) }
    o = S(k) * (h + 1)
  }
  out y = flatten(o)
}
"""),
    "several_outputs": ({"S": "solve"}, memory("decay(a), gd(b)").replace("out y = S(q)", "out y = S(q)\n  out e = sqnorm(S(k) - v)\n  out w = v")),
    "instances": ({"S": "solve"}, memory("gd(b), decay(A)", init="learned").replace("block m", "block part").replace("out y = S(q)", "out y = S(q)\n  out z = last S(k)") + """block m(d) {
  in x : real[d]
  one = part(norm(x))
  two = part(one.y + x)
  out y = two.y + one.z
}
"""),
    "chain": ({"S": "solve"}, memory("decay(a), gd(b)").replace("block m", "block part") + "block m(d) {\n  in x : real[d]\n  chain h = x over i in 0 .. 3 { h = h + part(norm(h)) }\n  out y = h\n}\n"),
    "for": ({"S.0": "solve", "S.1": "solve", "S.2": "solve"}, """block m(d) {
  in x : real[d]
  param Wk, Wv : d -> d
  for i in 0 .. 3 {
    memory S[i] : d -> d { minimize 0.5 * sqnorm(S[i](unit(Wk(x))) - Wv(x)) by decay(1 - 2 ^ (-1 - i)), gd(0.5) }
  }
  out y = sum(S[i](x) for i in 0 .. 3)
}
"""),
    "each_in_each": ({"S": "solve"}, """block m(d) {
  in x : real[d]
  each g in 2 {
    param Wg : d -> d
    z = Wg(x)
    each h in 3 {
      param Wk, Wv : d -> 4
      param wa : d -> 1
      memory S : 4 -> 4 = learned { minimize 0.5 * sqnorm(S(unit(Wk(z))) - Wv(x)) by decay(sigmoid(wa(z))), momentum(0.3, 0.6) }
      o = S(Wk(x))
    }
  }
  out y = flatten(o)
}
"""),
    "rectangular": ({"S": "solve"}, """block m(d) {
  in x : real[d]
  param Wk, Wq : d -> 3
  param Wv : d -> 5
  param A : d -> 3
  memory S : 3 -> 5 = learned { minimize 0.5 * sqnorm(S(unit(Wk(x))) - Wv(x)) by decay(sigmoid(A(x))), gd(0.5) }
  out y = S(Wq(x))
}
"""),
    "channels_transposed": ({"S": "loop"}, memory("decay(A), gd(b)", out="transpose(S)(v)")),
    "rectangular_transposed": ({"S": "solve"}, """block m(d) {
  in x : real[d]
  param Wk, Wq : d -> 3
  param Wv : d -> 5
  memory S : 3 -> 5 = learned { minimize 0.5 * sqnorm(S(unit(Wk(x))) - Wv(x)) by momentum(0.2, 0.7), decay(0.9) }
  out y = S(Wq(x))
  out z = transpose(last S)(Wv(x))
}
"""),
    "store": ({}, "block m(d) {\n  in x : real[d]\n  param W, V : d -> d\n  memory A : store(d -> d, window = 4) { key W(x)   value V(x) }\n  memory B : store(d -> d) { key A(x)   value x }\n  out y = A(x) + B(W(x))\n}\n"),
}  # fmt: skip

"""Texts without errors that use every form of the language."""

GATED = """\
import std.rules
const chunk = 64

# A learner of one map a head.
block gated_delta(d, heads = 8, dk = d / heads, dv = d / heads) {
  in x : real[d]
  each h in heads {
    param Wq, Wk : d -> dk = normal(0.02)
    param wa, wb : d -> 1
    q = unit(Wq(x))  k = unit(Wk(x))  # keys
    memory S : dk -> dv = zeros every 4 offset 1 {
      key k  value v
      minimize 0.5 * sqnorm(S(k) - v) over mean by decay(sigmoid(wa(x))), gd(sigmoid(wb(x)))
      reset every 3
    }
    o = S(q)
  }
  param Wo : heads * dv -> d
  out y = Wo(flatten(o))
}
"""

MIXED = """\
block mixed {
  in t : int[4]
  in x : real[2, d]
  in b : bool
  for p in [1, 2] {
    param F[p] : store(d -> d, window = 4)
    z[p] = last F[p](x) - -2^-x^3
  }
  chain h = x over i in 0 .. 4 { h = h + F[i](h) }
  y = sum(z[j] * f(a, n = 3) for j in 0 .. n + 1)
  out y
}

rule momentum(lr, beta = 0.9) {
  memory m : like(w) = zeros { minimize -dot(m, g) by decay(beta), gd(1) }
  update last w - lr * m
}

schedule mixed {
  M by windows, recompute  # and the rest
  F[4] by closed, chunk = n
  * chunk = 16
  * by loop
}

train main {
  schedule = constant
  model = mixed(d = 64, data = "a\\"b")
  minimize cross_entropy(y, data.target) by momentum(1e-3)
}
"""

ROUTED = """\
rule keep(lr, steps = 5) on d -> e { update last w - lr * g }
rule short(lr = 0.02, betas = [0.9, 0.999]) on real[n] else keep { update last w - lr * g }
rule orthogonal(lr = 0.02, momentum = 0.95, nesterov = 1, weight_decay = 0.1, ns_steps = 5)
    on d -> e stacked else short {
  update last w - lr * g
}
rule typed(lr = 0.1) on matrices, heads d -> e stacked else tables { update last w - lr * g }
rule tables(lr = 0.1) on embeddings  # and no shape
    else plain {
  update last w - lr * g
}
rule plain(lr = 0.1) on vectors real[n] { update last w - lr * g }

train main {
  minimize cross_entropy(model(byte), next) matrices by keep(0.1), rest by short() every 8
}
train long {
  minimize cross_entropy(model(byte), next)
      matrices by orthogonal(lr = 0.02, ns_steps = 3),  # not the head
      # tied
      "head.*" by short(lr = 1e-3) every 2 * 4,
      split("*.qkv.weight", 3) by orthogonal(
        lr = 0.02,
        momentum = 0.95,
        nesterov = 1,
        weight_decay = 0.1,
        ns_steps = 5,
        another = 3
      ),
      rest by short()
  steps = 3
}
"""

DEEP = """\
block mlp(d, hidden = 4 * d) {
  in x : real[d]
  param up : d -> hidden
  param down : hidden -> d = zeros
  out y = down(gelu(up(x)))
}

block deep(d, chunk = 16) {
  in x : real[d]
  memory M : mlp(d, hidden = 2 * d) = learned {
    minimize 0.5 * sqnorm(M(x) - x) over sum at start(chunk) by gd(0.1, keep = 0.9), renormalise(4)
        every chunk, project() every chunk
    writes stop
    flush apply
    shared mean
  }
  memory F : mlp = learned every 4 {
    minimize sqnorm(F(x) - x) by gd(0.1)
    reset every 64 to M
  }
  memory F[2] : d -> d { update g(start(chunk) M, at = last w) over last  reset every 8 to F[1] }
  out y = start(chunk) M(x) + last F[2](x) - start(4) F[2]
}
"""

SAMPLES = (GATED, MIXED, ROUTED, DEEP, GATED + MIXED + ROUTED + DEEP)

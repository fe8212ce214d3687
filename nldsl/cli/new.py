"""`nldsl new NAME`."""

from __future__ import annotations

from pathlib import Path

import click

from nldsl.cli.common import write_file

STARTER = """\
# A memory that learns while it reads. At each tick it keeps a fraction of its state and takes one
# step of gradient descent towards giving back the value v when it is asked with the key k.
block NAME(d, heads = 4, dk = d / heads) {
  in x : real[d]
  each h in heads {
    param Wq, Wk, Wv : d -> dk
    param wa, wb : d -> 1
    q = unit(Wq(x))  k = unit(Wk(x))  v = Wv(x)
    memory S : dk -> dk = zeros {
      key k  value v
      minimize 0.5 * sqnorm(S(k) - v) by decay(sigmoid(4 + wa(x))), gd(sigmoid(wb(x)))
    }
    # `S` is the state after this tick, `last S` the one before.
    o = S(q)
  }
  param Wo : heads * dk -> d
  out y = Wo(flatten(o))
}

# A language model over bytes: an embedding, two layers, logits.
block NAME_model(d = 64) {
  in x : int[256]
  param embed : 256 -> d = normal(0.02)
  param head : d -> 256
  chain h = embed(x) over i in 0 .. 2 { h = h + NAME(norm(h)) }
  out y = head(norm(h))
}

train NAME_run {
  model = NAME_model(d = 64)
  # The data gives two streams: `byte`, and `next`, the byte that follows it.
  minimize cross_entropy(model(byte), next) by adamw(lr = 3e-3)
  steps = 200  batch = 8  length = 256
}
"""

RULE = """\
# An optimizer is a memory of gradients: `w` is the tensor, `g` its gradient, a step is a tick. The memory below keeps
# beta of itself at each step and takes the rest from the gradient.
rule NAME(lr = 0.001, beta = 0.9, weight_decay = 0.01) {
  memory exp_avg : like(w) = zeros { minimize 0.5 * sqnorm(exp_avg - g) by gd(1 - beta) }
  # `exp_avg` is the memory after this step, `last exp_avg` the one before.
  update (1 - lr * weight_decay) * last w - lr * sign(exp_avg)
}
"""


@click.command()
@click.argument("name", metavar="NAME")
@click.option("--rule", is_flag=True, help="An optimizer to start from.")
def command(name: str, rule: bool) -> None:
    """Write a small spec with comments to start from."""
    path = Path(name)
    path = path if path.suffix == ".nl" else path.with_name(path.name + ".nl")
    text, then = (RULE, "explain") if rule else (STARTER, "train")
    stem = path.stem.replace("-", "_")
    if not (stem.isascii() and stem.isidentifier() and stem == stem.lower() and _free(stem, text)):
        what = "rule" if rule else "block"
        raise click.UsageError(f"'{name}' cannot be the name of a {what}: take letters a to z, digits and _, and no word of the language")
    write_file(path, text.replace("NAME", stem), replaces=lambda _: False)
    click.echo(f"wrote {path}; now `nldsl check {path}`, then `nldsl {then} {path}`")


def _free(stem: str, text: str) -> bool:
    """Whether the starter with this name is a right spec."""
    from nldsl.pipeline import check_source
    from nldsl.source import Source

    return not check_source(Source(stem, text.replace("NAME", stem))).errors

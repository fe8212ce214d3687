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


@click.command()
@click.argument("name", metavar="NAME")
def command(name: str) -> None:
    """Write a small spec with comments to start from."""
    path = Path(name)
    path = path if path.suffix == ".nl" else path.with_name(path.name + ".nl")
    stem = path.stem.replace("-", "_")
    if not (stem.isascii() and stem.isidentifier() and stem == stem.lower() and _free(stem)):
        raise click.UsageError(f"'{name}' cannot be the name of a block: take letters a to z, digits and _, and no word of the language")
    write_file(path, STARTER.replace("NAME", stem), replaces=lambda _: False)
    click.echo(f"wrote {path}; now `nldsl check {path}`, then `nldsl train {path}`")


def _free(stem: str) -> bool:
    """Whether the starter with this name is a right spec."""
    from nldsl.pipeline import check_source
    from nldsl.source import Source

    return not check_source(Source(stem, STARTER.replace("NAME", stem))).errors

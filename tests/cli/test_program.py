"""`nldsl.load` and what a program gives."""

import pytest

import nldsl
from nldsl.explain import explain

TEXT = """
const base = 0.5
rule mine(rate) { update last w - rate * g }
block cell(d, heads = 2, dk = d / heads) {
  in x : real[d]
  each h in heads {
    param Wk : d -> dk
    k = unit(Wk(x))
    memory S : dk -> dk every 4 { minimize -dot(S(k), k) by mine(base) }
    o = S(k)
  }
  out y = flatten(o)
}
block net(d, cell, rates = [0.1, 0.2]) {
  in x : real[d]
  out y = cell(sum(r * x for r in rates))
}
block lm(d = 8) {
  in x : int[256]
  param embed : 256 -> d
  param head : d -> 256
  out y = head(cell(embed(x)))
}
train run { model = lm(d = 64)  minimize cross_entropy(model(byte), next) by adamw }
"""


@pytest.fixture(scope="module")
def program():
    return nldsl.load(TEXT)


def test_what_a_program_lists(program):
    assert program.blocks == ("cell", "net", "lm")
    assert list(program.rules) == ["mine"] and "momentum" in program.all_rules
    assert list(program.trains) == ["run"]
    assert program.diagnostics == ()


def test_reveal(program):
    assert program.reveal("cell", "x") == "real[d] every 1"
    assert program.reveal("cell", "S") == "dk -> dk every 4 each h"
    with pytest.raises(nldsl.NlError, match="no stream"):
        program.reveal("cell", "SS")


def test_elaborate(program):
    found = program.elaborate("cell", d=6, heads=3)
    assert found.key == "cell(d=6, heads=3, dk=2)"
    assert str(found.types[found.key]["y"]) == "real[6]"
    assert found.unit.params[0].name == "Wk"


def test_a_block_as_a_parameter(program):
    found = program.elaborate("net", d=4, cell="cell")
    assert list(found.units) == ["net(d=4, cell=cell, rates=(0.1, 0.2))", "cell(d=4, heads=2, dk=2)"]
    assert program.elaborate("net", d=4, cell="cell", rates=[1, 2.5]).key == "net(d=4, cell=cell, rates=(1, 2.5))"
    with pytest.raises(nldsl.NlError, match="needs a value for `cell`"):
        program.symbolic("net")
    with pytest.raises(nldsl.NlError, match="NL806"):
        program.elaborate("net", d=4, cell="sell")


def test_every_unit_that_is_reached_is_there():
    text = "block a(d) { in x : real[d]  param W : d -> d  out y = W(x) }\nblock b(d) { in x : real[d]  out y = a(a(x)) }\nblock c(d) { in x : real[d]  out y = b(x) }"
    found = nldsl.load(text).elaborate("c", d=3)
    assert list(found.units) == ["c(d=3)", "b(d=3)", "a(d=3)"]


@pytest.mark.parametrize(
    ("sizes", "code", "says"),
    [
        ({}, "NL804", "`d`"),
        ({"d": 64, "heads": 5}, "NL806", "d = 64, heads = 5"),
        ({"d": 64, "head": 2}, "NL805", "did you mean `heads`?"),
        ({"d": True}, "NL806", "True"),
        ({"d": None}, "NL806", "None"),
        ({"d": "nothing"}, "NL806", "nothing"),
        ({"d": -2}, "NL806", "d = -2"),
        ({"d": 2.0}, "NL806", "d = 2.0"),
    ],
)
def test_parameters_that_do_not_fit(program, sizes, code, says):
    with pytest.raises(nldsl.NlError) as caught:
        program.elaborate("cell", **sizes)
    assert {d.code for d in caught.value.diagnostics} == {code}
    assert says in str(caught.value)


def test_an_unknown_block(program):
    with pytest.raises(nldsl.NlError, match="did you mean `cell`"):
        program.elaborate("cel", d=2)


def test_load_raises_all_errors_at_once():
    with pytest.raises(nldsl.NlError) as caught:
        nldsl.load("block b(d) {\n  in x : real[d]\n  u = z\n  out y = u + q\n}\nblock c() { }")
    assert [d.code for d in caught.value.diagnostics] == ["NL101", "NL101", "NL113"]


def test_load_a_file(tmp_path):
    path = tmp_path / "a.nl"
    path.write_text("\ufeff" + TEXT, encoding="utf-8")
    assert nldsl.load(path).blocks == nldsl.load(str(path)).blocks == ("cell", "net", "lm")
    with pytest.raises(nldsl.NlError, match="NL801"):
        nldsl.load(tmp_path / "b.nl")


def test_a_huge_file_is_refused_at_once(tmp_path):
    path = tmp_path / "a.nl"
    with open(path, "wb") as file:
        file.truncate(100_000_000)
    with pytest.raises(nldsl.NlError, match="NL003"):
        nldsl.load(path)


def test_parameters_may_have_any_name():
    formals = "self, dtype = 2, device = 3, compile = 4, sizes = 6"
    program = nldsl.load(f"block b({formals}) {{ in x : real[self]  out y = dtype * device * compile * sizes * x }}")
    given = {"self": 4, "dtype": 1, "device": 1, "compile": 1, "sizes": 1}
    assert program.elaborate("b", given).key == program.elaborate("b", **given).key
    assert program.elaborate("b", {"self": 4}, sizes=2).key.endswith("sizes=2)")


def test_an_empty_name_is_no_file():
    with pytest.raises(nldsl.NlError, match=r"NL801.*empty"):
        nldsl.load("")


def test_explain_of_a_file_with_blocks_in_blocks(tmp_path, monkeypatch, capsys):
    from nldsl.cli import run

    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.nl").write_text(TEXT)
    assert run(["explain", "a.nl"]) == 0
    everything = capsys.readouterr().out
    assert "takes blocks as parameters: --block net -D cell=NAME" in everything
    assert "in all" in everything.split("block lm", 1)[1]
    assert run(["explain", "a.nl", "--block", "net", "-D", "d=8", "-D", "cell=cell"]) == 0
    assert "block net" in (one := capsys.readouterr().out) and "in all" in one and "block lm" not in one


def test_explain_says_which_outer_gradients_pass_where_the_text_does_not():
    text = "block b(d) {{ in x : real[d]  memory S : d -> d {{ minimize 0.5 * sqnorm(S(unit(x)) - x) by gd(0.5) {} }}  out y = S(x) }}"
    said = [explain(nldsl.load(text.format(order))) for order in ("", "writes first_order", "writes through")]
    assert ["outer gradients pass its steps" in s for s in said] == [True, False, False]


def test_explain_of_a_step_that_uses_what_it_made_many_times_is_short():
    """Newton-Schulz, five steps of it, each of which takes what is before it three times: as a text of its own it has no end."""
    mlp = "block mlp(n) { in x : real[n]  param up : n -> n  param down : n -> n  out y = down(gelu(up(x))) }\n"
    step = "every 4 { minimize 0.5 * sqnorm(M(unit(x)) - x) over sum by muon_exact(0.05) }"
    said = explain(nldsl.load(f"{mlp}block b(d = 3) {{ in x : real[d]  memory M : mlp(d) = learned {step}  out y = M(x) }}"))
    assert "M.up' = " in said and max(map(len, said.splitlines())) < 180

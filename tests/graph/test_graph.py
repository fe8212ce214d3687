"""The nesting graph, its reduced view and its drawings."""

import xml.etree.ElementTree as ElementTree

import pytest

import nldsl
from nldsl.graph import KEPT, nesting_graph, reduced, strongly_connected
from nldsl.render import RENDERERS, to_dot, to_mermaid, to_svg

TEXT = """
block cell(d) {
  in x : real[d]
  param Wk, Wv : d -> d
  param Wq, Wo : d -> d
  k = unit(Wk(x))
  memory S : d -> d = learned { minimize 0.5 * sqnorm(S(k) - Wv(x)) by momentum(0.1) }
  memory A : store(d -> d, window = 4) { key k  value x }
  out y = Wo(S(Wq(x))) + A(k)
}
block net(d) {
  in x : real[d]
  h = cell(x)
  out y = cell(h) + last h
}
"""


@pytest.fixture(scope="module")
def graph():
    return nesting_graph(nldsl.load(TEXT).elaborate("net", d=4))


def kinds(graph, a, b):
    return sorted(d["kind"] for d in (graph.get_edge_data(a, b) or {}).values())


def test_nodes_have_kinds_levels_and_clusters(graph):
    assert graph.nodes["x"]["kind"] == "input"
    assert graph.nodes["y"]["kind"] == "output"
    assert graph.nodes["cell/S"]["kind"] == "memory"
    assert graph.nodes["cell/A"]["kind"] == "store"
    assert graph.nodes["cell/Wk"]["kind"] == "param"
    assert graph.nodes["cell.1/S"]["cluster"] == "cell.1"
    assert (graph.nodes["cell/S.m"]["period"], graph.nodes["cell/S.m"]["depth"]) == (1, 0)
    assert (graph.nodes["cell/S"]["period"], graph.nodes["cell/S"]["depth"]) == (1, 1)
    assert graph.nodes["cell/Wk"]["period"] is None


def test_edges_have_kinds(graph):
    assert kinds(graph, "cell/S.init", "cell/S") == ["initialisation"]
    assert kinds(graph, "cell/k", "cell/S.g") == ["gradient"]
    assert kinds(graph, "cell/S", "cell/S.g") == ["last"]
    assert kinds(graph, "x", "cell/x") == ["now"]


def test_the_reduced_view_has_no_streams(graph):
    view = reduced(graph)
    assert {d["kind"] for _, d in view.nodes(data=True)} <= set(KEPT)
    assert kinds(view, "x", "cell/S.m") == ["gradient"]
    assert kinds(view, "cell/S.m", "cell/S") == ["now"]
    assert all(len(view.get_edge_data(a, b)) == 1 for a, b in set(view.edges()))


def test_params_with_the_same_readers_are_one_node(graph):
    members = [d["members"] for _, d in reduced(graph).nodes(data=True) if d["kind"] == "param"]
    assert sum(map(len, members)) == 10
    assert len(members) == 8


def test_the_condensation_is_a_schedule(graph):
    order = strongly_connected(graph)
    place = {node: n for n, component in enumerate(order) for node in component}
    assert place["cell/S"] == place["cell/S.m"] == place["cell/S.g"]
    assert place["x"] < place["cell/k"] < place["cell/S"] < place["cell.1/S"] < place["y"]


@pytest.mark.parametrize("full", [False, True])
def test_drawings(graph, full):
    shown = graph if full else reduced(graph)
    svg = ElementTree.fromstring(to_svg(shown))
    words = "".join(svg.itertext())
    assert "each tick" in words and "outer step" in words and "cell.1/S" in words
    assert to_mermaid(shown).startswith("flowchart TB\n")
    assert to_mermaid(shown).count("subgraph") == to_mermaid(shown).count("  end\n")
    assert to_dot(shown).count("{") == to_dot(shown).count("}")


def test_boxes_do_not_overlap(graph):
    from nldsl.render.bands import bands
    from nldsl.render.layout import place

    for shown in (graph, reduced(graph)):
        layout = place(shown, bands(shown))
        boxes = list(layout.boxes.values())
        assert len(boxes) == len(shown)
        for n, a in enumerate(boxes):
            assert a.x >= 0 and a.x + a.width <= layout.width and a.y + a.height <= layout.height
            for b in boxes[:n]:
                assert a.x + a.width <= b.x or b.x + b.width <= a.x or a.y + a.height <= b.y or b.y + b.height <= a.y


def test_hostile_names_are_escaped():
    import networkx as nx

    graph = nx.MultiDiGraph(block="<&\"'>")
    graph.add_node("a", kind="param", label="<b>\"&'", members=("<",), type="d -> e", where="<", cluster="", period=None, depth=0)
    ElementTree.fromstring(to_svg(graph))
    for render in RENDERERS.values():
        assert render(graph)


def test_an_empty_graph_is_drawn():
    import networkx as nx

    for render in RENDERERS.values():
        assert render(nx.MultiDiGraph())


DEEP = """
block mlp(d) {
  in x : real[d]
  param up, down : d -> d
  out y = down(gelu(up(x)))
}
rule smaller(a) { update a * last w }
block net(d) {
  in x : real[d]
  k = unit(x)
  memory M : mlp(d) = learned { minimize 0.5 * sqnorm(M(k) - x) at start(16) by gd(0.1), smaller(0.9) every 16 }
  memory F : mlp(d) { minimize 0.5 * sqnorm(F(k) - x) by gd(0.1)  reset every 4 to M }
  out y = start(16) M(x) + F(k)
}
"""


def test_states_of_windows_and_periods_are_no_memories():
    view = reduced(nesting_graph(nldsl.load(DEEP).symbolic("net")))
    assert {n for n, d in view.nodes(data=True) if d["kind"] == "memory"} == {"M.up", "M.down", "F.up", "F.down"}
    assert kinds(view, "M.up", "y") == ["last"]
    assert kinds(view, "M.up", "F.up") == ["last"]
    (first,) = (n for n, d in view.nodes(data=True) if "M.up.init" in d["members"])
    assert "y" not in set(view.successors(first))

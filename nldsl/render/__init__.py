"""Drawings of the nesting graph: Mermaid, DOT, SVG, and a text for terminals; of the timeline: a text and SVG. None needs a program besides nldsl."""

from nldsl.render.dot import to_dot
from nldsl.render.mermaid import to_mermaid
from nldsl.render.svg import to_svg
from nldsl.render.text import levels_text
from nldsl.render.timeline import timeline_svg, timeline_text

RENDERERS = {"mermaid": to_mermaid, "dot": to_dot, "svg": to_svg}

__all__ = ["RENDERERS", "levels_text", "timeline_svg", "timeline_text", "to_dot", "to_mermaid", "to_svg"]

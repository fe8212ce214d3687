"""What `verify` found, for people (text), programs (JSON) and CI (JUnit), with snippets that run."""

from __future__ import annotations

from dataclasses import fields
from typing import Any
from xml.etree import ElementTree

from nldsl_testing.search import Failure
from nldsl_testing.verify import Outcome, Report


def snippet(file: str, outcome: Outcome) -> str:
    """Python that tries the counterexample again."""
    assert outcome.failure is not None
    name = type(outcome.failure.example).__name__
    return "\n".join((
        f"from nldsl.testing import {name}, check",
        f'check("{file}", "{outcome.property}", "{outcome.subject}", {plain(outcome.failure.example)})',
    ))  # fmt: skip


def plain(example: Any) -> str:
    """An example as Python: what differs from the defaults."""
    given = [f"{f.name}={getattr(example, f.name)!r}" for f in fields(example) if getattr(example, f.name) != f.default]
    return f"{type(example).__name__}({', '.join(given)})"


def line(outcome: Outcome) -> str:
    """One property in one line."""
    if outcome.skipped is not None:
        return f"  {outcome.property:<12} skipped  {outcome.skipped}"
    count = "proven" if outcome.examples <= 1 and outcome.property == "proof" else f"{outcome.examples} example{'s' if outcome.examples != 1 else ''}"
    count += f", {outcome.diverged} of them diverge" if outcome.diverged else ""
    return f"  {outcome.property:<12} {'holds' if outcome.failure is None else 'FAILS':<7}  {outcome.says}  ({count})"


def details(file: str, outcome: Outcome) -> str:
    """What a failure needs to be understood: what is wrong, with what, where, and how to see it again."""
    failure = outcome.failure
    assert isinstance(failure, Failure)
    out = [f"    {part}" for part in failure.what.splitlines() or [""]]
    out += [f"    at {where}" for where in failure.lines]
    out += ["    try it again with", *(f"        {part}" for part in snippet(file, outcome).splitlines())]
    return "\n".join(out)


def summary(report: Report) -> str:
    """The last line."""
    asked = [o for o in report.outcomes if o.skipped is None]
    tried = sum(o.examples for o in asked)
    seconds = sum(o.seconds for o in asked)
    wrong = len(report.failures)
    verdict = f"{len(asked)} properties hold" if not wrong else f"{wrong} of {len(asked)} properties fail"
    return f"{report.file}: {verdict} ({tried} examples, {seconds:.0f} s, seed {report.seed})"


def to_json(report: Report) -> dict[str, Any]:
    return {
        "file": report.file,
        "seed": report.seed,
        "holds": report.holds,
        "outcomes": [
            {
                "subject": o.subject, "property": o.property, "says": o.says, "examples": o.examples, "diverged": o.diverged, "seconds": round(o.seconds, 3),
                "status": "skipped" if o.skipped is not None else "holds" if o.failure is None else "fails",
                **({"why": o.skipped} if o.skipped is not None else {}),
                **({"what": o.failure.what, "lines": list(o.failure.lines), "snippet": snippet(report.file, o)} if o.failure is not None else {}),
            }
            for o in report.outcomes
        ],
    }  # fmt: skip


def to_junit(report: Report) -> str:
    """One suite a file, one case a property."""
    suite = ElementTree.Element(
        "testsuite", name=report.file, tests=str(len(report.outcomes)), failures=str(len(report.failures)), errors="0",
        skipped=str(sum(o.skipped is not None for o in report.outcomes)), time=f"{sum(o.seconds for o in report.outcomes):.3f}",
    )  # fmt: skip
    for o in report.outcomes:
        case = ElementTree.SubElement(suite, "testcase", classname=f"{report.file}.{o.subject}", name=o.property, time=f"{o.seconds:.3f}")
        if o.skipped is not None:
            ElementTree.SubElement(case, "skipped", message=o.skipped)
        if o.failure is not None:
            ElementTree.SubElement(case, "failure", message=o.failure.what.splitlines()[0]).text = details(report.file, o)
    whole = ElementTree.Element("testsuites")
    whole.append(suite)
    ElementTree.indent(whole)
    return ElementTree.tostring(whole, encoding="unicode", xml_declaration=True) + "\n"

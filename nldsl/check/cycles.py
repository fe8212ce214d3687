"""Types of streams that read their own past: what each equation of a cycle gives from those of its arguments that are known.

These are guesses, widened until none changes; the ordinary rules of the words then say whether they are right.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from nldsl.core import Type
from nldsl.dims import Dim
from nldsl.vocabulary import Attrs, Mismatch, Word

ANY = Dim.symbol("?")
WIDENINGS = 16  # of one name: from a number to a vector, then axis by axis; more is growth without end


def components(reads: Mapping[str, Sequence[str]]) -> list[list[str]]:
    """The names, each after those it reads; names that read one another stand together, in their given order.

    >>> components({"y": ["a"], "a": ["b"], "b": ["a"]})
    [['a', 'b'], ['y']]
    """
    order = {name: at for at, name in enumerate(reads)}
    number: dict[str, int] = {}  # of a name when it was first met
    lowest: dict[str, int] = {}  # of the names on `path` that a name leads back to
    path: dict[str, None] = {}  # met, and not yet in a component
    found: list[list[str]] = []
    for start in reads:
        stack = [] if start in number else [(start, iter(reads[start]))]
        while stack:
            name, rest = stack[-1]
            if name not in number:
                number[name] = lowest[name] = len(number)
                path[name] = None
            read = next(rest, None)
            if read is None:
                stack.pop()
                if lowest[name] == number[name]:
                    found.append(sorted(_popped(path, name), key=lambda n: order.get(n, -1)))
                elif stack:
                    above = stack[-1][0]
                    lowest[above] = min(lowest[above], lowest[name])
            elif read not in number:
                stack.append((read, iter(reads.get(read, ()))))
            elif read in path:
                lowest[name] = min(lowest[name], number[read])
    return found


def _popped(path: dict[str, None], until: str) -> Iterator[str]:
    """The last names of a path, taken from it."""
    name = ""
    while name != until:
        name, _ = path.popitem()
        yield name


def widen(types: dict[str, Type], reads: Mapping[str, Iterable[str]], late: set[str], guess: Callable[[str], Type | None]) -> None:
    """Give the names of a cycle the types that `guess` finds for them in `types`, until nothing changes.

    A name that is `late` is guessed when no other one changes any more.
    """
    readers: dict[str, list[str]] = {name: [] for name in reads}
    for reader, names in reads.items():
        for name in names:
            readers.get(name, []).append(reader)
    soon, later = deque(n for n in reads if n not in late), deque(n for n in reads if n in late)
    changes: Counter[str] = Counter()
    while soon or later:
        name = (soon or later).popleft()
        found = guess(name)
        if found is None or found == types.get(name) or changes[name] == WIDENINGS:
            continue
        changes[name] += 1
        types[name] = found
        for reader in readers[name]:
            (later if reader in late else soon).append(reader)


def likely(word: Word, args: Sequence[Type | None], attrs: Attrs) -> Type | None:
    """What an operation gives whatever its unknown arguments are, or else, where one is known, what it gives if those are numbers.

    >>> from nldsl.vocabulary import WORDS
    >>> vector, operator = Type("real", (Dim.symbol("d"),)), Type("map", (Dim.symbol("e"), Dim.symbol("d")))
    >>> [str(likely(WORDS[w], args, {})) for w, args in (("add", [None, vector]), ("apply", [operator, None]), ("sum", [None]))]
    ['real[d]', 'real[e]', 'real']
    >>> [likely(WORDS[w], args, {}) for w, args in (("tanh", [None]), ("outer", [None, vector]), ("unit", [None]))]
    [None, None, None]
    """
    known = [a for a in args if a is not None]
    results = [_result(word, [probe if a is None else a for a in args], attrs) for probe in _probes(known)]
    different = {r for r in results if r is not None}
    if len(different) == 1 and ANY not in (only := different.pop()).shape:
        return only
    return results[0] if known else None


def _probes(known: list[Type]) -> Iterator[Type]:
    """Types an argument may have: first a number, then a vector that fits nothing, then those that fit the others."""
    yield Type("real")
    yield Type("real", (ANY,))
    for t in known:
        yield Type(t.kind, t.shape, (), t.bound)
        if t.kind == "map":
            yield from (Type("real", (size,)) for size in t.shape)


def _result(word: Word, args: list[Type], attrs: Attrs) -> Type | None:
    try:
        return word.rule(args, attrs)
    except Mismatch:
        return None

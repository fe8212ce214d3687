"""After an error: find the smallest repair after which the text goes on, or skip to the next statement.

A repair is judged by how many of the following tokens the parser then takes. Repairs that need no invented name or
expression leave a complete statement; the others mark it, and `Stack` drops it when it is whole.
"""

from __future__ import annotations

from dataclasses import dataclass

from nldsl import parse_messages as messages
from nldsl.parse_lex import Token
from nldsl.parse_scan import CLOSERS, ITEM_WORDS, OPENERS, STATEMENT_WORDS, Scanned
from nldsl.parse_stack import Look, Stack
from nldsl.parse_table import END, tables

AHEAD = 12  # tokens that a repair is tried on
ENOUGH = 3  # tokens after the error that a repair must get past

# What may be supplied: single tokens, and a token with the part that must follow it.
GLUE = ("COMMA", "COLON", "EQUAL", "ARROW", "BY", "IN", "OVER", "LBRACE", "RPAR", "RSQB")
PARTS = (("COLON", "REAL"), ("ARROW", "NAME"), ("EQUAL", "NAME"), ("BY", "NAME"), ("IN", "NAME"))
# (what would stand there, what stands there) that are not taken for each other.
_UNLIKE = {("ARROW", "EQUAL"), ("LBRACE", "COMMA"), ("EQUAL", "ARROW"), ("COMMA", "BY")}
# What completes a statement with braces from its first word.
HEADERS = {
    "BLOCK": ("NAME",),
    "RULE": ("NAME",),
    "SCHEDULE": ("NAME",),
    "TRAIN": ("NAME",),
    "MEMORY": ("NAME", "COLON", "REAL"),
    "EACH": ("NAME", "IN", "NAME"),
    "FOR": ("NAME", "IN", "NAME"),
    "CHAIN": ("NAME", "EQUAL", "NAME", "OVER", "NAME", "IN", "NAME"),
}


@dataclass(frozen=True)
class Repair:
    """Drop `pop` values from the stack, take `words`, and go on after `skip` tokens."""

    words: tuple[str, ...] = ()
    skip: int = 0
    pop: int = 0


def recover(stack: Stack, scanned: Scanned, index: int) -> int:
    """Report the error at tokens[index], mend the stack, and return the index to go on at."""
    where = messages.Where(stack, scanned, index)
    if where.token.kind == "RBRACE" and where.token.start == where.token.end and where.opener is None:
        return index + 1  # supplied for a `{` that a repair left out
    special = _last(where) or _foreign(where) or _side_by_side(where)
    if special is not None:
        return special
    repair = _best(where)
    if repair is None:
        where.report(messages.plain(where))
        return _skip(stack, scanned, index)
    where.report(messages.repaired(where, repair))
    _apply(where, repair)
    return index + repair.skip


def _best(where: messages.Where) -> Repair | None:
    best, reach = None, where.index + ENOUGH - 1
    for repair in _candidates(where):
        there = _reach(where, repair)
        if there > reach:
            best, reach = repair, there
    return best


def _candidates(where: messages.Where) -> list[Repair]:
    """Repairs to try, of equally good ones the first is taken."""
    token, accepted = where.token, where.accepted
    word = token.kind in tables().words.values()
    glue = [kind for kind in GLUE if kind in accepted]
    if token.kind == END and "RBRACE" in accepted:
        glue.append("RBRACE")
    opener = where.opener
    if opener and opener.kind != "LBRACE" and opener.start not in where.scanned.partner:
        closer = OPENERS[opener.kind]
        glue = [closer] * (closer in accepted) + [kind for kind in glue if kind != closer]
    out = []
    missing = [Repair(("NAME",))] if "NAME" in accepted else []
    renamed = [Repair(("NAME",), skip=1)] if word and "NAME" in accepted else []
    pop = []
    if isinstance(where.top, Token) and where.top.kind in tables().words.values():
        pop = [Repair(("NAME",), pop=1)]
    if token.kind == "EQUAL":
        out += pop
    out += missing + renamed if where.new_line else renamed + missing
    out += pop
    if where.index in where.scanned.strays or token.kind in ("EQUAL", "COLON", "IN", "COMMA", "ARROW", "DOTS", "BY"):
        out += [Repair((kind,), skip=1) for kind in glue if (kind, token.kind) not in _UNLIKE]
    if token.kind == "FOR" and "OVER" in accepted:
        out.append(Repair(("OVER",), skip=1))
    out += [Repair((kind,)) for kind in glue]
    out += [Repair(parts) for parts in PARTS if parts[0] in accepted]
    if token.kind in ("NUMBER", "STRING", "DOTTED") and "NAME" in accepted:
        out.append(Repair(("NAME",), skip=1))
    if token.kind != END:
        out.append(Repair(skip=1))
    if token.kind in CLOSERS and where.index in where.scanned.strays:
        out.sort(key=lambda repair: repair.skip != 1)
    return out


def _reach(where: messages.Where, repair: Repair) -> int:
    """The index of the first token that is not taken after a repair, looking at most AHEAD far."""
    look = Look(where.stack, len(where.stack.values) - repair.pop)
    if not all(look.feed(kind) for kind in repair.words):
        return -1
    tokens = where.scanned.tokens
    index = where.index + repair.skip
    stop = min(len(tokens), where.index + AHEAD)
    while index < stop and look.feed(tokens[index].kind):
        index += 1
    return where.index + AHEAD if index == len(tokens) else index


def _apply(where: messages.Where, repair: Repair) -> None:
    stack, token = where.stack, where.token
    renamed: Token | None = None
    if repair.pop:
        renamed = stack.values[-1]
        stack.cut(len(stack.values) - repair.pop)
    elif repair.words and repair.skip:
        renamed = token
    words = tables().words
    for kind in repair.words:
        if kind == "NAME" and renamed and renamed.text in words:
            stack.feed(Token("NAME", renamed.text, renamed.start, renamed.end))
        else:
            _supply(stack, kind, token)


def _supply(stack: Stack, kind: str, token: Token) -> None:
    place = max(stack.ends[-1] if stack.ends else 0, 0)
    stack.feed(Token(kind, tables().symbols.get(kind, "?"), place, place))
    if kind in ("NAME", "REAL"):  # after the statements that the token completes
        stack.invented.append(place)


# --- mistakes with a message and a repair of their own -----------------------------------------


def _last(where: messages.Where) -> int | None:
    """`last(M)`: the brackets are left out; around anything but a name the statement is broken."""
    if not (where.token.kind == "LPAR" and isinstance(where.top, Token) and where.top.kind == "LAST"):
        return None
    tokens, index = where.scanned.tokens, where.index
    closer = where.scanned.partner.get(where.token.start)
    if closer is None:
        return None
    named = tokens[index + 1].kind == "NAME" and closer == index + 2
    where.report(messages.last_brackets(where, tokens[index + 1].text if named else None))
    if named:
        where.stack.feed(tokens[index + 1])
    else:
        _supply(where.stack, "NAME", where.token)
    return closer + 1


def _foreign(where: messages.Where) -> int | None:
    """Words of other languages: `def f(x) {`, `let x = 3`, `if`, `return`."""
    tokens, index = where.scanned.tokens, where.index
    for place in range(index, max(-1, index - 3), -1):
        word = tokens[place]
        if word.kind == "NAME" and word.text in messages.FOREIGN and (place == index or not where.new_line):
            break
    else:
        return None
    where.report(messages.foreign(where, word))
    if messages.FOREIGN[word.text] == "block" and place == index and "BLOCK" in where.accepted:
        where.stack.feed(Token("BLOCK", word.text, word.start, word.end))
        return index + 1
    if place == index - 1 and where.top is word:
        where.stack.cut(len(where.stack.values) - 1)
        if where.stack.accepts(where.token.kind) and messages.FOREIGN[word.text] == "":
            return index
    return _skip(where.stack, where.scanned, index)


def _side_by_side(where: messages.Where) -> int | None:
    """`y = W x`: the second name looked like the start of a statement."""
    stack, index = where.stack, where.index
    if not {"EQUAL"} <= where.accepted <= {"EQUAL", "LSQB"} or index < 2 or index - 1 in where.scanned.first:
        return None
    before = where.scanned.tokens[index - 2]
    if before.kind not in ("NAME", "DOTTED", "NUMBER", "STRING", "RPAR", "RSQB") or len(stack.values) < 2:
        return None
    where.report(messages.side_by_side(where, before, where.scanned.tokens[index - 1]))
    stack.cut(len(stack.values) - 1)
    return _skip(stack, where.scanned, index)


# --- skipping ----------------------------------------------------------------------------------


def _skip(stack: Stack, scanned: Scanned, index: int) -> int:
    """Drop the statement that the error is in: go on at the next statement or closing brace of its body."""
    tokens = scanned.tokens
    base = stack.boundary()
    for value in stack.values[base:]:
        if isinstance(value, Token) and value.kind in ("LPAR", "LSQB"):
            index = max(index, scanned.partner.get(value.start, -1))
    while True:
        token = tokens[index]
        if token.kind == "LBRACE":
            if _header(stack, token):
                return index
            index = scanned.partner.get(token.start, index) + 1
        elif token.kind in ("LPAR", "LSQB") and token.start in scanned.partner:
            index = scanned.partner[token.start] + 1
        elif _starts(scanned, index):
            stack.cut(stack.boundary())
            while token.kind == END and not stack.accepts(END) and stack.accepts("RBRACE"):
                _supply(stack, "RBRACE", token)
            if stack.accepts(token.kind):
                return index
            if token.kind == END:
                stack.cut(int(bool(stack.values) and isinstance(stack.values[0], list)))
                return index
            index += 1
        else:
            index += 1


def _starts(scanned: Scanned, index: int) -> bool:
    """Whether a statement, an item or the end of a body is at an index."""
    tokens = scanned.tokens
    token = tokens[index]
    leads = index in scanned.first or tokens[index - 1].kind == "LBRACE"
    if token.kind in ("RBRACE", END) or token.kind in STATEMENT_WORDS:
        return True
    if token.kind in ("IN", "FOR") or token.kind in ITEM_WORDS:
        return leads
    if token.kind != "NAME":
        return False
    after = tokens[index + 1]
    if after.kind == "LSQB":
        after = tokens[scanned.partner.get(after.start, index) + 1]
    return after.kind == "EQUAL"


def _header(stack: Stack, token: Token) -> bool:
    """Complete the statement in progress up to its `{`, so that the errors in its body are found too."""
    base = stack.boundary()
    if base == len(stack.values):
        return False
    word = stack.values[base]
    if not (isinstance(word, Token) and word.kind in HEADERS):
        return False
    stack.cut(base + 1)
    for kind in HEADERS[word.kind]:
        _supply(stack, kind, token)
    return stack.accepts("LBRACE")

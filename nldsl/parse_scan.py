"""What is decided on the token stream before parsing: limits, brackets, spellings of other languages."""

from __future__ import annotations

from dataclasses import dataclass, field

from nldsl.diagnostics import Diagnostic, Label
from nldsl.parse_lex import Lexed, Token
from nldsl.parse_table import END
from nldsl.source import Source, Span

MAX_TEXT = 1_000_000
MAX_DEPTH = 100

ITEM_WORDS = frozenset({"IMPORT", "CONST", "BLOCK", "RULE", "SCHEDULE", "TRAIN"})
STATEMENT_WORDS = frozenset(
    {"PARAM", "MEMORY", "EACH", "CHAIN", "OUT", "KEY", "VALUE", "MINIMIZE", "UPDATE", "RESET"}
)  # besides `in` and `for`, which also stand inside statements
OPENERS = {"LPAR": "RPAR", "LSQB": "RSQB", "LBRACE": "RBRACE"}
CLOSERS = {closer: opener for opener, closer in OPENERS.items()}


@dataclass
class Scanned:
    """The tokens to parse: a missing `}` is supplied, so a `{` always has its partner.

    Attributes:
        partner: place of an opening bracket -> index of the bracket that closes it.
        noise: places of characters that were left out.
        strays: indices of closing brackets that close nothing.
        first: indices of tokens that are the first on their line.
    """

    tokens: list[Token]
    diagnostics: list[Diagnostic] = field(default_factory=list)
    partner: dict[int, int] = field(default_factory=dict)
    strays: set[int] = field(default_factory=set)
    first: set[int] = field(default_factory=set)
    noise: list[int] = field(default_factory=list)


def scan(source: Source, lexed: Lexed) -> Scanned:
    out = Scanned([], noise=lexed.noise)
    tokens = _foreign(source, lexed.tokens, out.diagnostics)
    stack: list[int] = []  # indices of open brackets in out.tokens
    suspect: Token | None = None  # a `{` whose `}` stands to the left of its line
    end = -1
    for token, after in zip(tokens, [*tokens[1:], tokens[-1]], strict=True):
        index = len(out.tokens)
        item = token.kind in ITEM_WORDS and after.kind != "EQUAL"  # `schedule = ...` is a setting of a `train`
        first = end < 0 or "\n" in source.text[end : token.start] or "\r" in source.text[end : token.start]
        if token.end > token.start:
            end = token.end
        if item or token.kind in STATEMENT_WORDS or token.kind in ("LBRACE", "RBRACE", END):
            while stack and out.tokens[stack[-1]].kind != "LBRACE":
                stack.pop()
        if item and first or token.kind == END:
            if stack:
                out.diagnostics.append(_open(source, suspect or out.tokens[stack[-1]], token))
            suspect = None
            for opener in reversed(stack):
                out.partner[out.tokens[opener].start] = len(out.tokens)
                out.tokens.append(Token("RBRACE", "}", token.start, token.start))
            stack.clear()
            index = len(out.tokens)
        if first:
            out.first.add(index)
        if token.kind in OPENERS:
            stack.append(index)
        elif token.kind in CLOSERS:
            if stack and out.tokens[stack[-1]].kind == CLOSERS[token.kind]:
                opener = stack.pop()
                out.partner[out.tokens[opener].start] = index
                if token.kind == "RBRACE" and first and suspect is None:
                    if _indent(source, token.start) < _indent(source, out.tokens[opener].start):
                        suspect = out.tokens[opener]
            else:
                out.strays.add(index)
        out.tokens.append(token)
    return out


def too_deep(source: Source, tokens: list[Token]) -> Diagnostic | None:
    depth = 0
    for token in tokens:
        if token.kind in OPENERS:
            depth += 1
            if depth > MAX_DEPTH:
                label = Label(Span(source, token.start, token.end))
                return Diagnostic("NL003", f"brackets are nested over {MAX_DEPTH} deep", (label,))
        elif token.kind in CLOSERS:
            depth = max(0, depth - 1)
    return None


def too_large(source: Source) -> Diagnostic:
    message = f"the file has {len(source.text):,} characters; at most {MAX_TEXT:,} are read"
    return Diagnostic("NL003", message, (Label(Span(source, 0, 0)),))


def _indent(source: Source, offset: int) -> int:
    start = source.text.rfind("\n", 0, offset) + 1
    line = source.text[start : offset + 1]
    return len(line) - len(line.lstrip(" \t"))


def _open(source: Source, opener: Token, token: Token) -> Diagnostic:
    what = "the end of the file" if token.kind == END else f"`{token.text}`"
    labels = (
        Label(Span(source, token.start, token.end), "`}` is missing before this"),
        Label(Span(source, opener.start, opener.end), "this `{` is not closed"),
    )
    return Diagnostic("NL006", f"a `}}` is missing before {what}", labels, expected="`}`", found=what)


# (kinds of two adjacent tokens) -> (kind to read them as, message, help)
_PAIRS = {
    ("EQUAL", "EQUAL"): ("EQUAL", "there is no `==`: an equation has one `=`", "write `=`"),
    ("STAR", "STAR"): ("CIRCUMFLEX", "a power is written `^`, not `**`", "write `a ^ 2`"),
    ("COLON", "EQUAL"): ("EQUAL", "there is no `:=`: an equation has one `=`", "write `=`"),
}
_ASSIGN = frozenset({"PLUS", "MINUS", "STAR", "SLASH", "CIRCUMFLEX"})


def _foreign(source: Source, tokens: list[Token], diagnostics: list[Diagnostic]) -> list[Token]:
    """Read the usual spellings of other languages as what they mean, with a message."""
    out: list[Token] = []
    skip_to = -1  # the end of a line that `//` made a comment

    def say(start: int, end: int, message: str, help: str) -> None:
        diagnostics.append(Diagnostic("NL008", message, (Label(Span(source, start, end)),), help=help))

    for token in tokens:
        if token.start < skip_to and token.kind != END:
            continue
        last = out[-1] if out else None
        if last is None or last.end != token.start or token.kind == END:
            out.append(token)
            continue
        kind, message, help = _PAIRS.get((last.kind, token.kind), (None, "", ""))
        if kind:
            say(last.start, token.end, message, help)
            out[-1] = Token(kind, token.text if kind == "EQUAL" else "^", last.start, token.end)
        elif last.kind in _ASSIGN and token.kind == "EQUAL":
            text = last.text + token.text
            say(last.start, token.end, f"there is no `{text}`: a name has one equation", "use a new name")
            out[-1] = Token("EQUAL", "=", last.start, token.end)
        elif last.kind == token.kind == "SLASH":
            say(last.start, token.end, "a comment starts with `#`, not `//`", "write `# ...`")
            out.pop()
            end = source.text.find("\n", token.end)
            skip_to = end if end >= 0 else len(source.text)
        else:
            out.append(token)
    return out

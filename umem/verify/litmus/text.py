"""The text form of a litmus test, one test a file; docs/litmus.md describes it for authors of tests.

test MP: message passing, data and then a flag      # a comment
start x = 0, y = 0
rank 0: store x 1 ; store_release y 1
rank 1: a = load_acquire y ; b = load x
forbidden a = 1 and b = 0

file      = test start {start} rank {rank} {("forbidden" | "allowed") term {"and" term}}
test      = "test" NAME [":" title]
start     = "start" place "=" number ["beside" place] {"," place "=" number ["beside" place]}
rank      = "rank" number ":" step {";" step}
step      = [register "="] operation [place] {number}
term      = (register | place) ("=" | "!=") number
"""

from __future__ import annotations

import re
from pathlib import Path

from ...errors import ConfigError, LitmusSyntax
from .litmus import FORMS, RELATIONS, Condition, Litmus, Place, Step, Term

SUFFIX = ".litmus"
MAX_LANES = 8
WORDS_A_LINE = 8  # 64 bytes, the shortest line there is
LEAST, GREATEST = -(1 << 63), (1 << 63) - 1

_TEST = re.compile(r"test\s+([\w+.-]+)\s*(?::\s*(.*?))?\s*$")
_TOKEN = re.compile(r"-?0[xX][0-9a-fA-F]+|-?\d+|[A-Za-z_]\w*|!=|\S")
_NAME = re.compile(r"[A-Za-z_]\w*$")
_WORDS = frozenset(FORMS) | {"test", "start", "rank", "forbidden", "allowed", "and", "beside"}


def read(path: Path) -> Litmus:
    """The test in a file. Raises ConfigError where the file cannot be read, LitmusSyntax where it is not a test."""
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"no litmus test can be read from {str(path)!r}: {error}") from None
    return parse(text, str(path))


def parse(text: str, file: str = "test") -> Litmus:
    """The test that `text` describes. Raises LitmusSyntax with `file`, the line, and the syntax expected there."""
    parser = _Parser(file)
    lines = text.splitlines()
    for number, line in enumerate(lines, 1):
        line = line.partition("#")[0].strip()
        if line:
            parser.line(number, line)
    return parser.end(len(lines))


class _Tokens:
    """The words of one line, taken from left to right."""

    def __init__(self, file: str, number: int, line: str):
        self.file, self.number = file, number
        self._tokens: list[str] = _TOKEN.findall(line)
        self._next = 0

    @property
    def next(self) -> str:
        """The word that comes next; "" at the end of the line."""
        return self._tokens[self._next] if self._next < len(self._tokens) else ""

    def wrong(self, expected: str, found: str | None = None) -> LitmusSyntax:
        return LitmusSyntax(self.file, self.number, expected, self.next if found is None else found)

    def take(self) -> str:
        token = self.next
        self._next += 1
        return token

    def skip(self, token: str) -> bool:
        """Whether `token` comes next; then it is taken."""
        if self.next != token:
            return False
        self._next += 1
        return True

    def need(self, token: str) -> None:
        if not self.skip(token):
            raise self.wrong(f"{token!r}")

    def new_name(self, what: str, taken: set[str]) -> str:
        """A name that is not `taken` and no word of the language."""
        if not _NAME.match(self.next) or self.next in _WORDS:
            raise self.wrong(f"the name of a {what}")
        if self.next in taken:
            raise self.wrong(f"a new name for a {what}")
        return self.take()

    def one_of(self, what: str, known: dict[str, object] | list[str]) -> str:
        if self.next not in known:
            raise self.wrong(f"{what}: {', '.join(known)}")
        return self.take()

    def value(self, what: str) -> int:
        """A whole number of 64 bits."""
        try:
            number = int(self.next, 0)
        except ValueError:
            raise self.wrong(f"a whole number, the {what}") from None
        if not LEAST <= number <= GREATEST:
            raise self.wrong(f"a {what} of 64 bits")
        self._next += 1
        return number

    def end(self) -> None:
        if self.next:
            raise self.wrong("the end of the line")


class _Parser:
    """Takes a test line by line."""

    def __init__(self, file: str):
        self._file = file
        self._head: tuple[str, str] | None = None
        self._places: dict[str, Place] = {}
        self._registers: set[str] = set()
        self._lanes: list[tuple[Step, ...]] = []
        self._conditions: dict[str, list[Condition]] = {"forbidden": [], "allowed": []}

    def line(self, number: int, line: str) -> None:
        """Take one line without its comment."""
        tokens = _Tokens(self._file, number, line)
        if self._head is None:
            self._head = self._test(tokens, line)
            return
        match tokens.next:
            case "start":
                self._start(tokens)
            case "rank":
                self._rank(tokens)
            case "forbidden" | "allowed":
                self._condition(tokens)
            case _:
                raise tokens.wrong("start, rank, forbidden or allowed; a file holds one test")
        tokens.end()

    def end(self, num_lines: int) -> Litmus:
        """The test, once all lines are taken."""
        at_end = _Tokens(self._file, num_lines, "")
        if self._head is None:
            raise at_end.wrong("a line `test NAME`", "the end of the file")
        if not self._lanes:
            raise at_end.wrong("a line `rank 0: ...`", "the end of the file")
        forbidden, allowed = map(tuple, self._conditions.values())
        if not forbidden + allowed:
            raise at_end.wrong("a line `forbidden ...` or `allowed ...`", "the end of the file")
        places = tuple(self._places.values())
        return Litmus(*self._head, places, tuple(self._lanes), forbidden, allowed)

    def _test(self, tokens: _Tokens, line: str) -> tuple[str, str]:
        found = _TEST.match(line)
        if not found:
            raise tokens.wrong("`test NAME` or `test NAME: title`", line)
        return found[1], found[2] or ""

    def _start(self, tokens: _Tokens) -> None:
        tokens.need("start")
        while True:
            if self._lanes:
                raise tokens.wrong("all places before the first rank")
            name = tokens.new_name("place", set(self._places))
            tokens.need("=")
            start = tokens.value("value that a place starts with")
            self._places[name] = self._place(tokens, name, start)
            if not tokens.skip(","):
                return

    def _place(self, tokens: _Tokens, name: str, start: int) -> Place:
        """On a line of its own, or behind the places that share the named one's line."""
        if not tokens.skip("beside"):
            lines = [place.line for place in self._places.values()]
            return Place(name, start, max(lines, default=-1) + 1)
        neighbour = self._places[tokens.one_of("a place that has been started", list(self._places))]
        word = sum(place.line == neighbour.line for place in self._places.values())
        if word == WORDS_A_LINE:
            raise tokens.wrong(f"at most {WORDS_A_LINE} places on a line", name)
        return Place(name, start, neighbour.line, word)

    def _rank(self, tokens: _Tokens) -> None:
        tokens.need("rank")
        if len(self._lanes) == MAX_LANES:
            raise tokens.wrong(f"at most {MAX_LANES} ranks")
        if tokens.next != str(len(self._lanes)):
            raise tokens.wrong(f"rank {len(self._lanes)}: they are numbered from 0, a line each")
        tokens.take()
        tokens.need(":")
        steps = [self._step(tokens)]
        while tokens.skip(";"):
            steps.append(self._step(tokens))
        self._lanes.append(tuple(steps))

    def _step(self, tokens: _Tokens) -> Step:
        register = ""
        if tokens.next not in FORMS:
            if not _NAME.match(tokens.next) or tokens.next in _WORDS:
                raise tokens.wrong(f"an operation: {', '.join(FORMS)}")
            register = tokens.new_name("register", self._registers | set(self._places))
            if not tokens.skip("="):
                raise tokens.wrong(f"an operation ({', '.join(FORMS)}) or `register = operation`", register)
        operation = tokens.one_of("an operation", dict(FORMS))
        form = FORMS[operation]
        if register and not form.gives:
            raise tokens.wrong(f"an operation that gives a value, for {register!r}", operation)
        if operation in ("load", "load_acquire") and not register:
            raise tokens.wrong(f"a register for what is loaded, as in `a = {operation} x`", operation)
        self._registers |= {register} - {""}
        place = tokens.one_of("a place that has been started", list(self._places)) if form.has_place else ""
        operands = tuple([tokens.value(what) for what in form.operands])
        return Step(operation, place, operands, register)

    def _condition(self, tokens: _Tokens) -> None:
        conditions = self._conditions[tokens.take()]
        terms = [self._term(tokens)]
        while tokens.skip("and"):
            terms.append(self._term(tokens))
        conditions.append(Condition(tuple(terms)))

    def _term(self, tokens: _Tokens) -> Term:
        name = tokens.one_of("a register or a place", [*sorted(self._registers), *self._places])
        relation = tokens.one_of("a comparison", dict(RELATIONS))
        return Term(name, relation, tokens.value("number to compare with"))

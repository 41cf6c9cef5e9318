"""Views and rows of messages as numbers: equal ones are one, so that each is joined and renumbered only once.

A search meets millions of states, which consist of few different views and rows. States hold their numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from ...kernels.intrinsics.elements import Number

View = tuple[int, ...]  # by word: index of a message
ZERO = 0  # number of the view that says nothing


class Message(NamedTuple):
    """A store to a word. `view` is what an acquire of it takes over, ZERO for nothing.

    `is_bound`: made by a read-modify-write of the message before it. `is_plain`: a plain store, with which an access
    that nothing orders behind it is a data race.
    """

    value: Number
    view: int
    is_bound: bool = False
    is_plain: bool = False


# The oldest message: it has no predecessor, and every lane has it in its view.
_KNOWN_TO_ALL = {"is_bound": False, "is_plain": False}

Row = tuple[Message, ...]  # the messages of a word, in modification order


class Memo(dict[Any, Any]):
    """The values of a function by argument, each computed once, at its first use."""

    def __init__(self, function: Callable[[Any], Any]):
        self._function = function

    def __missing__(self, key: Any) -> Any:
        value = self[key] = self._function(key)
        return value


class Numbers:
    """Values that can be hashed, numbered in the order in which they are met."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self._numbers: dict[Any, int] = {}

    def of(self, value: Any) -> int:
        """The number of this value."""
        number = self._numbers.setdefault(value, len(self.values))
        if number == len(self.values):
            self.values.append(value)
        return number


class Tables:
    """All views, and of each word all rows of messages, that a search has met."""

    def __init__(self, num_words: int):
        self._views = Numbers()
        self.views: list[View] = self._views.values
        self._rows = [Numbers() for _ in range(num_words)]
        self.rows: list[list[Row]] = [numbers.values for numbers in self._rows]
        zero = self.view((0,) * num_words)
        assert zero == ZERO
        self.joined = Memo(self._join)  # by two views
        self.replaced = Memo(self._replace)  # by view, word, index

    def view(self, view: View) -> int:
        """The number of a view."""
        return self._views.of(view)

    def row(self, word: int, row: Row) -> int:
        """The number of a row of messages of `word`."""
        return self._rows[word].of(row)

    def _join(self, pair: tuple[int, int]) -> int:
        return self.view(tuple(map(max, self.views[pair[0]], self.views[pair[1]])))

    def _replace(self, key: tuple[int, int, int]) -> int:
        number, word, index = key
        view = self.views[number]
        return self.view((*view[:word], index, *view[word + 1 :]))


class Renumbering:
    """A change of message indices, applied to views and rows by number: `views[number]`, `rows[word][number]`.

    `of_view` renumbers one view; `drops` is, for each word, how many of its oldest messages are dropped.
    """

    def __init__(self, tables: Tables, of_view: Callable[[View], View], drops: View):
        self._tables, self._of_view, self._drops = tables, of_view, drops
        self.views = Memo(self._view)
        self.rows = [Memo(self._row_of(word)) for word in range(len(drops))]

    def _view(self, number: int) -> int:
        return self._tables.view(self._of_view(self._tables.views[number]))

    def _row_of(self, word: int) -> Callable[[int], int]:
        rows, drop = self._tables.rows[word], self._drops[word]

        def renumber(number: int) -> int:
            kept = rows[number][drop:]
            messages = [
                message._replace(view=self.views[message.view], **({} if index else _KNOWN_TO_ALL))
                for index, message in enumerate(kept)
            ]
            return self._tables.row(word, tuple(messages))

        return renumber


def trimming(tables: Tables, first: View) -> Renumbering:
    """The change that drops the `first[word]` oldest messages of each word: indices count from the oldest left."""

    def of_view(view: View) -> View:
        return tuple([a - b if a > b else 0 for a, b in zip(view, first, strict=True)])

    return Renumbering(tables, of_view, first)


def spreading(tables: Tables, word: int, place: int) -> Renumbering:
    """The change that makes room for a message at `place` of `word`: indices from `place` on rise by one."""

    def of_view(view: View) -> View:
        return view if view[word] < place else (*view[:word], view[word] + 1, *view[word + 1 :])

    return Renumbering(tables, of_view, (0,) * len(tables.rows))

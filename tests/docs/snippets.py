"""The fenced blocks of README.md and docs/, and what a fragment stands in: what a reader has at that place."""

from __future__ import annotations

import contextlib
import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@dataclass(frozen=True)
class Snippet:
    """A fenced block; `head` is its first line without comment, by which tests know it."""

    file: Path
    line: int
    language: str
    text: str

    @property
    def page(self) -> str:
        """Name of its page."""
        return self.file.name

    @property
    def place(self) -> tuple[str, str]:
        """The page and the head."""
        return self.page, self.head

    @property
    def head(self) -> str:
        return self.text.splitlines()[0].partition("  ")[0].strip()

    def run(self, names: dict[str, Any]) -> str:
        """Run it where `names` are known and to be added to; what it prints.

        It is compiled as what it is, lines of a page: errors name them, and kernels have a file and a module, without
        which they would not be cached.
        """
        names.setdefault("__name__", "__main__")
        code = compile("\n" * (self.line - 1) + self.text, self.file, "exec")
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(code, names)
        return printed.getvalue()


def snippets(language: str | None) -> list[Snippet]:
    """All blocks of a language, "" for those of none; of every one for None."""
    found = []
    for page in PAGES:
        text = page.read_text()
        for block in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
            line = text.count("\n", 0, block.start()) + 2
            found.append(Snippet(page, line, block[1], block[2]))
    return [snippet for snippet in found if language in (None, snippet.language)]


# Fragments that stand in a rank: what the reader has there already.
IN_A_RANK = {
    (
        "README.md",
        'table = space.shared("table", (1_000_000, 64), "float32", home=1, cache="back", line=256)',
    ): """
import numpy as np
counter, row = space.shared("counter", (1,), "int64"), np.empty(64, "float32")
""",
    (
        "coherence.md",
        'table = space.shared("table", (1_000_000, 32), "int64", home=1, cache="back", line=256)',
    ): """
import numpy as np
""",
    ("coherence.md", "from umem.kernels import cpu_kernel"): """
n = 4
table = space.shared("numbers", (n,), "int64", home=1, cache="back")
""",
    ("coherence.md", "from umem.lines import report"): "",
}


def run_in_rank(space: Any) -> dict[tuple[str, str], str]:
    """What each fragment of IN_A_RANK prints in this rank; all in one world."""
    printed = {}
    for snippet in snippets("python"):
        preamble = IN_A_RANK.get(snippet.place)
        if preamble is None:
            continue
        names: dict[str, Any] = {"space": space}
        exec(preamble, names)
        printed[snippet.place] = snippet.run(names)
        space.barrier()
        if space.rank == 0:
            for array in [names[name] for name in ("table", "counter") if name in names]:
                array.free()
    return printed

"""`umem plan`: where embedding tables should lie, before any is made."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from ..embedding.planning import Plan, plan_tables, read_tables
from ..errors import ConfigError
from ..files.users import require_writable
from ..memory.segment import default_device_bytes
from ..units import format_size, parse_size


def show(console: Console, file: Path, num_ranks: int, memory: str | None, json_file: Path | None) -> None:
    """Print the plan of the tables in `file`. Raises ConfigError, OutOfMemory."""
    require_writable(json_file)
    if num_ranks < 1:
        raise ConfigError(f"{num_ranks} ranks: at least 1 is needed")
    try:
        entries: Any = json.loads(file.read_text())
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(f"{file} is no JSON: {error}") from None
    memory_bytes = default_device_bytes(num_ranks) if memory is None else parse_size(memory)
    plan = plan_tables(read_tables(entries), num_ranks, memory_bytes)
    console.print(_tables(plan))
    console.print(_ranks(plan, memory_bytes))
    if json_file is not None:
        json_file.write_text(json.dumps(asdict(plan), indent=1) + "\n")


def _tables(plan: Plan) -> Table:
    drawn = _drawn("table", "rows x columns", "bytes", "looked up a step", "placement", "why")
    for each in plan.placed:
        table = each.table
        drawn.add_row(
            table.name,
            f"{table.num_rows} x {table.num_columns} {table.dtype}",
            format_size(table.num_bytes),
            format_size(int(table.traffic_bytes)),
            each.placement if isinstance(each.placement, str) else f"at {each.placement}",
            each.why,
        )
    return drawn


def _ranks(plan: Plan, memory_bytes: int) -> Table:
    drawn = _drawn("rank", "bytes", "of its memory", "rows looked up a step", "bytes")
    columns = zip(plan.bytes_of_rank, plan.lookups_of_rank, plan.traffic_of_rank, strict=True)
    for rank, (used, lookups, traffic) in enumerate(columns):
        share = f"{used / memory_bytes:.0%}" if memory_bytes else "-"
        drawn.add_row(str(rank), format_size(used), share, f"{lookups:.0f}", format_size(int(traffic)))
    return drawn


def _drawn(*columns: str) -> Table:
    drawn = Table(box=box.SIMPLE, pad_edge=False, show_edge=False)
    for column in columns:
        drawn.add_column(column)
    return drawn

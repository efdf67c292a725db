"""Why trials did not go on: what pruned them, failed them, or would have."""

from collections.abc import Sequence
from typing import Any

from search.analysis.formatting import state
from search.storage.records import TrialRecord
from search.tables import Table, format_value


def grid(rows: Sequence[TrialRecord]) -> Table:
    """Why trials did not go on, a line for each."""
    if not rows:
        return Table(columns=(), rows=(), before=("no trial was pruned, and none failed",))
    return Table(
        columns=("trial", "state", "epochs", "why"),
        fixed=("state",),
        rows=tuple((str(row.number), row.state.lower(), format_value(row.epochs), _why(row)) for row in rows),
    )


def as_json(rows: Sequence[TrialRecord]) -> dict[str, Any]:
    """`why --json`."""
    return {
        "trials": [
            {
                "number": row.number,
                "state": row.state,
                "reason": row.reason,
                "paused": row.paused,
                "spared": row.spared,
                "crashes": row.crashes,
            }
            for row in rows
        ]
    }


def _why(row: TrialRecord) -> str:
    paused = state(row).partition(": ")[2] if row.paused is None else state(row)
    spared = "" if row.spared is None else f"the pruner would have stopped it: {row.spared['reason']}"
    told = "; ".join(filter(None, (row.reason or paused, spared, *row.crashes)))
    return told or ("no reason is recorded" if row.state in ("PRUNED", "FAIL") else "nothing stopped it")

"""The record of a soak has its command, versions and results."""

import json
from collections import Counter
from dataclasses import replace

from tests.soak import record, results
from tests.soak.record import Soak
from tests.soak.results import CaseResult


def test_a_record_has_the_table_the_command_and_the_versions() -> None:
    reports = [
        CaseResult(injected=3, survived=3, trouble=None, facts=Counter({"late writes refused": 2})),
        CaseResult(injected=2, survived=1, trouble="LOST: I3: finished trials changed: [7]", facts=Counter()),
    ]
    soak = Soak(
        name="Faults",
        command="python -m tests.soak --seed 5",
        scale=0.5,
        seed=5,
        seconds=61.4,
        rows=[replace(results.total("a machine is cut off", reports, note="in turn"), seconds=60.6)],
        versions={"optuna": "5.0.0", "postgresql": "15.14"},
    )

    text, stored = record.page(soak), json.loads(json.dumps(record.as_json(soak)))

    assert "`python -m tests.soak --seed 5` at commit " in text
    assert "optuna 5.0.0, postgresql 15.14." in text
    assert "Scale 0.5, seed 5, 61 s." in text
    assert "| a machine is cut off | 5 | 4 | 1 | 1 | 0 | 61 |" in text
    assert "- a machine is cut off: in turn; 2 late writes refused" in text
    assert stored["rows"][0]["seconds"] == 60.6
    assert stored["versions"] == {"optuna": "5.0.0", "postgresql": "15.14"}

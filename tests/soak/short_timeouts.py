"""`convsearch run` with timeouts about half as long as those of the product: a lease lasts 70 s instead of 150.

They cannot be much shorter. A process that freezes or is cut off inside a transaction may hold its locks for 30 s,
until the server ends the transaction (`search.storage.engine`); no process may give up before that.
"""

import argparse
import os
import sys
from pathlib import Path

from search.console import echo
from search.errors import ConvsearchError
from search.service import run
from search.service.session import RunOptions
from search.spec import study_spec
from search.storage.retry import Timeouts
from search.workers import live_view

TIMES = Timeouts(retry_timeout_s=35.0, renewal_interval_s=2.0, lease_timeout_s=70.0, hang_timeout_s=65.0)


def main(words: list[str]) -> int:
    args = _parser().parse_args(words)
    options = RunOptions(
        url=os.environ["CONVSEARCH_STORAGE"],
        cache=args.cache,
        name=args.study.stem,
        trials=args.trials,
        workers=args.workers,
        times=TIMES,
    )
    try:
        end = run.run_study(
            options, study_spec.load(args.study), show=lambda _: live_view.open_view(sys.stderr, os.environ), say=echo
        )
    except ConvsearchError as error:
        echo(f"convsearch: {error}")
        return error.exit_code
    echo(f"{options.name}: {end}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="short_timeouts", description=__doc__)
    parser.add_argument("verb", choices=["run"])
    parser.add_argument("study", type=Path)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--trials", type=int)
    parser.add_argument("--cache", type=Path)
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

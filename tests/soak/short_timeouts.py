"""`convsearch run` with waiting times about half as long as they are, so that a lease is over in 70 s and not in 150.

They cannot be much shorter. Who freezes, or is cut off, inside a transaction may hold its locks for 30 s, after which
the server ends it (`search.storage.engine`), and nobody may give up before that.
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
    order = RunOptions(
        url=os.environ["CONVSEARCH_STORAGE"],
        cache=args.cache,
        name=args.study.stem,
        trials=args.trials,
        workers=args.workers,
        times=TIMES,
    )
    try:
        end = run.run_study(
            order, study_spec.load(args.study), show=lambda _: live_view.open_view(sys.stderr, os.environ), say=echo
        )
    except ConvsearchError as error:
        echo(f"convsearch: {error}")
        return error.exit_code
    echo(f"{order.name}: {end}")
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

"""`make bench`: the speed claims of the project, measured beside stock libraries; `make bench-scale`: database load.

.venv/bin/python -m tests.bench [engine] [bookkeeping] [replay] [guard] [scale] [--quick] [--keep]
.venv/bin/python -m tests.bench sets [--help]
"""

import argparse
import sys
from collections.abc import Callable, Mapping

from tests.bench import bookkeeping, engine, guard, measure, replay, scale, sets
from tests.bench.measure import Result

BENCHMARKS: Mapping[str, Callable[[bool], Result]] = {
    "engine": engine.run_benchmark,
    "bookkeeping": bookkeeping.run_benchmark,
    "replay": replay.run_benchmark,
    "guard": guard.run_benchmark,
    "scale": scale.run_benchmark,
}
#: The benchmarks of `make bench`, which compare with stock.
USUAL = ("engine", "bookkeeping", "replay")


def main(words: list[str]) -> int:
    if words[:1] == ["sets"]:  # hours, in pieces: it has options of its own
        return sets.main(words[1:])
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)} (default: {', '.join(USUAL)})"
    )
    parser.add_argument("--quick", action="store_true", help="small sizes and few repeats, for a trial run")
    parser.add_argument("--keep", action="store_true", help="keep the results under studies/records/")
    args = parser.parse_args(words)
    unknown = set(args.names) - set(BENCHMARKS)
    if args.quick and args.keep:
        parser.error("--quick results are too noisy to keep; leave out --quick or --keep")
    if unknown:
        parser.error(f"there is no benchmark {', '.join(sorted(unknown))}; there are {', '.join(BENCHMARKS)}")
    for name in args.names or USUAL:
        result = BENCHMARKS[name](args.quick)
        command = f"python -m tests.bench {name}{' --quick' if args.quick else ''}"
        print(measure.page(result, command))
        if args.keep:
            print(f"kept in {measure.keep(result, command).relative_to(measure.ROOT)}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

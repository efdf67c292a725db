"""`make bench`: what the project claims to be fast at, measured beside what people use today; `make bench-scale`.

.venv/bin/python -m tests.bench [engine] [bookkeeping] [replay] [guard] [scale] [--quick] [--keep]
"""

import argparse
import sys
from collections.abc import Callable, Mapping

from tests.bench import bookkeeping, engine, guard, measure, replay, scale
from tests.bench.measure import Result

BENCHMARKS: Mapping[str, Callable[[bool], Result]] = {
    "engine": engine.measured,
    "bookkeeping": bookkeeping.measured,
    "replay": replay.measured,
    "guard": guard.measured,
    "scale": scale.measured,
}
#: What is measured beside stock, and so by `make bench`.
USUAL = ("engine", "bookkeeping", "replay")


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)} (default: {', '.join(USUAL)})"
    )
    parser.add_argument("--quick", action="store_true", help="small sizes, once each: to try, not to quote")
    parser.add_argument("--keep", action="store_true", help="keep the results under studies/records/")
    args = parser.parse_args(words)
    unknown = set(args.names) - set(BENCHMARKS)
    if args.quick and args.keep:
        parser.error("--quick is to try, not to keep")
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

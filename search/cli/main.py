"""The command line: parse, call one function, print, exit code. Data go to stdout, talk to stderr."""

import argparse
import traceback
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

from data.errors import DataError
from search.cli import flags
from search.cli.completion import complete, is_asked
from search.console import echo, sanitize
from search.errors import ConvsearchError

EXIT_CODES = """\
exit codes: 0 fine; 1 a bug of convsearch; 2 usage; 65 bad data; 69 no database or cluster; 70 all trials failed;
74 disk; 75 somebody else runs the study; 78 a study file is wrong, or not the stored one; 129 terminal closed;
130 interrupted; 143 terminated"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    given = parser()
    complete(given)
    args = given.parse_args(arguments)
    code = _run(args)
    if getattr(args, "on_end", None):
        from search.cli import on_end

        on_end.run_hook(args.on_end, study=_study_name(args), code=code)
    return code


def _study_name(args: argparse.Namespace) -> str:
    """The name of the study that a command was about."""
    if args.verb != "run":
        return str(args.study)
    return str(args.name or (Path(args.study).stem if args.again is None else f"{args.study}.again-{args.again}"))


def _run(args: argparse.Namespace) -> int:
    debug = args.debug
    try:
        from search.cli import commands  # takes a while, in which Ctrl-C shall be answered as well

        return commands.VERBS[args.verb](args)
    except (ConvsearchError, DataError) as error:
        return _explain(error, error.exit_code, debug=debug)
    except KeyboardInterrupt:
        echo("interrupted")
        return 130
    except BrokenPipeError:  # of an answer: who reads it has seen enough
        from search.tables import discard_stdout

        discard_stdout()
        return 0
    except Exception as error:
        _explain(error, 1, debug=debug)
        echo("this is a bug of convsearch; --debug (before the verb) shows where")
        return 1


def parser() -> argparse.ArgumentParser:
    """The parser of all verbs."""
    top = _Parser(
        prog="convsearch",
        description="Search for the best convolutional network on your images; nothing that was measured is lost.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"convsearch {version('convsearch')}")
    top.add_argument("--debug", action="store_true", help="show the whole traceback of an error")
    verbs = top.add_subparsers(dest="verb", metavar="VERB", required=True)
    flags.add(verbs)
    return top


class _Parser(argparse.ArgumentParser):
    """A parser that repeats no password, wherever on the command line it stands, and takes flags between names."""

    _is_mixing = False

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Let `why STUDY --json 3` be `why STUDY 3 --json`; the verb itself comes before its flags."""
        if self._is_mixing or self._subparsers is not None or is_asked():
            return super().parse_known_args(args, namespace)
        self._is_mixing = True
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self._is_mixing = False

    def error(self, message: str) -> NoReturn:
        super().error(sanitize(message))


def _explain(error: Exception, code: int, *, debug: bool) -> int:
    if debug:
        echo("".join(traceback.format_exception(error)).rstrip())
    echo(f"convsearch: {error or type(error).__name__}")
    return code

"""The command line: parse, call one function, print, return an exit code. Data go to stdout, messages to stderr."""

import os
import sys
from collections.abc import Sequence
from difflib import get_close_matches

import click

from data.errors import DataError
from search.cli import maintenance, models, options, reading, serving, streams, training
from search.cli.completion import COMPLETE_VARIABLE
from search.cli.options import Session
from search.console import echo, sanitize
from search.errors import ConvsearchError, DiskError, UsageError

EXIT_CODES = """\
\b
Exit codes: 0 success; 1 a bug of convsearch; 2 usage; 65 bad data; 69 no
database or cluster; 70 all trials failed; 74 disk; 75 the study is running
elsewhere; 76 no trial has a result; 78 invalid or changed study file;
129 terminal closed; 130 interrupted; 143 terminated"""

#: The verbs, in the order of the help.
GROUPS: dict[str, tuple[click.Command, ...]] = {
    "Train": (training.run, training.resume, training.final),
    "Look": (
        reading.studies,
        reading.best,
        reading.show,
        reading.why,
        reading.compare,
        reading.report,
        serving.dashboard,
    ),
    "Use a model": (models.export, models.predict),
    "Several machines": (serving.worker, serving.serve, reading.workers, maintenance.stop),
    "Maintain": (
        maintenance.validate,
        maintenance.doctor,
        maintenance.delete,
        maintenance.copy_study,
        maintenance.clean,
        maintenance.migrate,
        maintenance.completion,
    ),
}
VERBS = {str(command.name): command for commands in GROUPS.values() for command in commands}


class VerbGroup(click.Group):
    """All verbs, listed in groups. Suggests the nearest verb for a mistyped one."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, commands in GROUPS.items():
            with formatter.section(title):
                formatter.write_dl([(str(command.name), command.get_short_help_str(limit=200)) for command in commands])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in self.commands and not name.startswith("-"):
            matches = get_close_matches(name, self.commands, n=1)
            hint = f"; did you mean {matches[0]!r}?" if matches else ""
            raise click.UsageError(f"there is no verb {name!r}{hint}", ctx)
        return super().resolve_command(ctx, args)


@click.group(
    cls=VerbGroup,
    commands=VERBS,
    epilog=EXIT_CODES,
    subcommand_metavar="VERB ...",
    no_args_is_help=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(package_name="convsearch", message="convsearch %(version)s")
@click.option("--debug", is_flag=True, help="Show the whole traceback of an error.")
@click.pass_obj
def convsearch(session: Session, debug: bool) -> None:
    """Search for the best convolutional network on your images; no measurement is lost."""
    session.debug = debug


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: the arguments after the program name; None means those of this process.

    Returns:
        The exit code.
    """
    streams.prepare()
    if arguments is None:
        streams.use_utf8()
    if COMPLETE_VARIABLE in os.environ:
        convsearch.main(prog_name="convsearch", complete_var=COMPLETE_VARIABLE, obj=Session())
    session = Session()
    code = streams.finish(_run(arguments, session))
    if session.on_end:
        from search.cli import on_end

        on_end.run_hook(session.on_end, study=session.study, code=code)
    return code


def _run(arguments: Sequence[str] | None, session: Session) -> int:
    try:
        args = list(sys.argv[1:] if arguments is None else arguments)
        with convsearch.make_context("convsearch", args, obj=session) as ctx:
            return int(convsearch.invoke(ctx) or 0)
    except click.exceptions.Exit as exit_request:  # --help and --version
        return exit_request.exit_code
    except click.UsageError as error:
        return _explain_usage(error)
    except (ConvsearchError, DataError) as error:
        return _explain(error, error.exit_code, debug=session.debug)
    except KeyboardInterrupt:
        echo("interrupted")
        return 130
    except BrokenPipeError:  # the reader of stdout has closed the pipe
        streams.discard(sys.stdout)
        return 0
    except OSError as error:
        return _explain_os_error(error, debug=session.debug)
    except Exception as error:
        return _explain_bug(error, debug=session.debug)


def _explain_usage(error: click.UsageError) -> int:
    """Print the error of a command line, without passwords."""
    if error.ctx is not None:
        echo(error.ctx.get_usage())
    path = "convsearch" if error.ctx is None else error.ctx.command_path
    message = error.format_message().replace("\n\t", " ")  # click lists choices in indented lines
    echo(sanitize(f"{path}: {message} (`{path} --help` explains)"))
    return error.exit_code


def _explain_os_error(error: OSError, *, debug: bool) -> int:
    """Explain an error of the system outside of this program: a full disk behind stdout, or no working directory."""
    if streams.is_refusal(error):
        streams.discard(sys.stdout)
        echo(streams.refusal(error))
        return DiskError.exit_code
    try:
        options.check_working_directory()
    except UsageError as reason:
        return _explain(reason, reason.exit_code, debug=debug)
    return _explain_bug(error, debug=debug)


def _explain_bug(error: Exception, *, debug: bool) -> int:
    _explain(error, 1, debug=debug)
    echo("this is a bug of convsearch; --debug (before the verb) shows where")
    return 1


def _explain(error: Exception, code: int, *, debug: bool) -> int:
    if debug:
        import traceback

        echo("".join(traceback.format_exception(error)).rstrip())
    echo(f"convsearch: {error or type(error).__name__}")
    return code

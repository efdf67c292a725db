"""Completion of verbs, flags, and the names and numbers of what is stored, by argcomplete."""

import argparse
import glob
import os
from typing import Any

#: How argcomplete tells a command that a shell asks it for completions.
ASKED = "_ARGCOMPLETE"


def is_asked() -> bool:
    """Whether a shell asks for completions."""
    return ASKED in os.environ


def complete(parser: argparse.ArgumentParser) -> None:
    """Answer a shell and exit, if it is one that asks; any other command pays nothing for it."""
    if not is_asked():
        return
    import argcomplete

    for verb in _verbs(parser):
        for action in verb._actions:
            _add_completer(verb, action)
    argcomplete.autocomplete(parser, always_complete_options=False)


def script(shell: str) -> str:
    """What a shell evaluates to complete convsearch."""
    import argcomplete.shell_integration

    return str(argcomplete.shell_integration.shellcode(["convsearch"], True, shell))


def _verbs(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    found = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return [verb for action in found for verb in action.choices.values()]


def _add_completer(verb: argparse.ArgumentParser, action: Any) -> None:
    if action.dest == "study":
        is_file = verb.prog.split()[-1] in ("run", "validate")
        action.completer = _files_and_studies if is_file else _studies
    elif action.dest == "trial":
        action.completer = _trials
    elif action.dest == "with_":
        action.completer = _trials_and_studies


def _studies(prefix: str, parsed_args: argparse.Namespace, **_: Any) -> list[str]:
    """Names of stored studies; none where there is no database."""
    from search.errors import ConvsearchError
    from search.storage import queries
    from search.storage.read_only import open_reader

    try:
        return [row.name for row in queries.studies(open_reader(parsed_args.storage)) if row.name.startswith(prefix)]
    except (ConvsearchError, AttributeError):
        return []


def _files_and_studies(prefix: str, parsed_args: argparse.Namespace, **_: Any) -> list[str]:
    """Names of study files, those that come with the project and those here."""
    from search.spec.study_spec import STUDY_DIRS

    named = dict.fromkeys(path.stem for folder in STUDY_DIRS for path in sorted(folder.glob("*.toml")))
    here = sorted(glob.glob(f"{glob.escape(prefix)}*.toml"))
    folders = sorted(f"{folder}/" for folder in glob.glob(f"{glob.escape(prefix)}*") if os.path.isdir(folder))
    return [*(name for name in named if name.startswith(prefix)), *here, *folders]


def _trials(prefix: str, parsed_args: argparse.Namespace, **_: Any) -> list[str]:
    """Numbers of the trials of the study that stands before."""
    from search.errors import ConvsearchError
    from search.storage import queries
    from search.storage.read_only import open_reader

    try:
        rows = queries.trials(open_reader(parsed_args.storage), parsed_args.study)
    except (ConvsearchError, AttributeError):
        return []
    return [str(row.number) for row in rows if str(row.number).startswith(prefix)]


def _trials_and_studies(prefix: str, parsed_args: argparse.Namespace, **context: Any) -> list[str]:
    """What `compare` sets beside a study: another one, or two of its trials."""
    return _trials(prefix, parsed_args, **context) + _studies(prefix, parsed_args, **context)

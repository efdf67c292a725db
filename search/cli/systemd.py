"""`convsearch serve --unit`: the text of a unit with which systemd keeps the service running."""

import shlex
import sys
from dataclasses import asdict
from pathlib import Path

from search.cli.options import MachineOptions, ServerOptions
from search.database_url import has_password
from search.workers.signals import END_S

TEXT = """\
# Save it as ~/.config/systemd/user/convsearch.service, then:
#   systemctl --user daemon-reload && systemctl --user enable --now convsearch
#   loginctl enable-linger     # so that it runs while you are logged out
#   journalctl --user -u convsearch -f     # what it says; the URL of the dashboard is there
# CONVSEARCH_STORAGE, if it has a password, belongs into a file that only you can read (chmod 600), named by
# EnvironmentFile below; PGPASSFILE and PGSERVICEFILE can stand there, too.

[Unit]
Description=convsearch: dashboard and workers
StartLimitIntervalSec=0

[Service]
WorkingDirectory={folder}
EnvironmentFile=-{folder}/convsearch.env
{storage}ExecStart={command}
# SIGTERM: trials go back to the queue with a checkpoint; it is over within {end:g} s.
KillMode=mixed
TimeoutStopSec={patience:g}
SuccessExitStatus=143
Restart=on-failure
RestartPreventExitStatus=2 78
RestartSec=10

[Install]
WantedBy=default.target
"""


def unit_file(server: ServerOptions, machine: MachineOptions, *, data: str | None) -> str:
    """The unit that does what these options of `serve` ask for, here."""
    words = [str(Path(sys.executable).with_name("convsearch")), "serve"]
    given = {**asdict(server), "data": data, **asdict(machine)}
    for name in ("port", "host", "expose", "data", "workers", "device", "hang", "disk", "cache"):
        value = given[name]
        if value is True:
            words.append(f"--{name}")
        elif value not in (None, False):
            words += [f"--{name}", str(value)]
    folder = _plain(str(Path.cwd()))
    known = f"Environment={_plain(shlex.quote(f'CONVSEARCH_STORAGE={machine.storage}'))}\n"
    secret = f"# {folder}/convsearch.env must have the line CONVSEARCH_STORAGE=...; it has a password.\n"
    return TEXT.format(
        folder=folder,
        storage=secret if has_password(machine.storage) else known,
        command=_plain(shlex.join(words)).replace("$", "$$"),
        end=END_S,
        patience=END_S + 12,
    )


def _plain(words: str) -> str:
    """Words in which systemd finds no specifier (systemd.unit, "Specifiers")."""
    return words.replace("%", "%%")

"""The systemd unit of `convsearch serve --unit`."""

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
#   loginctl enable-linger     # to keep it running while you are logged out
#   journalctl --user -u convsearch -f     # its messages, including the URL of the dashboard
# If CONVSEARCH_STORAGE contains a password, put it into the EnvironmentFile below, which only you may read (chmod 600).
# PGPASSFILE and PGSERVICEFILE can be set there, too.

[Unit]
Description=convsearch: dashboard and workers
StartLimitIntervalSec=0

[Service]
WorkingDirectory={folder}
EnvironmentFile=-{folder}/convsearch.env
{storage}ExecStart={command}
# SIGTERM: trials return to the queue with a checkpoint, and the service ends within {end:g} s.
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
    """Return a systemd unit that runs `serve` with these options in the working directory.

    Args:
        server: options of the dashboard.
        machine: options of the workers.
        data: path of the images, or None.
    """
    words = [str(Path(sys.executable).with_name("convsearch")), "serve"]
    values = {**asdict(server), "data": data, **asdict(machine)}
    for name in ("port", "host", "expose", "data", "workers", "device", "hang", "disk", "cache"):
        value = values[name]
        if value is True:
            words.append(f"--{name}")
        elif value not in (None, False):
            words += [f"--{name}", str(value)]
    folder = _escape_specifiers(str(Path.cwd()))
    public = f"Environment={_escape_specifiers(shlex.quote(f'CONVSEARCH_STORAGE={machine.storage}'))}\n"
    secret = f"# {folder}/convsearch.env must have the line CONVSEARCH_STORAGE=...; it has a password.\n"
    return TEXT.format(
        folder=folder,
        storage=secret if has_password(machine.storage) else public,
        command=_escape_specifiers(shlex.join(words)).replace("$", "$$"),
        end=END_S,
        patience=END_S + 12,
    )


def _escape_specifiers(text: str) -> str:
    """Escape the specifiers of systemd (systemd.unit, "Specifiers")."""
    return text.replace("%", "%%")

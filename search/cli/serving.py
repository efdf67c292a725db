"""The verbs of long-running services: the dashboard, and workers for any study."""

import os
import sys

import click

from search.cli import options
from search.cli.options import MachineOptions, ServerOptions
from search.console import echo


@options.verb("dashboard", options.server, options.storage(), example="convsearch dashboard --port 8081")
def dashboard(*, server: ServerOptions, storage: str) -> int:
    """Serve optuna-dashboard, read-only."""
    from search.dashboard.server import serve as serve_dashboard

    return serve_dashboard(storage, host=server.host, port=server.port, expose=server.expose)


@options.verb(
    "worker",
    click.option("--stay", is_flag=True, help="Wait for more work when nothing is left to do."),
    options.data("Images for studies whose own path is missing on this machine."),
    options.machine,
    example="convsearch worker --storage postgresql://server/studies",
)
def worker(*, stay: bool, data: str | None, machine: MachineOptions) -> int:
    """Work on every open study of a database, from this machine."""
    return _work(machine, data, stays=stay)


@options.verb(
    "serve",
    options.server,
    click.option("--unit", is_flag=True, help="Only print a systemd unit for these options."),
    options.data("Images for studies whose own path is missing on this machine."),
    options.machine,
    example="convsearch serve --port 8081",
)
def serve(*, server: ServerOptions, unit: bool, data: str | None, machine: MachineOptions) -> int:
    """Serve the dashboard, and work on open studies until stopped."""
    from search.artifacts import study_dir
    from search.cli import systemd
    from search.dashboard.server import serve_in_background
    from search.storage.rdb import Storage

    if unit:
        sys.stdout.write(systemd.unit_file(server, machine, data=data))
        return 0
    study_dir.of(machine.storage).make()
    Storage(machine.storage, create=True)
    with serve_in_background(machine.storage, host=server.host, port=server.port, expose=server.expose):
        return _work(machine, data, stays=True)


def _work(machine: MachineOptions, images: str | None, *, stays: bool) -> int:
    from search.cli.training import run_options
    from search.service.agent import Agent
    from search.workers import live_view
    from search.workers.stop_rules import EXIT_CODES

    agent = Agent(
        order=run_options("", machine),
        images=images,
        stays=stays,
        show=lambda _: live_view.open_view(sys.stderr, os.environ),
        say=echo,
    )
    return EXIT_CODES.get(agent.run(), 0)

"""Claims of trials: one that must succeed, and those of processes that claim all trials of a study at once."""

import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any

import sqlalchemy as sa
from optuna.trial import TrialState

from search.process import LeaseOwner, this_process
from search.storage import claims
from search.storage.claims import Claim, Promotion
from search.storage.rdb import Storage
from search.storage.tables import TRIALS
from search.workers import local


def take(
    storage: Storage,
    study_id: int,
    owner: LeaseOwner | None = None,
    queue: Sequence[Mapping[str, Any]] = (),
    promotion: Promotion | None = None,
) -> Claim:
    """Claim a trial as `claims.claim` does, and fail if none is claimable; by default for the owner of the storage."""
    claim = claims.claim(storage, study_id, owner or this_process(storage.token or ""), queue, promotion)
    assert claim is not None
    return claim


def states(storage: Storage) -> dict[int, str]:
    rows = storage.read(lambda connection: connection.execute(sa.select(TRIALS.c.number, TRIALS.c.state)).all())
    return {row.number: row.state for row in rows}


def claim_all(url: str, study_id: int, token: str, finish: bool, pipe: Connection) -> None:
    """Claim until no trial is left and send the claimed numbers; runs in a child process, which others wait for."""
    storage = Storage(url, token=token)
    pipe.send("ready")
    pipe.recv()
    numbers: list[int] = []
    while True:
        storage.token = f"{token} {len(numbers)}"  # an owner holds one trial at a time
        claim = claims.claim(storage, study_id, this_process(storage.token))
        if claim is None:
            break
        numbers.append(claim.number)
        if finish:
            storage.set_trial_state_values(claim.trial_id, TrialState.COMPLETE, [0.5])
    pipe.send(numbers)


def run_claimers(url: str, study_id: int, count: int, *, finish: bool, meanwhile: Callable[[], None]) -> list[int]:
    """Numbers of all trials that `count` processes claimed at once; `meanwhile` is called until they end."""
    context = local.start_server()
    pipes, processes = [], []
    for index in range(count):
        ours, theirs = context.Pipe()
        process = context.Process(target=claim_all, args=(url, study_id, f"token-{index}", finish, theirs))
        process.start()
        theirs.close()
        pipes.append(ours)
        processes.append(process)
    assert [pipe.recv() for pipe in pipes] == ["ready"] * count
    for pipe in pipes:
        pipe.send("go")
    while any(process.is_alive() for process in processes):
        meanwhile()
        time.sleep(0.01)
    claimed = [number for pipe in pipes for number in pipe.recv()]
    assert [process.exitcode for process in processes] == [0] * count
    return claimed

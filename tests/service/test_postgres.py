"""On PostgreSQL: one writer at a time; crashes, freezes and lost connections of the server lose no trial or worker."""

import gc
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from itertools import chain, cycle, repeat
from pathlib import Path
from typing import Any

import psutil
import pytest
import sqlalchemy as sa
from optuna.exceptions import StorageInternalError
from optuna.trial import TrialState

from search.dashboard import server as dashboard
from search.errors import LeaseLostError
from search.storage import leases, queries
from search.storage.claims import Claim
from search.storage.rdb import Storage
from search.storage.read_only import open_reader, read_transaction
from search.storage.records import TrialRecord
from search.storage.tables import LEASES, TRIALS
from search.workers import worker
from search.workers.signals import END_S
from tests.databases import SHORT_STORAGES
from tests.faults import invariants
from tests.harness import Answer, Harness, Launcher, wait_until
from tests.service.postgres import ROLE, LossyProxy, PostgresHarness, Server
from tests.storage.claimers import run_claimers, states, take

pytestmark = SHORT_STORAGES

#: Seconds for which the server is away or frozen: much longer than any of its answers takes.
AWAY_S = 2.0
#: A study that lasts some seconds for two workers.
TRIALS_IN_ALL, STEPS = 3, 18
STUDY: dict[str, Any] = {"budget": {"trials": TRIALS_IN_ALL, "epochs": STEPS // 3, "steps_per_epoch": 3}}
#: Steps recorded between two disturbances of the study, and the number of disturbances.
STEPS_BETWEEN, DISTURBANCES = 12, 3


@pytest.fixture(autouse=True)
def _close_connections() -> Iterator[None]:
    """Close the connections of a test while its warnings are ignored."""
    yield
    gc.collect()


@pytest.fixture
def database(server: Server) -> str:
    return server.make_database()


@pytest.fixture
def url(server: Server, database: str) -> str:
    """The URL of an empty database."""
    return server.url(database).render_as_string(hide_password=False)


@pytest.fixture
def harness(tmp_path: Path, images: Path, cache: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> PostgresHarness:
    """A harness whose commands read the URL of the database from the environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CONVSEARCH_STORAGE", url)
    return PostgresHarness(tmp_path, images, cache, url)


@pytest.fixture
def proxy(server: Server) -> Iterator[LossyProxy]:
    with LossyProxy(target=server.port, losses=repeat(False)).running() as running:
        yield running


@pytest.fixture
def proxied(
    server: Server, database: str, proxy: LossyProxy, make_study: Callable[[int], int]
) -> Iterator[tuple[Storage, int]]:
    """A storage that is reached through the proxy, and the id of its study of three trials."""
    study_id = make_study(3)
    storage = Storage(server.url(database, port=proxy.port).render_as_string(hide_password=False), token="me")
    yield storage, study_id
    storage.engine.dispose()


# -- one writer at a time -------------------------------------------------------------------------------------


def test_a_worker_that_waited_while_its_trial_was_taken_away_cannot_finish_it(
    url: str, make_study: Callable[[int], int]
) -> None:
    study_id = make_study(1)
    old, pool = Storage(url, token="old"), Storage(url)
    taken = take(old, study_id)
    refused: list[bool] = []

    def tell() -> None:
        with pytest.raises(LeaseLostError):
            old.set_trial_state_values(taken.trial_id, TrialState.COMPLETE, [0.5])
        refused.append(True)

    late = threading.Thread(target=tell)

    def take_away(connection: sa.Connection) -> None:
        connection.execute(sa.update(TRIALS).values(state="WAITING"))
        connection.execute(sa.delete(LEASES))
        late.start()
        wait_until(lambda: lock_waits(url))

    pool.write(take_away)
    late.join()

    assert refused
    assert states(pool) == {0: "WAITING"}


def test_a_read_transaction_sees_one_snapshot(url: str, make_study: Callable[[int], int]) -> None:
    study_id = make_study(3)
    count = sa.select(sa.func.count()).select_from(TRIALS)

    with read_transaction(open_reader(url)) as connection:
        before = connection.execute(count).scalar_one()
        take(Storage(url, token="me"), study_id)
        after = connection.execute(count).scalar_one()

    assert (before, after) == (0, 0)
    assert queries.study(open_reader(url), "s").counts.running == 1


def lock_waits(url: str) -> int:
    """The number of transactions that wait for a lock."""
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        return int(connection.exec_driver_sql(query).scalar_one())


def test_four_processes_claim_each_trial_once_under_repeatable_read_as_default(
    server: Server, database: str, url: str, make_study: Callable[[int], int]
) -> None:
    server.set(database, "default_transaction_isolation", "repeatable read")
    study_id = make_study(40)

    claimed = run_claimers(url, study_id, 4, finish=True, meanwhile=lambda: None)

    assert sorted(claimed) == list(range(40))
    assert states(Storage(url)) == dict.fromkeys(range(40), "COMPLETE")


# -- the answer to a COMMIT is lost ---------------------------------------------------------------------------


def lose_next(proxy: LossyProxy) -> None:
    proxy.losses = chain([True], repeat(False))


def test_a_claim_whose_answer_was_lost_is_not_made_twice(proxied: tuple[Storage, int], proxy: LossyProxy) -> None:
    storage, study_id = proxied

    lose_next(proxy)
    first = take(storage, study_id)
    storage.token = "another"
    second = take(storage, study_id)

    assert proxy.lost == 1
    assert [(taken.number, taken.attempt) for taken in (first, second)] == [(0, 1), (1, 1)]
    assert states(storage) == {0: "RUNNING", 1: "RUNNING"}


def test_a_claim_repeated_before_the_first_one_ends_gets_the_same_trial(
    url: str, make_study: Callable[[int], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    study_id = make_study(2)
    first, again = Storage(url, token="me"), Storage(url, token="me")
    taken_claims: list[Claim] = []
    late = threading.Thread(target=lambda: taken_claims.append(take(again, study_id)))
    write = first.write

    def slowly(work: Callable[[sa.Connection], Any]) -> Any:
        def work_and_wait(connection: sa.Connection) -> Any:
            taken = work(connection)
            late.start()
            wait_until(lambda: lock_waits(url))
            return taken

        return write(work_and_wait)

    monkeypatch.setattr(first, "write", slowly)
    taken_claims.append(take(first, study_id))
    late.join()

    assert taken_claims[0] == taken_claims[1]
    assert states(again) == {0: "RUNNING"}


@pytest.mark.parametrize(
    ("state", "values"), [(TrialState.COMPLETE, (0.5,)), (TrialState.PRUNED, ()), (TrialState.FAIL, ())]
)
def test_a_tell_whose_answer_was_lost_is_recorded_once(
    proxied: tuple[Storage, int], proxy: LossyProxy, url: str, state: TrialState, values: tuple[float, ...]
) -> None:
    storage, study_id = proxied
    taken = take(storage, study_id)

    lose_next(proxy)
    storage.set_trial_state_values(taken.trial_id, state, values)

    (trial,) = queries.trials(open_reader(url), "s")
    assert proxy.lost == 1
    assert (trial.state, trial.values) == (state.name, values)
    with pytest.raises(LeaseLostError):
        storage.set_trial_state_values(taken.trial_id, TrialState.FAIL)


def test_a_stop_whose_answer_was_lost_counts_no_attempt(
    proxied: tuple[Storage, int], proxy: LossyProxy, url: str
) -> None:
    storage, study_id = proxied
    take(storage, study_id)

    lose_next(proxy)
    leases.release(storage, ["me"])

    (trial,) = queries.trials(open_reader(url), "s")
    assert proxy.lost == 1
    assert (trial.state, trial.attempts) == ("WAITING", 0)


def test_a_death_whose_answer_was_lost_is_recorded_once(
    proxied: tuple[Storage, int], proxy: LossyProxy, url: str
) -> None:
    storage, study_id = proxied
    take(storage, study_id)

    lose_next(proxy)
    leases.expire_dead(storage, "me", "it died")

    (trial,) = queries.trials(open_reader(url), "s")
    assert proxy.lost == 1
    assert (trial.state, trial.attempts, len(trial.crashes)) == ("WAITING", 1, 1)


@pytest.mark.parametrize("table", ["trials", "trial_user_attributes", "trial_intermediate_values"])
def test_an_interrupted_read_is_repeated(proxied: tuple[Storage, int], proxy: LossyProxy, table: str) -> None:
    storage, study_id = proxied
    take(storage, study_id)

    proxy.words = f"FROM {table}".encode()
    lose_next(proxy)
    trials = storage.get_all_trials(study_id)

    assert proxy.lost == 1
    assert [trial.number for trial in trials] == [0]


def test_a_study_that_loses_every_third_answer_needs_one_attempt_for_every_trial(
    harness: PostgresHarness, server: Server, database: str, proxy: LossyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = server.url(database, port=proxy.port).render_as_string(hide_password=False)
    monkeypatch.setenv("CONVSEARCH_STORAGE", url)

    def begin_to_lose() -> None:
        proxy.losses = cycle([False, False, True])

    with disturbing(harness, begin_to_lose):
        answer = harness.run("run", harness.write(**STUDY), "--workers", "2")

    assert proxy.lost > 20, answer.err
    assert_completed_at_first_attempt(harness, answer)


# -- the server crashes, is away, or freezes ------------------------------------------------------------------


def crash(server: Server) -> None:
    server.restart()


def go_away(server: Server) -> None:
    server.stop()
    time.sleep(AWAY_S)
    server.start()


def freeze(server: Server) -> None:
    with server.frozen():
        time.sleep(AWAY_S)


@pytest.mark.parametrize("disturb", [crash, go_away, freeze])
def test_a_server_that_is_disturbed_repeatedly_loses_no_trial_and_no_worker(
    harness: PostgresHarness, server: Server, disturb: Callable[[Server], None]
) -> None:
    with disturbing(harness, lambda: disturb(server)) as run_log:
        answer = harness.run("run", harness.write(**STUDY), "--workers", "2")

    assert run_log.disturbances == DISTURBANCES, answer.err
    assert_completed_at_first_attempt(harness, answer)
    assert {trial.number: trial for trial in harness.trials()} | run_log.finished == dict(enumerate(harness.trials()))


@pytest.mark.parametrize("disturb", [crash, freeze])
def test_paused_trials_are_promoted_by_rank_while_the_server_is_disturbed(
    harness: PostgresHarness, server: Server, disturb: Callable[[Server], None]
) -> None:
    search = {"pruner": "promote", "first_rung": 2, "reduction": 2, "sampler": "random", "baseline": False}
    budget = {"trials": 8, "epochs": 8, "steps_per_epoch": 1}

    with disturbing(harness, lambda: disturb(server)) as run_log:
        answer = harness.run("run", harness.write(search=search, budget=budget), "--workers", "2")

    assert answer.code == 0, answer.err
    assert run_log.disturbances == DISTURBANCES, answer.err
    trials = harness.trials()
    assert [trial.number for trial in trials] == list(range(8))
    assert {(trial.state, len(trial.curve) == 8, trial.attempts, trial.crashes) for trial in trials} == {
        ("COMPLETE", True, 1, ()),
        ("PRUNED", False, 1, ()),
    }
    for rung in (2, 4):
        reached = [trial for trial in trials if len(trial.curve) >= rung]
        ranked = sorted(reached, key=lambda trial: (-trial.curve[rung - 1][1], trial.number))
        assert {trial.number for trial in ranked[: len(reached) // 2]} <= {
            t.number for t in reached if len(t.curve) > rung
        }


def test_a_machine_that_stops_or_dies_leaves_its_trial_to_the_others(
    harness: PostgresHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert harness.run("run", harness.write(budget={"trials": 3, "epochs": 4000}), "--detach").code == 0
    machines: list[Launcher] = []
    with ExitStack() as stack:
        for name in ("killed", "stopped", "left"):  # each keeps its files and its lock in a separate folder
            (harness.folder / name).mkdir()
            monkeypatch.chdir(harness.folder / name)
            machines.append(stack.enter_context(harness.start("worker", "--workers", "1")))
        machines[0].until(lambda: min([harness.steps(number) for number in range(3)]) >= 1)
        machines[0].signal(signal.SIGKILL)
        machines[2].until(lambda: sum(len(trial.crashes) for trial in harness.trials()) == 1)
        machines[1].process.send_signal(signal.SIGTERM)
        stopped, working = machines[1].end(), len(harness.workers())
        machines[2].process.send_signal(signal.SIGTERM)
        left = machines[2].end()

    assert (stopped.code, left.code, working) == (143, 143, 1), stopped.err + left.err
    assert sorted((trial.state, trial.attempts, len(trial.crashes)) for trial in harness.trials()) == [
        ("WAITING", 0, 0),
        ("WAITING", 0, 0),
        ("WAITING", 1, 1),
    ]


@contextmanager
def locked(url: str) -> Iterator[None]:
    """Lock a table against readers and writers inside the block, as ALTER TABLE and VACUUM FULL do."""
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        connection.exec_driver_sql("LOCK TABLE trials IN ACCESS EXCLUSIVE MODE")
        yield


def test_an_idle_worker_waits_for_its_server(harness: PostgresHarness, server: Server) -> None:
    file = harness.write(budget={"trials": 1, "epochs": 1})
    assert harness.run("run", file, "--workers", "1").code == 0
    with harness.start("worker", "--stay", "--workers", "1") as worker:
        worker.until(lambda: "nothing to do now" in worker.said)
        server.stop()
        worker.until(lambda: "waiting for the database" in worker.said)
        server.start()
        assert harness.run("resume", "s", "--trials", "2", "--detach").code == 0
        worker.until(lambda: harness.counts().complete == 2)


def test_a_session_sets_timeouts_that_release_the_locks_of_a_lost_client(
    url: str, make_study: Callable[[int], int]
) -> None:
    make_study(1)
    wanted = {"tcp_keepalives_idle": "10", "tcp_keepalives_interval": "5", "tcp_keepalives_count": "3"}
    wanted |= {"tcp_user_timeout": "25000", "idle_in_transaction_session_timeout": "30s"}
    storage = Storage(url)

    settings = storage.read(
        lambda connection: {name: connection.exec_driver_sql(f"SHOW {name}").scalar_one() for name in wanted}
    )
    storage.engine.dispose()

    assert settings == wanted


def test_a_run_waits_for_a_locked_table_and_reports_the_reason(harness: PostgresHarness) -> None:
    with harness.start("run", harness.write(**STUDY), "--workers", "2") as launcher:
        launcher.until(lambda: harness.steps() >= 3)
        with locked(harness.url):
            launcher.until(lambda: "waiting for the database: canceling statement due to lock" in launcher.said)
        answer = launcher.end()

    assert_completed_at_first_attempt(harness, answer)


@pytest.mark.parametrize("hindrance", ["locked", "frozen"])
def test_a_run_stops_at_a_signal_while_the_server_does_not_answer(
    harness: PostgresHarness, server: Server, hindrance: str
) -> None:
    file = harness.write(**STUDY)
    with harness.start("run", file, "--workers", "1") as launcher:
        launcher.until(lambda: harness.steps() >= 3)
        with locked(harness.url) if hindrance == "locked" else server.frozen():
            launcher.signal(signal.SIGTERM)
            began = time.monotonic()
            stopped = launcher.end()
            took = time.monotonic() - began
    again = harness.run("run", file, "--workers", "2")

    assert stopped.code == 143, stopped.err
    assert took < END_S + 10  # the product promises 20 s; this machine may be busy
    assert server.password not in stopped.err
    assert_completed_at_first_attempt(harness, again)


def test_a_read_only_server_ends_the_run_and_loses_nothing(
    harness: PostgresHarness, server: Server, database: str
) -> None:
    file = harness.write(**STUDY)
    harness.run("run", file, "--workers", "2", "--trials", "1")
    server.set(database, "default_transaction_read_only", "on")

    refused = harness.run("run", file, "--workers", "2")
    shown = harness.run("best", "s")
    server.set(database, "default_transaction_read_only", "off")
    again = harness.run("run", file, "--workers", "2")

    assert (refused.code, shown.code) == (74, 0), refused.err
    assert "cannot be used" in refused.err
    assert "let it be written" in refused.err
    assert_completed_at_first_attempt(harness, again)


@pytest.fixture
def service_url(server: Server, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a database whose address is in a service file, and whose password is in a password file."""
    services, passwords = tmp_path / "services.conf", tmp_path / "passwords"
    services.write_text(f"[studies]\nhost=127.0.0.1\nport={server.port}\ndbname={database}\nuser={ROLE}\n")
    passwords.write_text(f"127.0.0.1:{server.port}:{database}:{ROLE}:{server.password}\n")
    passwords.chmod(0o600)
    monkeypatch.setenv("PGSERVICEFILE", str(services))
    monkeypatch.setenv("PGPASSFILE", str(passwords))
    return "postgresql:///?service=studies"


def test_a_study_moves_to_a_server_and_back_without_loss(
    harness: PostgresHarness, images: Path, service_url: str
) -> None:
    small = Harness(harness.folder, images, harness.cache)
    search = {"pruner": "asha", "sampler": "random", "reduction": 2}
    file = small.write(budget={"trials": 6, "epochs": 2}, search=search, final={"epochs": 1})
    assert small.run("run", file, "--workers", "1").code == 0
    back = f"sqlite:///{harness.folder / 'back' / 'studies.db'}"

    copied = small.run("copy-study", "s", "--to", service_url)
    copied_back = small.run("copy-study", "s", "--from", service_url, "--to", back)

    assert (copied.code, copied_back.code) == (0, 0), copied.err + copied_back.err
    for name in ("s", "s.final"):
        for url in (harness.url, service_url, back):
            assert queries.study(open_reader(url), name) == queries.study(open_reader(small.url), name)
            assert queries.trials(open_reader(url), name) == queries.trials(open_reader(small.url), name)


def test_the_dashboard_cannot_write(url: str, make_study: Callable[[int], int]) -> None:
    study_id = make_study(1)
    storage = dashboard._history(url)

    with pytest.raises(StorageInternalError) as caught:
        storage.set_study_user_attr(study_id, "a", 1)

    assert "read-only transaction" in str(caught.value.__cause__)
    assert storage.get_study_user_attrs(study_id).get("a") is None


def test_a_worker_that_loses_its_server_shows_no_password(harness: PostgresHarness, server: Server) -> None:
    worker_config = replace(harness.create(**STUDY), retry_timeout_s=0.5)
    context = multiprocessing.get_context("spawn")
    read_end, write_end = context.Pipe(duplex=False)
    log = harness.folder / "said.txt"
    server.stop()
    try:
        worker = context.Process(
            target=worker_with_log, args=(log, worker_config, context.Value("q", 0, lock=False), write_end)
        )
        worker.start()
        worker.join()
    finally:
        server.start()
        read_end.close()

    assert worker.exitcode == 69
    assert "cannot be used" in log.read_text()
    assert server.password not in log.read_text()


def worker_with_log(log: Path, *args: Any) -> None:
    """Run a worker in this process with its stderr in a file."""
    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT), 2)
    worker.main(*args)


def assert_completed_at_first_attempt(harness: Harness, answer: Answer) -> None:
    """The study is done, within its budget, at the first attempt of each trial."""
    assert answer.code == 0, answer.err
    assert "s: done" in answer.err
    assert "Traceback" not in answer.err
    assert [trial.number for trial in harness.trials()] == list(range(TRIALS_IN_ALL))
    ends = [(trial.state, trial.reason, len(trial.curve), trial.attempts, trial.crashes) for trial in harness.trials()]
    assert ends == [("COMPLETE", None, STEPS, 1, ())] * TRIALS_IN_ALL


@dataclass(slots=True)
class RunLog:
    """The disturbances of a run, and its finished trials."""

    disturbances: int = 0
    finished: dict[int, TrialRecord] = field(default_factory=dict)
    """By number: trials as they were stored when first seen finished."""


@contextmanager
def disturbing(harness: Harness, disturb: Callable[[], None]) -> Iterator[RunLog]:
    """Call `disturb` when the study "s" has begun, and after every STEPS_BETWEEN more recorded steps."""
    run_log, is_over = RunLog(), threading.Event()

    def is_reached(steps: int) -> bool:
        return harness.dirs.study("s").exists() and sum(len(trial.curve) for trial in harness.trials()) >= steps

    def disturb_repeatedly() -> None:
        for count in range(DISTURBANCES):
            while not is_reached(count * STEPS_BETWEEN):
                if is_over.wait(0.05):
                    return
            run_log.finished = {trial.number: trial for trial in harness.trials() if trial.completed} | run_log.finished
            disturb()
            run_log.disturbances += 1

    thread = threading.Thread(target=disturb_repeatedly)
    thread.start()
    try:
        yield run_log
    finally:
        is_over.set()
        thread.join()


# -- the invariants ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, images: Path, cache: Path, server: Server) -> PostgresHarness:
    """A harness in which a study of two trials has been run to its end."""
    url = server.url(server.make_database()).render_as_string(hide_password=False)
    harness = PostgresHarness(tmp_path_factory.mktemp("done"), images, cache, url)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(harness.folder)
        patch.setenv("CONVSEARCH_STORAGE", url)
        with harness.start("run", harness.write(budget={"trials": 2}), "--workers", "1") as launcher:
            answer = launcher.end()
    assert answer.code == 0, answer.err
    return harness


@pytest.mark.xdist_group("test_postgres_done")
@pytest.mark.parametrize(
    ("change", "broken"),
    [
        ("SELECT 1", None),
        ("UPDATE trial_intermediate_values SET intermediate_value = 2 WHERE step = 1", "I3"),
        ("UPDATE trial_user_attributes SET value_json = '9' WHERE key = 'seconds'", "I3"),
        ("UPDATE trials SET number = 7 WHERE number = 1", "I3"),
        ("DELETE FROM trial_values", "I3"),
        ("UPDATE trials SET state = 'WAITING' WHERE number = 1", "I1"),
        ("UPDATE study_user_attributes SET value_json = '1' WHERE key = 'trials'", "I1"),
        ("UPDATE study_user_attributes SET value_json = '3' WHERE key = 'trials'", "I1"),
        ("INSERT INTO convsearch_leases SELECT trial_id, study_id, 'me', '', '', 1, 0, 0 FROM trials", "I2"),
    ],
)
def test_the_invariants_detect_damage_on_a_server(
    done: PostgresHarness, server: Server, monkeypatch: pytest.MonkeyPatch, change: str, broken: str | None
) -> None:
    monkeypatch.chdir(done.folder)
    before = invariants.finished(done.url)
    copy = server.make_database(like=str(sa.make_url(done.url).database))
    harness = replace(done, address=server.url(copy).render_as_string(hide_password=False))
    engine = sa.create_engine(harness.url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        connection.exec_driver_sql(change)

    with nullcontext() if broken is None else pytest.raises(AssertionError, match=broken):
        invariants.check(harness, before=before, over=True)


# -- the password ---------------------------------------------------------------------------------------------


def test_the_password_is_neither_in_the_process_list_nor_in_any_output(
    harness: PostgresHarness, server: Server
) -> None:
    words: set[str] = set()
    is_over = threading.Event()

    def read() -> None:
        while not is_over.wait(0.05):
            words.update(word for process in psutil.process_iter() for word in words_of(process))

    thread = threading.Thread(target=read)
    thread.start()
    try:
        run = harness.run("run", harness.write(budget={"trials": 2}), "--workers", "2")
    finally:
        is_over.set()
        thread.join()
    answers = [
        harness.run(*verb) for verb in (["studies"], ["best", "s"], ["show", "s", "0"], ["doctor"], ["show", "s", "9"])
    ]

    assert [answer.code for answer in (run, *answers)] == [0, 0, 0, 0, 0, 2]
    assert any(
        "forkserver" in word for word in words
    )  # workers are forked from the forkserver and have its command line
    assert not [word for word in words if server.password in word]
    assert not [answer for answer in (run, *answers) if server.password in answer.out + answer.err]


def words_of(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


@pytest.mark.parametrize("verb", [["studies"], ["run", "FILE"], ["dashboard"]], ids=lambda verb: verb[0])
@pytest.mark.parametrize("mistake", ["password", "port", "database"])
def test_a_wrong_address_is_refused_with_its_reason_and_without_the_password(
    harness: PostgresHarness, server: Server, monkeypatch: pytest.MonkeyPatch, verb: list[str], mistake: str
) -> None:
    url = sa.make_url(harness.url)
    wrong = {"password": url.set(password="hush"), "port": url.set(port=1), "database": url.set(database="none")}
    monkeypatch.setenv("CONVSEARCH_STORAGE", wrong[mistake].render_as_string(hide_password=False))

    answer = harness.run("--debug", *(harness.write() if word == "FILE" else word for word in verb))

    assert answer.code == 69
    assert {"password": "password", "port": "refused", "database": "does not exist"}[mistake] in answer.err
    assert not [secret for secret in ("hush", server.password) if secret in answer.err]

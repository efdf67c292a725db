"""The guarded dashboard: real requests over a real socket, on a real study."""

import http.client
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import optuna
import pytest

from search import dashboard
from search.errors import DatabaseError, UsageError

TIMEOUT_S = 30.0


def make_database(folder: Path) -> str:
    """The URL of a database with a study of one complete and one running trial."""
    url = f"sqlite:///{folder / 'studies.db'}"
    study = optuna.create_study(study_name="s", storage=url, direction="maximize")
    study.optimize(lambda trial: trial.suggest_float("x", 0.0, 1.0), n_trials=1)
    study.ask()
    return url


@contextmanager
def serving(url: str) -> Iterator[int]:
    """Serve a database; the port."""
    with dashboard.bind(url, port=0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def study_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A database that no test changes."""
    return make_database(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def port(study_url: str) -> Iterator[int]:
    """The port of a dashboard that serves it."""
    with serving(study_url) as found:
        yield found


def ask(
    port: int, method: str, path: str, *, host: str = "127.0.0.1", body: str | None = None
) -> tuple[http.client.HTTPResponse, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    headers = {"Host": host, "Content-Type": "application/json"}
    connection.request(method, path, body=body, headers=headers)
    response = connection.getresponse()
    content = response.read()
    connection.close()
    return response, content


def test_the_study_and_its_trials_are_shown(port: int) -> None:
    page, html = ask(port, "GET", "/dashboard")
    listed, studies = ask(port, "GET", "/api/studies")
    shown, study = ask(port, "GET", "/api/studies/1?after=0")

    assert (page.status, listed.status, shown.status) == (200, 200, 200)
    assert b"<html" in html.lower()
    assert [each["study_name"] for each in json.loads(studies)["study_summaries"]] == ["s"]
    assert [trial["state"] for trial in json.loads(study)["trials"]] == ["Complete", "Running"]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "LOCALHOST:8080", "127.0.0.1:9999", "[::1]", "[::1]:80"])
def test_a_browser_that_names_this_machine_is_served(port: int, host: str) -> None:
    response, _ = ask(port, "HEAD", "/dashboard", host=host)

    assert response.status == 200
    assert response.getheader("X-Content-Type-Options") == "nosniff"
    assert response.getheader("X-Frame-Options") == "DENY"


@pytest.mark.parametrize("host", ["evil.example.com", "evil.example.com:8080", "127.0.0.1.evil.com", "", "localhost."])
def test_a_foreign_host_header_is_refused(port: int, host: str) -> None:
    response, content = ask(port, "GET", "/api/studies", host=host)

    assert response.status == 403
    assert response.getheader("X-Content-Type-Options") == "nosniff"
    assert b"http://127.0.0.1" in content


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("DELETE", "/api/studies/1", None),
        ("POST", "/api/studies", '{"study_name": "new", "directions": ["maximize"]}'),
        ("POST", "/api/trials/2/tell", '{"state": "Complete", "values": [1.0]}'),
        ("PUT", "/api/studies/1/note", '{"body": "x", "version": 1}'),
        ("OPTIONS", "/api/studies", None),
        ("get", "/api/studies", None),
    ],
)
def test_nothing_can_be_changed(port: int, study_url: str, method: str, path: str, body: str | None) -> None:
    response, content = ask(port, method, path, body=body)

    assert response.status == 405
    assert response.getheader("Allow") == "GET, HEAD"
    assert json.loads(content) == {"reason": "this dashboard shows; it changes nothing"}
    stored = optuna.load_study(study_name="s", storage=study_url).trials
    assert [trial.state.name for trial in stored] == ["COMPLETE", "RUNNING"]
    assert optuna.get_all_study_names(study_url) == ["s"]


def test_the_database_connection_refuses_writes_too(study_url: str) -> None:
    storage = dashboard._storage(study_url)

    with pytest.raises(optuna.exceptions.StorageInternalError):
        storage.delete_study(storage.get_study_id_from_name("s"))

    assert optuna.get_all_study_names(study_url) == ["s"]


def test_a_trial_that_finishes_meanwhile_is_seen(tmp_path: Path) -> None:
    url = make_database(tmp_path)

    with serving(url) as port:
        before = states(port)
        optuna.load_study(study_name="s", storage=url).tell(1, 0.75)
        polls = range(200)  # the dashboard asks its storage only every few seconds
        after = next(
            (found for _ in polls if not threading.Event().wait(0.1) and (found := states(port)) != before), None
        )

    assert before == ["Complete", "Running"]
    assert after == ["Complete", "Complete"]


def states(port: int) -> list[str]:
    _, content = ask(port, "GET", "/api/studies/1?after=0")
    return [trial["state"] for trial in json.loads(content)["trials"]]


def test_a_missing_database_is_refused_and_not_made(tmp_path: Path) -> None:
    with pytest.raises(DatabaseError, match="there is no database at"):
        dashboard.serve(f"sqlite:///{tmp_path / 'studies.db'}", port=0)

    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "studies.db").write_text("x = 1\n" * 1000)

    with pytest.raises(DatabaseError, match="cannot be shown"):
        dashboard.serve(f"sqlite:///{tmp_path / 'studies.db'}", port=0)


def test_a_port_in_use_is_refused_with_the_way_out(study_url: str) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]

        with pytest.raises(UsageError, match=f"port {taken} of 127.0.0.1 is in use; take another: .*--port"):
            dashboard.serve(study_url, port=taken)


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_port_that_cannot_be_is_refused(study_url: str, port: int) -> None:
    with pytest.raises(UsageError, match="port must be 0 to 65535"):
        dashboard.serve(study_url, port=port)


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "example.com", "::"])
def test_an_address_that_others_can_reach_is_refused(study_url: str, host: str) -> None:
    with pytest.raises(UsageError, match=r"no password, so it listens on 127\.0\.0\.1 only"):
        dashboard.serve(study_url, host=host, port=0)


def test_ctrl_c_ends_it_with_130(study_url: str) -> None:
    code = f"from search.dashboard import serve; raise SystemExit(serve({study_url!r}, port=0))"
    env = {**os.environ, "PYTHONPATH": str(Path(dashboard.__file__).resolve().parent.parent)}
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, env=env)
    assert process.stderr is not None
    assert select.select([process.stderr], [], [], TIMEOUT_S)[0]
    said = process.stderr.readline()

    process.send_signal(signal.SIGINT)
    _, rest = process.communicate(timeout=TIMEOUT_S)

    assert process.returncode == 130
    assert said.startswith("http://127.0.0.1:")
    assert "Traceback" not in rest

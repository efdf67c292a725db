"""The guarded dashboard: real requests over a real socket, on a real study."""

import csv
import http.client
import io
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.cookiejar import CookieJar
from pathlib import Path
from typing import TYPE_CHECKING

import optuna
import psutil
import pytest
from optuna.artifacts import FileSystemArtifactStore, upload_artifact

from search.dashboard import server as dashboard
from search.dashboard.access import AccessPolicy, guard
from search.errors import DatabaseError, UsageError
from tests.dashboard.running import TOKEN, running
from tests.harness import CONVSEARCH, PATIENCE_S, Harness, wait_until

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

SANDBOX = "sandbox; default-src 'none'"

Response = tuple[http.client.HTTPResponse, bytes]
Start = Callable[..., "subprocess.Popen[str]"]


def make_database(folder: Path) -> str:
    """The URL of a database with a study of one complete and one running trial."""
    url = f"sqlite:///{folder / 'studies.db'}"
    study = optuna.create_study(study_name="s", storage=url, direction="maximize")
    study.optimize(lambda trial: trial.suggest_float("x", 0.0, 1.0), n_trials=1)
    study.ask()
    return url


@contextmanager
def serving(url: str, *, host: str = "127.0.0.1", expose: bool = False) -> Iterator[int]:
    """Serve a database; yields the port."""
    with running(dashboard.bind(url, token=TOKEN, host=host, port=0, expose=expose)) as port:
        yield port


@contextmanager
def serving_app(app: "WSGIApplication") -> Iterator[int]:
    """Serve another application behind the guard; yields the port."""
    server = dashboard._listen(app, host="127.0.0.1", port=0)
    server.set_app(guard(app, AccessPolicy(token=TOKEN, port=server.server_port)))
    with running(server) as port:
        yield port


@pytest.fixture(scope="module")
def study_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A database that no test changes."""
    return make_database(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def port(study_url: str) -> Iterator[int]:
    """The port of a dashboard that serves `study_url`."""
    with serving(study_url) as bound_port:
        yield bound_port


def ask(
    port: int,
    method: str,
    path: str,
    *,
    host: str = "127.0.0.1",
    address: str = "127.0.0.1",
    body: str | None = None,
    cookie: str | None = None,
) -> Response:
    """The response to an authenticated browser; `cookie` replaces its cookie, and an empty one sends none."""
    connection = http.client.HTTPConnection(address, port, timeout=PATIENCE_S)
    headers = {"Host": host, "Content-Type": "application/json"}
    cookie = f"convsearch_{port}={TOKEN}" if cookie is None else cookie
    connection.request(method, path, body=body, headers=headers | ({"Cookie": cookie} if cookie else {}))
    response = connection.getresponse()
    content = response.read()
    connection.close()
    return response, content


def send(port: int, request: bytes) -> bytes:
    """The response to bytes that no client library would send."""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def test_the_study_and_its_trials_are_shown(port: int) -> None:
    page, html = ask(port, "GET", "/dashboard")
    listed, studies = ask(port, "GET", "/api/studies")
    shown, study = ask(port, "GET", "/api/studies/1?after=0")

    assert (page.status, listed.status, shown.status) == (200, 200, 200)
    assert b"<html" in html.lower()
    assert "script-src 'self'" in (page.getheader("Content-Security-Policy") or "")
    assert [summary["study_name"] for summary in json.loads(studies)["study_summaries"]] == ["s"]
    assert [trial["state"] for trial in json.loads(study)["trials"]] == ["Complete", "Running"]


@pytest.mark.parametrize("path", ["/static/bundle.js", "/favicon.ico", "/dashboard"])
def test_a_client_that_names_no_encoding_is_served(port: int, path: str, capsys: pytest.CaptureFixture[str]) -> None:
    request = f"GET {path} HTTP/1.0\r\nHost: localhost\r\nCookie: convsearch_{port}={TOKEN}\r\n\r\n"

    answer = send(port, request.encode())

    assert answer.startswith(b"HTTP/1.0 200 ")
    assert capsys.readouterr().err == ""


# -- the token --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("/?token={}", "/"),
        ("/dashboard/studies/1?token={}", "/dashboard/studies/1"),
        ("/dashboard?a=1&token={}&b=%26", "/dashboard?a=1&b=%26"),
        ("/dashboard?token=wrong&token={}", "/dashboard"),
        ("/%2Fevil.example.com?token={}", "/evil.example.com"),
        ("/%5Cevil.example.com?token={}", "/%5Cevil.example.com"),
        ("/a%0D%0ASet-Cookie:%20x=1?token={}&%0D%0Ab=1", "/a%0D%0ASet-Cookie%3A%20x%3D1?%0D%0Ab=1"),
        ("/%C3%A9%FF?token={}&n=%C3%A9", "/%C3%A9%FF?n=%C3%A9"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_the_token_becomes_a_cookie_and_leaves_the_url(port: int, method: str, path: str, target: str) -> None:
    response, content = ask(port, method, path.format(TOKEN), cookie="")

    assert response.status == 303
    assert response.getheader("Location") == target
    assert response.headers.get_all("Set-Cookie") == [
        f"convsearch_{port}={TOKEN}; HttpOnly; SameSite=Strict; Path=/",
    ]
    assert response.getheader("Referrer-Policy") == "no-referrer"
    assert response.getheader("Cache-Control") == "no-store"
    assert TOKEN.encode() not in content


def test_the_printed_url_opens_the_dashboard(study_url: str) -> None:
    server = dashboard.bind(study_url, token=TOKEN, port=0)
    browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))

    with running(server) as port:
        page = browser.open(server.policy.url, timeout=PATIENCE_S)
        again = browser.open(f"http://127.0.0.1:{port}/api/studies", timeout=PATIENCE_S)

    assert server.policy.url == f"http://127.0.0.1:{port}/?token={TOKEN}"
    assert page.url == f"http://127.0.0.1:{port}/dashboard"
    assert b"Optuna Dashboard" in page.read()
    assert again.status == 200


@pytest.mark.parametrize("path", ["/", "/dashboard", "/api/studies", "/static/bundle.js", "/artifacts/1/2", "/nowhere"])
@pytest.mark.parametrize(
    "cookie",
    [
        "",
        "convsearch_{port}=",
        "convsearch_{port}=wrong",
        "convsearch_1={token}",
        "token={token}",
        "convsearch={token}",
    ],
)
def test_a_request_without_the_cookie_is_refused(port: int, path: str, cookie: str) -> None:
    response, content = ask(port, "GET", path, cookie=cookie.format(port=port, token=TOKEN))

    assert response.status == 403
    assert "open the URL that its command printed" in json.loads(content)["reason"]
    assert TOKEN.encode() not in content
    assert response.getheader("Set-Cookie") is None
    assert response.getheader("Referrer-Policy") == "no-referrer"


@pytest.mark.parametrize(
    "query", ["token=", "token=wrong", "token", "Token={}", "token={}x", "token=%20{}", "a=token={}", "token=%FF", "{}"]
)
def test_a_wrong_token_is_refused(port: int, query: str) -> None:
    response, _ = ask(port, "GET", "/api/studies?" + query.format(TOKEN), cookie="")

    assert response.status == 403
    assert response.getheader("Set-Cookie") is None


@pytest.mark.parametrize("method", ["POST", "PUT", "OPTIONS", "get"])
def test_only_read_requests_can_present_the_token(port: int, method: str) -> None:
    in_url, _ = ask(port, method, f"/?token={TOKEN}", cookie="")
    in_body, _ = ask(port, method, "/", cookie="", body=f"token={TOKEN}")

    assert (in_url.status, in_body.status) == (403, 403)
    assert in_url.getheader("Set-Cookie") is None


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (b"Cookie: convsearch_%d=%s", 200),
        (b"Cookie: other=1; convsearch_%d=%s; =; ;;", 200),
        (b"Cookie: convsearch_1=x; convsearch_%d=%s", 200),
        (b'Cookie: bad[]{}"\'; x="; convsearch_%d=%s', 200),
        (b"Cookie: \xff\xfe=\x80; convsearch_%d=%s", 200),
        (b'Cookie: convsearch_%d="%s"', 403),
        (b"Cookie: convsearch_%d=%s\xff", 403),
        (b"Cookie: \xe9convsearch_%d=%s", 403),
        (b"Cookie: CONVSEARCH_%d=%s", 403),
        (b"Cookie: convsearch_%d=%s=", 403),
        (b"Cookie: =;=;===; \x00", 403),
        (b"Cookie:", 403),
        (b"Cookie", 403),
        (b"X-Token: \xc3\x28; convsearch_%d=%s", 403),
        (b"Authorization: Bearer %d %s", 403),
        (b"Cookie: " + b"a=b; " * 12_000, 403),
    ],
)
def test_malformed_cookies_cause_no_error_and_give_no_access(
    port: int, header: bytes, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    cookie = header % (port, TOKEN.encode()) if b"%d" in header else header
    request = b"GET /api/studies HTTP/1.0\r\nHost: localhost\r\n" + cookie + b"\r\n\r\n"

    answer = send(port, request)

    assert answer.startswith(b"HTTP/1.0 %d " % status)
    assert (b"study_name" in answer) == (status == 200)
    assert capsys.readouterr().err == ""


def test_one_valid_cookie_among_several_of_the_same_name_is_enough(port: int) -> None:
    name = f"convsearch_{port}"

    response, _ = ask(port, "GET", "/api/studies", cookie=f"{name}=old; {name}={TOKEN}; {name}=x")

    assert response.status == 200


@pytest.mark.parametrize(
    "request_line",
    [
        b"GET /\xff\xfe?token=\xff HTTP/1.0",
        b"GET /?%ff=%&token=%zz HTTP/1.0",
        b"GET http://evil.example.com/ HTTP/1.0",
        b"GET * HTTP/1.0",
        b"GET",
        b"\x16\x03\x01\x02\x00",
        b"\xff / HTTP/9.9",
        b"GET /" + b"a" * 70_000 + b" HTTP/1.0",
    ],
)
def test_malformed_requests_cause_no_error_and_give_no_access(
    port: int, request_line: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = send(port, request_line + b"\r\nHost: localhost\r\n\r\n")

    assert b"403 Forbidden" in answer or b"400" in answer or b"414" in answer or b"505" in answer
    assert b"study" not in answer
    assert capsys.readouterr().err == ""


def test_a_browser_that_disconnects_causes_no_error(port: int, capsys: pytest.CaptureFixture[str]) -> None:
    client = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)
    client.sendall(b"GET / HT")
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    client.close()  # with a reset, as a killed browser does

    for _ in range(20):  # the server reads the reset while it answers these
        assert ask(port, "GET", "/api/meta")[0].status == 200
    assert capsys.readouterr().err == ""


def test_the_repr_of_the_policy_hides_the_token() -> None:
    assert TOKEN not in repr(AccessPolicy(token=TOKEN, port=1))


# -- host headers and methods -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "LOCALHOST:8080", "127.0.0.1:9999", "[::1]", "[::1]:80"])
def test_a_host_header_of_this_machine_is_served(port: int, host: str) -> None:
    response, _ = ask(port, "HEAD", "/dashboard", host=host)

    assert response.status == 200
    assert response.getheader("X-Content-Type-Options") == "nosniff"
    assert response.getheader("X-Frame-Options") == "DENY"
    assert response.getheader("Cross-Origin-Resource-Policy") == "same-origin"


@pytest.mark.parametrize("host", ["evil.example.com", "evil.example.com:8080", "127.0.0.1.evil.com", "", "localhost."])
@pytest.mark.parametrize("cookie", ["", None], ids=["without cookie", "with cookie"])
@pytest.mark.parametrize("path", ["/api/studies", f"/?token={TOKEN}"])
def test_a_foreign_host_header_is_refused(port: int, host: str, cookie: str | None, path: str) -> None:
    response, content = ask(port, "GET", path, host=host, cookie=cookie)

    assert response.status == 403
    assert response.getheader("Set-Cookie") is None
    assert response.getheader("X-Content-Type-Options") == "nosniff"
    assert b"http://127.0.0.1" in content


def test_two_host_headers_are_refused(port: int) -> None:
    cookie = f"Cookie: convsearch_{port}={TOKEN}"

    answer = send(port, f"GET / HTTP/1.0\r\nHost: localhost\r\nHost: evil.com\r\n{cookie}\r\n\r\n".encode())

    assert answer.startswith(b"HTTP/1.0 403 ")


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("DELETE", "/api/studies/1", None),
        ("POST", "/api/studies", '{"study_name": "new", "directions": ["maximize"]}'),
        ("POST", "/api/trials/2/tell", '{"state": "Complete", "values": [1.0]}'),
        ("PUT", "/api/studies/1/note", '{"body": "x", "version": 1}'),
        ("PATCH", "/api/studies/1", "{}"),
        ("OPTIONS", "/api/studies", None),
        ("get", "/api/studies", None),
    ],
)
@pytest.mark.parametrize("is_authenticated", [True, False])
def test_every_write_request_is_refused(
    port: int, study_url: str, method: str, path: str, body: str | None, is_authenticated: bool
) -> None:
    response, content = ask(port, method, path, body=body, cookie=None if is_authenticated else "")

    assert response.status == (405 if is_authenticated else 403)
    assert response.getheader("Allow") == ("GET, HEAD" if is_authenticated else None)
    assert ("read-only" in json.loads(content)["reason"]) == is_authenticated
    stored = optuna.load_study(study_name="s", storage=study_url).trials
    assert [trial.state.name for trial in stored] == ["COMPLETE", "RUNNING"]
    assert optuna.get_all_study_names(study_url) == ["s"]


def test_the_database_connection_refuses_writes(study_url: str) -> None:
    storage = dashboard._history(study_url)

    with pytest.raises(optuna.exceptions.StorageInternalError):
        storage.delete_study(storage.get_study_id_from_name("s"))

    assert optuna.get_all_study_names(study_url) == ["s"]


# -- stored files -----------------------------------------------------------------------------------------------------


def permissive_app(environ: "WSGIEnvironment", start_response: "StartResponse") -> list[bytes]:
    """An application that serves every file as a page, to every client."""
    headers = [
        ("Content-Type", "text/html"),
        ("Access-Control-Allow-Origin", "*"),
        ("Content-Disposition", "inline"),
        ("Content-Security-Policy", "script-src *"),
        ("X-Frame-Options", "ALLOWALL"),
    ]
    start_response("200 OK", headers)
    return [b"<script>alert(1)</script>"]


@pytest.mark.parametrize(
    "path",
    ["/artifacts/1/aa", "/artifacts/1/2/aa", "/artifacts", "/%2Fartifacts/1/aa", "/art%FFifacts/1/aa", "/csv/1", "/x"],
)
def test_a_path_outside_the_dashboard_pages_is_a_download(path: str) -> None:
    with serving_app(permissive_app) as port:
        response, _ = ask(port, "GET", path)

    assert response.status == 200
    assert response.headers.get_all("Content-Disposition") == ["attachment"]
    assert response.headers.get_all("Content-Security-Policy") == [SANDBOX]
    assert response.headers.get_all("X-Content-Type-Options") == ["nosniff"]
    assert response.headers.get_all("X-Frame-Options") == ["DENY"]
    assert response.getheader("Access-Control-Allow-Origin") is None


@pytest.mark.parametrize("path", ["/", "/dashboard", "/dashboard/studies/1", "/api/meta", "/static/bundle.js"])
def test_a_page_of_the_dashboard_keeps_its_own_policy(path: str) -> None:
    with serving_app(permissive_app) as port:
        response, _ = ask(port, "GET", path)

    assert response.headers.get_all("Content-Security-Policy") == ["script-src *"]
    assert response.headers.get_all("X-Frame-Options") == ["DENY"]
    assert response.getheader("Access-Control-Allow-Origin") is None


def test_a_table_is_downloaded_under_its_name(port: int) -> None:
    response, content = ask(port, "GET", "/csv/1")

    assert response.getheader("Content-Disposition") == "attachment; filename=s.csv"
    assert response.getheader("Content-Security-Policy") == SANDBOX
    assert content.startswith(b"Number,State,Value")


@pytest.mark.parametrize("word", ["csv", "c%FFsv"])
def test_a_downloaded_table_has_no_formula_and_no_file_name_from_the_study(tmp_path: Path, word: str) -> None:
    url = f"sqlite:///{tmp_path / 'foreign.db'}"
    study = optuna.create_study(study_name="evil.bat; x=", storage=url, direction="maximize")
    trial = study.ask({"a": optuna.distributions.CategoricalDistribution(["=1+1", -2.5])})
    trial.set_user_attr("@x", '=HYPERLINK("http://evil")')
    study.tell(trial, -0.5)

    with serving(url) as port:
        response, content = ask(port, "GET", f"/{word}/1")

    rows = list(csv.reader(io.StringIO(content.decode())))
    cells = [cell for row in rows for cell in row]
    assert response.getheader("Content-Disposition") == "attachment"
    assert rows[0] == ["Number", "State", "Value", "Param a", "UserAttribute @x"]
    assert rows[1][2] == "-0.5"
    assert '\'=HYPERLINK("http://evil")' in cells
    assert not [cell for cell in cells if cell.startswith(("=", "+", "@"))]


@pytest.mark.parametrize("word", ["artifacts", "art%FFifacts"])
def test_a_page_that_is_stored_as_an_artifact_is_a_download(tmp_path: Path, word: str) -> None:
    import optuna_dashboard

    study = optuna.load_study(study_name="s", storage=make_database(tmp_path))
    (tmp_path / "files").mkdir()
    (tmp_path / "page.html").write_text("<script>fetch('/api/studies')</script>")
    store = FileSystemArtifactStore(tmp_path / "files")
    artifact = upload_artifact(artifact_store=store, file_path=str(tmp_path / "page.html"), study_or_trial=study)

    with serving_app(optuna_dashboard.wsgi(study._storage, artifact_store=store)) as port:
        response, content = ask(port, "GET", f"/{word}/1/{artifact}")

    assert (response.status, response.getheader("Content-Type")) == (200, "text/html")
    assert content == (tmp_path / "page.html").read_bytes()
    assert response.getheader("Content-Disposition") == "attachment"
    assert response.getheader("Content-Security-Policy") == SANDBOX
    assert response.getheader("Access-Control-Allow-Origin") is None


def test_a_missing_artifact_is_refused_as_a_download(port: int) -> None:
    response, _ = ask(port, "GET", "/artifacts/1/2/aa")

    assert response.status == 404
    assert response.getheader("Content-Disposition") == "attachment"
    assert response.getheader("Content-Security-Policy") == SANDBOX


# -- database ---------------------------------------------------------------------------------------------------------


def test_a_trial_that_finishes_while_the_dashboard_runs_is_shown(tmp_path: Path) -> None:
    url = make_database(tmp_path)

    with serving(url) as port:
        before = states(port)
        optuna.load_study(study_name="s", storage=url).tell(1, 0.75)
        # The dashboard asks its storage only every few seconds.
        wait_until(lambda: states(port) != before)
        after = states(port)

    assert before == ["Complete", "Running"]
    assert after == ["Complete", "Complete"]


def states(port: int) -> list[str]:
    _, content = ask(port, "GET", "/api/studies/1?after=0")
    return [trial["state"] for trial in json.loads(content)["trials"]]


def test_a_missing_database_is_refused_and_not_created(tmp_path: Path) -> None:
    with pytest.raises(DatabaseError, match="there is no database at"):
        dashboard.serve(f"sqlite:///{tmp_path / 'studies.db'}", port=0)

    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_not_a_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "studies.db").write_text("x = 1\n" * 1000)

    with pytest.raises(DatabaseError, match="cannot be shown"):
        dashboard.serve(f"sqlite:///{tmp_path / 'studies.db'}", port=0)


# -- address and port -------------------------------------------------------------------------------------------------


def test_a_port_in_use_is_refused_with_the_option_to_change(study_url: str) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]

        with pytest.raises(UsageError, match=f"port {taken} of 127.0.0.1 is in use; take another: .*--port"):
            dashboard.serve(study_url, port=taken)


@pytest.mark.parametrize("port", [-1, 65536])
def test_an_invalid_port_is_refused(study_url: str, port: int) -> None:
    with pytest.raises(UsageError, match="port must be 0 to 65535"):
        dashboard.serve(study_url, port=port)


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "example.com", "0", "127.0.0.1.example.com"])
def test_an_address_that_others_can_reach_is_refused_without_expose(study_url: str, host: str) -> None:
    with pytest.raises(UsageError, match=r"can read all studies.*not encrypted.*ssh -L.*--expose") as refusal:
        dashboard.serve(study_url, host=host, port=0)

    assert str(refusal.value).startswith(f"--host {host} exposes the dashboard")


@pytest.mark.parametrize("host", ["", "::1", "::", "[::1]", "127.0.0.1:8080"])
@pytest.mark.parametrize("expose", [True, False])
def test_an_invalid_address_is_refused(study_url: str, host: str, expose: bool) -> None:
    with pytest.raises(UsageError, match="--host must be an IPv4 address or a name of this machine, but got"):
        dashboard.serve(study_url, host=host, port=0, expose=expose)


def test_an_address_of_another_machine_is_refused(study_url: str) -> None:
    with pytest.raises(UsageError, match=r"of 203\.0\.113\.1 cannot be used"):
        dashboard.serve(study_url, host="203.0.113.1", port=0, expose=True)


@pytest.mark.parametrize("host", ["0.0.0.0", "0"])
def test_an_exposed_dashboard_is_served_only_under_names_of_this_machine(study_url: str, host: str) -> None:
    interfaces = psutil.net_if_addrs().values()
    addresses = [entry.address for interface in interfaces for entry in interface if entry.family == socket.AF_INET]
    names = [*addresses, socket.gethostname(), "localhost"]

    with serving(study_url, host=host, expose=True) as port:
        served = {name: ask(port, "GET", "/api/studies", host=f"{name}:{port}")[0].status for name in names}
        reached = {ask(port, "GET", "/api/studies", host=name, address=name)[0].status for name in addresses}
        foreign = {name: ask(port, "GET", "/", host=name)[0].status for name in ("evil.example.com", "0.0.0.0x", "")}
        without_cookie = {ask(port, "GET", "/api/studies", host=name, cookie="")[0].status for name in names}

    assert set(served.values()) == {200}, served
    assert reached == {200}
    assert set(foreign.values()) == {403}, foreign
    assert without_cookie == {403}


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "localhost"])
def test_the_printed_url_is_served(study_url: str, host: str) -> None:
    if sys.platform != "linux" and host == "127.0.0.2":
        pytest.skip("only Linux serves all of 127.0.0.0/8 by default")
    server = dashboard.bind(study_url, token=TOKEN, host=host, port=0)

    with running(server) as port:
        response, _ = ask(port, "GET", f"/?token={TOKEN}", host=f"{server.policy.host}:{port}", address=host, cookie="")

    assert server.policy.url == f"http://{host}:{port}/?token={TOKEN}"
    assert response.status == 303


# -- as a command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def start() -> Iterator[Start]:
    """Start the command; processes that still run after the test are killed."""
    started: list[subprocess.Popen[str]] = []

    def run(*words: str) -> "subprocess.Popen[str]":
        command = [str(CONVSEARCH), "dashboard", *words]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.communicate()


def read_line(process: "subprocess.Popen[str]") -> str:
    """The next line of stderr; read byte by byte, which leaves the rest in the pipe."""
    assert process.stderr is not None
    line = b""
    while not line.endswith(b"\n"):
        assert select.select([process.stderr], [], [], PATIENCE_S)[0], line
        line += os.read(process.stderr.fileno(), 1)
    return line.decode()


def test_ctrl_c_exits_with_130_and_the_token_is_printed_once(study_url: str, start: Start) -> None:
    process = start("--storage", study_url, "--port", "0")
    line = read_line(process)
    url = line.split()[0]
    browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))
    page = browser.open(url, timeout=PATIENCE_S).read()

    process.send_signal(signal.SIGINT)
    out, rest = process.communicate(timeout=PATIENCE_S)

    token = url.partition("/?token=")[2]
    assert process.returncode == 130
    assert line.startswith("http://127.0.0.1:")
    assert len(token) >= 43  # 32 random bytes
    assert b"Optuna Dashboard" in page
    assert (out, rest) == ("", "\n")


def test_every_start_has_a_new_token(study_url: str, start: Start) -> None:
    processes = [start("--storage", study_url, "--port", "0") for _ in range(2)]

    urls = [read_line(process) for process in processes]

    assert len({url.partition("token=")[2] for url in urls}) == 2


def test_an_exposed_dashboard_prints_a_warning(study_url: str, start: Start) -> None:
    process = start("--storage", study_url, "--port", "0", "--host", "0.0.0.0", "--expose")

    warning, url = read_line(process), read_line(process)

    assert warning.startswith("warning: everyone with the URL and access to port ")
    assert "not encrypted" in warning
    assert "ssh -L" in warning
    assert "token" not in warning
    assert url.startswith(f"http://{socket.gethostname().lower()}:")


def test_the_command_refuses_a_public_address_without_expose(harness: Harness, study_url: str) -> None:
    answer = harness.run("dashboard", "--storage", study_url, "--host", "0.0.0.0")

    assert answer.code == 2
    assert "--host 0.0.0.0 exposes the dashboard" in answer.err

"""The dashboard in a real browser: pages that need the token, and pages that are refused without it."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import optuna
import pytest

from search.artifacts import misclassified
from search.dashboard import server as dashboard
from search.dashboard.access import AccessPolicy, guard
from search.dashboard.server import Server
from search.storage.rdb import Storage
from tests.browser.browser import NEEDS_BROWSER, Browser, running_browser
from tests.dashboard.running import TOKEN, running
from tests.harness import Harness, wait_until

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

pytestmark = [NEEDS_BROWSER, pytest.mark.xdist_group("browser")]  # one browser for all

#: A host name that the browser resolves to this machine, as an attacker's name server would.
FOREIGN = "evil.example.com"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A browser for this module; it forgets its cookies before every page."""
    rule = f"--host-resolver-rules=MAP {FOREIGN} 127.0.0.1"
    with running_browser(tmp_path_factory.mktemp("profile"), rule) as running:
        yield running


def browse(browser: Browser, url: str) -> str:
    """The page some seconds after the browser opened the URL, with all scripts run."""
    with browser.visiting(url) as page:
        return page.content()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Server]:
    """A dashboard with one study, "tiny"."""
    url = f"sqlite:///{tmp_path / 'studies.db'}"
    study = optuna.create_study(study_name="tiny", storage=url, direction="maximize")
    study.optimize(lambda trial: trial.suggest_float("x", 0.0, 1.0), n_trials=3)
    server = dashboard.bind(url, token=TOKEN, port=0)
    with running(server):
        yield server


@pytest.mark.parametrize(
    ("path", "shown"), [("/", "tiny"), ("/dashboard/studies/1", "History")], ids=["studies", "a study"]
)
def test_the_printed_url_shows_the_studies(served: Server, browser: Browser, path: str, shown: str) -> None:
    page = browse(browser, served.policy.url.replace("/?", f"{path}?"))

    assert shown in page
    assert "NOW LOADING" not in page


def test_a_study_shows_its_best_trial_confusion_matrix_and_pictures(harness: Harness, browser: Browser) -> None:
    assert harness.train(budget={"trials": 2, "epochs": 1}).code == 0
    names = ["红花", "می\u200cشود", "red|pipe <b>x</b>", f"{'a' * 30}{'b' * 50}", f"{'a' * 30}{'c' * 50}", "a\u202eb"]
    misclassified.save(
        harness.dirs.trial("s", 0),
        images=np.zeros((6, 8, 8, 3), np.uint8),
        captions=[(name, names[0], 0.9) for name in names],
        confusion=np.eye(6, dtype=int).tolist(),
        classes=names,
    )
    server = dashboard.bind(harness.url, token=TOKEN, port=0)
    with running(server):
        url = server.policy.url.replace("/?", "/dashboard/studies/1?")
        with browser.visiting(url) as page:
            study = page.content()
            picture = page.value("[...document.images].find(image => image.naturalHeight > 200)?.naturalWidth")
        note = browse(browser, url.replace("?", "/note?"))

    assert "trial 0: confusion matrix in per cent" in study
    for label in (
        "红花",
        "می\u200cشود",
        "red|pipe &lt;b&gt;x&lt;/b&gt;",
        "aaaaaaaaaaaa…bbbb",
        "aaaaaaaaaaaa…cccc",
        r"a\u202eb",
    ):
        assert label in study
    assert "trial-0-wrong.svg" in study
    assert picture == misclassified.ROW * (misclassified.SIDE + misclassified.GAP)
    assert "trials.csv" in study
    assert "Best: trial" in note
    assert "convsearch report s" in note


# -- a study that is deleted while its page is open ------------------------------------------------------------------


def make_study(url: str, *, parameter: str, values: Sequence[float]) -> int:
    """Create the study "s" with a complete trial for each value; returns its id."""
    Storage(url, create=True)
    study = optuna.create_study(study_name="s", storage=url, direction="maximize")
    for value in values:
        trial = study.ask({parameter: optuna.distributions.FloatDistribution(0.0, 1.0)})
        trial.set_user_attr(f"attr of {parameter}", value)
        study.tell(trial, value)
    return study._study_id


@pytest.mark.parametrize("is_open", [True, False], ids=["the open page", "another page"])
def test_a_new_study_with_the_id_of_a_deleted_one_shows_nothing_of_it(
    harness: Harness, browser: Browser, is_open: bool
) -> None:
    old_id = make_study(harness.url, parameter="depth_of_old", values=[0.71, 0.72, 0.73])
    server = dashboard.bind(harness.url, token=TOKEN, port=0)
    url = server.policy.url.replace("/?", f"/dashboard/studies/{old_id}?")
    with running(server), browser.visiting(url) as page:
        old = page.content()
        assert harness.run("delete", "s", "--yes").code == 0
        new_id = make_study(harness.url, parameter="depth_of_new", values=[0.21, 0.22, 0.2])
        new = page.content() if is_open else browse(browser, url)

    assert new_id == old_id
    assert "0.73" in old
    assert "depth_of_old" in old
    assert "0.22" in new
    assert "depth_of_new" in new
    assert "0.73" not in new
    assert "depth_of_old" not in new


def test_the_page_of_a_deleted_study_gives_way_to_the_list(harness: Harness, browser: Browser) -> None:
    make_study(harness.url, parameter="depth_of_old", values=[0.71])
    server = dashboard.bind(harness.url, token=TOKEN, port=0)
    with running(server), browser.visiting(server.policy.url.replace("/?", "/dashboard/studies/1?")) as page:
        old = page.content()
        assert harness.run("delete", "s", "--yes").code == 0
        new = page.content()

    assert "0.71" in old
    assert "0.71" not in new
    assert "Optuna Dashboard" in new


@pytest.mark.parametrize("path", ["/", "/dashboard", "/api/studies", "/?token=wrong"])
def test_a_browser_without_the_token_shows_nothing(served: Server, browser: Browser, path: str) -> None:
    page = browse(browser, f"http://127.0.0.1:{served.server_port}{path}")

    assert "open the URL that its command printed" in page
    assert "tiny" not in page


def test_a_foreign_host_name_for_this_machine_shows_nothing(served: Server, browser: Browser) -> None:
    page = browse(browser, f"http://{FOREIGN}:{served.server_port}/api/studies?token={TOKEN}")

    assert "open the dashboard as http://127.0.0.1" in page
    assert "tiny" not in page


@pytest.mark.parametrize(
    ("path", "runs"),
    [("/dashboard/stored", True), ("/artifacts/1/aa", False), ("/art%FFifacts/1/aa", False)],
    ids=["own page", "artifact", "artifact by another path"],
)
def test_scripts_run_in_pages_of_the_dashboard_and_in_no_stored_page(browser: Browser, path: str, runs: bool) -> None:
    requested: list[str] = []

    def pages(environ: "WSGIEnvironment", start_response: "StartResponse") -> list[bytes]:
        start_response("200 OK", [("Content-Type", "text/html")])
        is_first = environ["PATH_INFO"] == "/dashboard"
        script = f"{call('later', after_s=3)}; location = '{path}'" if is_first else call("stored")
        return [f"<body><script>{script}</script></body>".encode()]

    server = dashboard._listen(pages, host="127.0.0.1", port=0)
    policy = AccessPolicy(token=TOKEN, port=server.server_port)
    server.set_app(recording(requested, guard(pages, policy)))
    with running(server), browser.visiting(policy.url.replace("/?", "/dashboard?")):
        wait_until(lambda: {"/api/later", "/api/stored"} & set(requested))  # a download leaves the first page as it is

    assert requested[:2] == ["/dashboard", "/dashboard"]  # with the token, then with the cookie
    assert requested[2].endswith(("/stored", "ifacts/1/aa"))
    assert ("/api/stored" in requested) == runs


def call(name: str, *, after_s: int = 0) -> str:
    """A script that sends a request to the dashboard."""
    return f"setTimeout(() => {{ new Image().src = '/api/{name}' }}, {after_s * 1000})"


def recording(requested: list[str], app: "WSGIApplication") -> "WSGIApplication":
    """`app`, with every requested path appended to `requested`."""

    def recorded(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        requested.append(environ["PATH_INFO"])
        return app(environ, start_response)

    return recorded


#: Sends a request to the dashboard if it is rendered as a page, or followed as a link.
EVIL = "<script>fetch('/api/owned')</script><img src=x onerror=\"fetch('/api/owned')\">"


@pytest.fixture
def hostile(tmp_path: Path) -> str:
    """The URL of a database in which every name and every text is hostile."""
    url = f"sqlite:///{tmp_path / 'studies.db'}"
    study = optuna.create_study(study_name=EVIL, storage=url, direction="maximize")
    for _ in range(2):
        trial = study.ask({EVIL: optuna.distributions.CategoricalDistribution([EVIL, "b"])})
        trial.set_user_attr(EVIL, EVIL)
        trial.set_user_attr("link", "javascript:fetch('/api/owned')")
        study.tell(trial, 0.5)
    study.set_user_attr("question", EVIL)
    for key, value in (("dashboard:note_ver", 1), ("dashboard:note_str:0", f"{EVIL}\n[x](javascript:alert(1))")):
        study._storage.set_study_system_attr(study._study_id, key, value)
    return url


@pytest.mark.parametrize(
    "path", ["/", "/dashboard/studies/1", "/dashboard/studies/1/note", "/dashboard/studies/1/trials"]
)
def test_hostile_names_and_texts_are_shown_as_text(hostile: str, browser: Browser, path: str) -> None:
    requested: list[str] = []
    server = dashboard.bind(hostile, token=TOKEN, port=0)
    server.set_app(recording(requested, guard(dashboard._dashboard(hostile), server.policy)))

    with running(server):
        page = browse(browser, server.policy.url.replace("/?", f"{path}?"))

    assert "owned" in page  # as text
    assert "<script>fetch" not in page
    assert '<img src="x"' not in page
    assert 'href="javascript' not in page
    assert "/api/owned" not in requested

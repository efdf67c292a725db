"""The pages of optuna-dashboard, without anything that the database no longer holds.

optuna-dashboard keeps trials, parameters and importances by the id of a study, on the server and in the open page. When
the id belongs to another study, or a finished trial is gone, the server begins with empty caches, and the open page is
loaded again (`reload.js`).
"""

import re
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna_dashboard
import sqlalchemy as sa
from optuna_dashboard._importance import param_importance_cache

from search.dashboard.access import Headers
from search.dashboard.history import HistoryStorage
from search.dashboard.overlay import OverlayCache
from search.errors import ConvsearchError
from search.optuna_internals import OverlayStorage

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

#: Header with the id of a study and the id of its history; the second one is missing if there is no such study.
HISTORY = "X-Study-History"
SCRIPT = "/static/reload.js"
#: Paths of requests for one study or one of its files.
_ONE_STUDY = re.compile(r"/(?:api/studies|artifacts|csv)/(\d{1,18})(?:/|$)")
#: The element that loads optuna-dashboard. The script must run before it.
_BUNDLE, _RELOAD = b'<script defer src="/static/bundle.js">', f'<script defer src="{SCRIPT}"></script>'.encode()
#: Headers of a page as stored on the disk, and of requests that compare it with a copy in the browser.
_OF_FILE = {"content-length", "etag", "last-modified", "accept-ranges"}
_CONDITIONS = {"HTTP_IF_NONE_MATCH", "HTTP_IF_MODIFIED_SINCE", "HTTP_RANGE"}
#: optuna-dashboard keeps the importances of all databases in one dictionary, by study id. The lock guards it, and the
#: ids of the histories that its values are of.
_IMPORTANCES_LOCK = threading.Lock()
_importances_of: dict[int, str] = {}


class Pages:
    """A WSGI application: optuna-dashboard for one database."""

    def __init__(self, storage: HistoryStorage, overlays: OverlayCache) -> None:
        self._storage, self._overlays = storage, overlays
        self._overlaid = OverlayStorage(storage, overlays.beside)
        self._lock = threading.Lock()
        self._histories: dict[int, str] = {}
        self._app = self._new_app()

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path == SCRIPT:
            return _script(start_response)
        if path == "/dashboard" or path.startswith("/dashboard/"):
            return _page(self._app, environ, start_response)
        match = _ONE_STUDY.match(path)
        if match is None:
            return self._app(environ, start_response)
        study_id = int(match[1])
        try:
            history = self._check(study_id)
        except sa.exc.SQLAlchemyError:
            return self._app(environ, start_response)  # which reports the error
        headers = [(HISTORY, f"{study_id} {history}".strip()), ("Cache-Control", "no-store")]
        with _importances(study_id, history) if path.endswith("/param_importances") else nullcontext():
            return self._app(environ, _adding(headers, start_response))

    def _check(self, study_id: int) -> str:
        """Load a study again if it has changed; returns the id of its history, empty if there is no such study."""
        try:
            study = self._storage.check(study_id)
        except KeyError:
            history = ""
        else:
            history = study.id
            with suppress(KeyError, ConvsearchError):  # a foreign study has no overlay
                self._overlays.refresh(study_id, study.name, history=history)
        with self._lock:
            if self._histories.setdefault(study_id, history) != history:
                self._histories[study_id] = history
                self._app = self._new_app()
        return history

    def _new_app(self) -> "WSGIApplication":
        """optuna-dashboard with empty caches."""
        app: WSGIApplication = optuna_dashboard.wsgi(self._overlaid, artifact_store=self._overlays)
        return app


def _page(app: "WSGIApplication", environ: "WSGIEnvironment", start_response: "StartResponse") -> list[bytes]:
    """Send the page of optuna-dashboard, which also loads the script."""
    asked = {name: value for name, value in environ.items() if name not in _CONDITIONS}

    def start(status: str, headers: Headers, exc_info: Any = None) -> Callable[[bytes], object]:
        kept = [(name, value) for name, value in headers if name.lower() not in _OF_FILE]
        return start_response(status, [*kept, ("Cache-Control", "no-store")], exc_info)

    parts = app(asked, start)
    page = b"".join(parts).replace(_BUNDLE, _RELOAD + _BUNDLE)
    if hasattr(parts, "close"):
        parts.close()
    return [page]


def _script(start_response: "StartResponse") -> list[bytes]:
    script = Path(__file__).with_name("reload.js").read_bytes()
    start_response("200 OK", [("Content-Type", "text/javascript"), ("Content-Length", str(len(script)))])
    return [script]


def _adding(added: Headers, start_response: "StartResponse") -> Any:
    def start(status: str, headers: Headers, exc_info: Any = None) -> Callable[[bytes], object]:
        return start_response(status, [*headers, *added], exc_info)

    return start


@contextmanager
def _importances(study_id: int, history: str) -> Iterator[None]:
    """Let optuna-dashboard compute or find importances, and find none of another history."""
    with _IMPORTANCES_LOCK:
        if _importances_of.get(study_id) != history:
            for key in [key for key in param_importance_cache if key.startswith(f"{study_id}:")]:
                del param_importance_cache[key]
            _importances_of[study_id] = history
        yield

"""Requests of a browser to a WSGI application (PEP 3333)."""

from io import BytesIO
from typing import Any


def get_request(path: str, query: str = "") -> dict[str, Any]:
    """The environment of a GET request."""
    return {
        "REQUEST_METHOD": "GET",
        "PATH_INFO": path,
        "QUERY_STRING": query,
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "HTTP_ACCEPT_ENCODING": "identity",
        "wsgi.input": BytesIO(),
        "wsgi.errors": BytesIO(),
        "wsgi.url_scheme": "http",
    }

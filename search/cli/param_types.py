"""Types of values on the command line."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from data import home
from data.errors import DataError
from search import database_url
from search.errors import UsageError


class Count(click.ParamType[int]):
    """A whole number of at least 1."""

    name = "count"

    def __init__(self, *, at_most: int | None = None) -> None:
        self._at_most = at_most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        if not value.isdecimal() or int(value) < 1:
            self.fail(f"must be a whole number of at least 1, but got {value}", param, ctx)
        if self._at_most is not None and int(value) > self._at_most:
            self.fail(f"must be at most {self._at_most}, but got {value}", param, ctx)
        return int(value)


class PositiveNumber(click.ParamType[float]):
    """A finite number above 0."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            number = float(value)
        except ValueError:
            number = 0.0
        if not 0 < number < float("inf"):
            self.fail(f"must be a number above 0, but got {value!r}", param, ctx)
        return number


class DatabaseUrl(click.ParamType[str]):
    """URL of a database; ~ is expanded. Rejects passwords on the command line, which every user can read."""

    name = "url"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        source = None if ctx is None or param is None else ctx.get_parameter_source(param.name or "")
        if source is ParameterSource.COMMANDLINE and database_url.has_password(value):
            self.fail(
                "must not hold a password, because everybody on this machine can read a command line; "
                "put the URL into CONVSEARCH_STORAGE, or the password into ~/.pgpass or the file named by PGPASSFILE",
                param,
                ctx,
            )
        try:
            value.encode()
        except UnicodeEncodeError:
            self.fail(f"must be UTF-8, but got {value!r}; use a link with another name", param, ctx)
        try:
            return database_url.move_password(database_url.expand_home(value))
        except UsageError as error:
            self.fail(str(error), param, ctx)

    def split_envvar_value(self, rv: str) -> Sequence[str]:
        return [rv]


class ExpandedPath(click.ParamType[Path]):
    """A path; ~ is expanded to the home folder."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        try:
            return home.expand(str(value))
        except DataError as error:
            self.fail(str(error), param, ctx)


class ImagesPath(click.ParamType[str]):
    """The path of images, as text for a study; ~ is expanded to the home folder."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return str(PATH.convert(value, param, ctx))


COUNT, POSITIVE, URL, PATH, IMAGES = Count(), PositiveNumber(), DatabaseUrl(), ExpandedPath(), ImagesPath()

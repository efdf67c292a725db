"""A second copy of each checkpoint, in a folder or an object store that every machine of a study can reach.

The first one is on the disk of the machine that trains, and is what counts there. So a store that answers no more stops
nobody who is at work: a trial that moves to another machine meanwhile begins again there.
"""

import tempfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from search.artifacts import study_dir
from search.artifacts.remote_store import ObjectStore, RemoteStoreClient, RemoteStoreError
from search.errors import SpecError


@dataclass(frozen=True, slots=True)
class RemoteCheckpoints:
    """Where the checkpoints of one study lie for all machines."""

    client: RemoteStoreClient
    key: str
    """The study's own folder there."""

    @property
    def place(self) -> str:
        """For a person to find it."""
        return f"{self.client.url}/{self.key}"

    def upload(self, folder: Path, number: int) -> None:
        """Make the remote checkpoints of a trial those of `folder`; remote ones of later steps are kept.

        Raises:
            RemoteStoreError: the upload failed; the next call tries again.
        """
        trial = self._trial(number)

        def bring(store: ObjectStore) -> None:
            there, ours = _checkpoints(store, trial), {path.name: path for path in study_dir.list_checkpoints(folder)}
            for name in sorted(ours.keys() - there):
                store.write(ours[name], trial / name)
            for name in sorted(there - ours.keys()):
                if name < max(ours, default=""):
                    store.remove(trial / name)

        self.client.call(bring)

    def get(self, folder: Path, number: int) -> None:
        """Bring the newest checkpoint of a trial into `folder`, if it is newer than those there.

        Raises:
            Unreachable: it could not be brought.
        """
        trial = self._trial(number)

        def fetch(store: ObjectStore) -> None:
            newest = max(_checkpoints(store, trial), default="")
            if newest > max((path.name for path in study_dir.list_checkpoints(folder)), default=""):
                folder.mkdir(parents=True, exist_ok=True)
                store.read(trial / newest, folder / newest)

        self.client.call(fetch)

    def delete(self, numbers: Collection[int]) -> None:
        """Remove the checkpoints of these trials, as far as there are any. Raises Unreachable."""
        unneeded = {self._trial(number).name for number in numbers}

        def remove(store: ObjectStore) -> None:
            for name in sorted(store.names(PurePosixPath(self.key)) & unneeded):
                store.remove(PurePosixPath(self.key) / name)

        if unneeded:
            self.client.call(remove)

    def delete_all(self) -> None:
        """Remove those of the whole study. Raises Unreachable."""
        self.client.call(lambda store: store.remove(PurePosixPath(self.key)))

    def copy(self, key: str) -> None:
        """Copy all to another folder of the same store, however long that takes. Raises Unreachable."""

        def through_here(store: ObjectStore) -> None:
            with tempfile.TemporaryDirectory() as folder:
                for trial in sorted(store.names(PurePosixPath(self.key))):
                    for name in sorted(_checkpoints(store, PurePosixPath(self.key) / trial)):
                        path = Path(folder) / name
                        store.read(PurePosixPath(self.key) / trial / name, path)
                        store.write(path, PurePosixPath(key) / trial / name)
                        path.unlink()

        self.client.call(through_here, patient=True)

    def _trial(self, number: int) -> PurePosixPath:
        return PurePosixPath(self.key) / f"trial-{number:05d}"


def of(url: str | None, key: str) -> RemoteCheckpoints | None:
    """The depot of a study; None where it has none."""
    return None if url is None else RemoteCheckpoints(RemoteStoreClient(url=url), key)


def check(url: str | None) -> None:
    """See that a depot can be used from here: that there is a package for it, and that it can be written.

    Raises:
        SpecError: says why not.
    """
    if url is None:
        return
    try:
        RemoteStoreClient(url=url).call(ObjectStore.probe)
    except RemoteStoreError as error:
        raise SpecError(f"checkpoints = {url!r} cannot be used from this machine: {error}") from error


def _checkpoints(store: ObjectStore, folder: PurePosixPath) -> set[str]:
    return {name for name in store.names(folder) if study_dir.CHECKPOINT_NAME.fullmatch(name)}

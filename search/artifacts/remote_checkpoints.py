"""Copies of checkpoints in a folder or an object store that every machine of a study can reach.

The original is on the disk of the machine that trains, which resumes from it. An unavailable store therefore stops no
worker. A trial that moves to another machine in the meantime starts again from the beginning.
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
    """Remote checkpoints of one study, shared by all machines."""

    client: RemoteStoreClient
    key: str
    """Folder of the study in the store."""

    @property
    def place(self) -> str:
        """Location of the remote checkpoints, for messages."""
        return f"{self.client.url}/{self.key}"

    def upload(self, folder: Path, number: int) -> None:
        """Upload the checkpoints in `folder`, and remove older remote checkpoints. Remote later ones are kept.

        Args:
            folder: local folder of the trial.
            number: number of the trial.

        Raises:
            RemoteStoreError: the upload failed; the next call tries again.
        """
        trial = self._trial(number)

        def upload_new(store: ObjectStore) -> None:
            remote, local = _checkpoints(store, trial), {path.name: path for path in study_dir.list_checkpoints(folder)}
            for name in sorted(local.keys() - remote):
                store.write(local[name], trial / name)
            for name in sorted(remote - local.keys()):
                if name < max(local, default=""):
                    store.remove(trial / name)

        self.client.call(upload_new)

    def download(self, folder: Path, number: int) -> None:
        """Download the newest checkpoint of a trial if it is newer than the local ones.

        Args:
            folder: local folder of the trial; created if missing.
            number: number of the trial.

        Raises:
            RemoteStoreError: the download failed.
        """
        trial = self._trial(number)

        def fetch(store: ObjectStore) -> None:
            newest = max(_checkpoints(store, trial), default="")
            if newest > max((path.name for path in study_dir.list_checkpoints(folder)), default=""):
                folder.mkdir(parents=True, exist_ok=True)
                store.read(trial / newest, folder / newest)

        self.client.call(fetch)

    def delete(self, numbers: Collection[int]) -> None:
        """Remove the remote checkpoints of the trials `numbers`.

        Raises:
            RemoteStoreError: the removal failed.
        """
        unneeded = {self._trial(number).name for number in numbers}

        def remove(store: ObjectStore) -> None:
            for name in sorted(store.names(PurePosixPath(self.key)) & unneeded):
                store.remove(PurePosixPath(self.key) / name)

        if unneeded:
            self.client.call(remove)

    def delete_all(self) -> None:
        """Remove all remote checkpoints of the study.

        Raises:
            RemoteStoreError: the removal failed.
        """
        self.client.call(lambda store: store.remove(PurePosixPath(self.key)))

    def copy(self, key: str) -> None:
        """Copy all remote checkpoints to another folder of the same store, without a timeout.

        Args:
            key: the folder to copy to.

        Raises:
            RemoteStoreError: the copy failed.
        """

        def download_and_upload(store: ObjectStore) -> None:
            with tempfile.TemporaryDirectory() as folder:
                for trial in sorted(store.names(PurePosixPath(self.key))):
                    for name in sorted(_checkpoints(store, PurePosixPath(self.key) / trial)):
                        path = Path(folder) / name
                        store.read(PurePosixPath(self.key) / trial / name, path)
                        store.write(path, PurePosixPath(key) / trial / name)
                        path.unlink()

        self.client.call(download_and_upload, patient=True)

    def _trial(self, number: int) -> PurePosixPath:
        return PurePosixPath(self.key) / study_dir.trial_name(number)


def of(url: str | None, key: str) -> RemoteCheckpoints | None:
    """Return the remote checkpoints of a study.

    Args:
        url: URL of the store that the study names, or None.
        key: folder of the study in the store.

    Returns:
        None if the study has no remote store.
    """
    return None if url is None else RemoteCheckpoints(RemoteStoreClient(url=url), key)


def check(url: str | None) -> None:
    """Check that a remote store is usable from this machine: its package is installed, and it is writable.

    Args:
        url: URL of the store; nothing is checked if it is None.

    Raises:
        SpecError: the store cannot be used; with the reason.
    """
    if url is None:
        return
    try:
        RemoteStoreClient(url=url).call(ObjectStore.probe)
    except RemoteStoreError as error:
        raise SpecError(f"checkpoints = {url!r} cannot be used from this machine: {error}") from error


def _checkpoints(store: ObjectStore, folder: PurePosixPath) -> set[str]:
    return {name for name in store.names(folder) if study_dir.CHECKPOINT_NAME.fullmatch(name)}

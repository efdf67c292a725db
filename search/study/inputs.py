"""The inputs of a study that a machine needs first: images, pretrained weights, memory, and the same code."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from data import home
from data.config import DataConfig
from data.dataset import fetch, prepare
from data.errors import DataError
from data.progress import Say
from search import hardware
from search.errors import DiskError, SpecError
from search.spec.study_spec import StudySpec
from search.study import provenance
from search.study.stored_study import StoredStudy


def with_absolute_path(data: DataConfig) -> DataConfig:
    """The same images with an absolute path, which is valid in any working directory.

    Raises:
        DataError: The path begins with ~ and an unknown user.
    """
    return data if data.path is None else data.model_copy(update={"path": str(home.expand(data.path).absolute())})


def prepare_data(spec: StudySpec, cache: Path, say: Say, *, fingerprint: str | None = None) -> dict[str, Any]:
    """Decode the images into `cache` if they are not there yet.

    Args:
        spec: The study.
        cache: Folder of the decoded images.
        say: Prints progress and notes.
        fingerprint: Of the images of a stored study; their decoded copy suffices if their path is gone.

    Returns:
        The properties of the images that the study stores, by name.

    Raises:
        DataError: The images cannot be fetched or read.
        DiskError: `cache` cannot be written.
    """
    with writing_to(cache):
        info = prepare(spec.data, cache, say, fingerprint=fingerprint)
    for note in info.notes:
        say(note)
    stored = asdict(info)
    for name in ("mean", "std"):
        del stored[name]
    return {**stored, "preprocessing": info.preprocessing.model_dump(mode="json")}


def fetch_inputs(spec: StudySpec, cache: Path, say: Say) -> None:
    """Fetch the images and the pretrained weights of a study; the images are not decoded yet.

    Args:
        spec: The study.
        cache: Folder of the decoded images.
        say: Prints progress and notes.

    Raises:
        DataError: They are not available.
        DiskError: `cache` cannot be written.
    """
    fetch_images(spec, cache, say)
    fetch_backbones(spec, say)


def fetch_images(spec: StudySpec, cache: Path, say: Say) -> None:
    """Fetch the images of a study; they are not decoded yet.

    Raises:
        DataError: They are not available.
        DiskError: `cache` cannot be written.
    """
    with writing_to(cache):
        fetch(spec.data, cache, say)


def fetch_backbones(spec: StudySpec, say: Say) -> None:
    """Fetch the pretrained weights of every backbone that a study may draw, before several workers need them at once.

    Raises:
        DataError: Weights are missing and cannot be fetched; the message names the file and its folder.
    """
    names = sorted(backbones(spec))
    if not names:
        return  # avoids the import of torch, which takes seconds
    from models.backbone import NoWeights
    from models.backbone import fetch as fetch_weights

    for name in names:
        try:
            fetch_weights(name, say=say)
        except NoWeights as error:
            raise DataError(str(error)) from error


def backbones(spec: StudySpec) -> frozenset[str]:
    """The pretrained networks that a study may draw."""
    domains = [
        spec.space.parameters["backbone"],
        *(table["backbone"] for table in spec.space.when.values() if "backbone" in table),
    ]
    drawn = {str(value) for domain in domains for value in domain.grid_values()}
    return frozenset(drawn | {str(row.values.get("backbone", "none")) for row in spec.rows}) - {"none"}


def worker_bytes(spec: StudySpec) -> int:
    """Memory limit of a worker in bytes; larger if the study may draw a backbone."""
    return hardware.BACKBONE_BYTES if backbones(spec) else hardware.WORKER_BYTES


def devices(spec: StudySpec, workers: int | None, *, device: str | None) -> tuple[str, ...]:
    """The device of each worker of a study; see `hardware.devices`."""
    return hardware.devices(workers, device=device, worker_bytes=worker_bytes(spec))


@contextmanager
def writing_to(cache: Path) -> Iterator[None]:
    """Turn an OSError in the folder of images into a DiskError that names the remedy."""
    try:
        yield
    except OSError as error:
        raise DiskError(f"cannot write to {cache}: {error.strerror or error}; name another --cache") from error


def ensure_inputs(stored: StoredStudy, cache: Path, say: Say) -> None:
    """Fetch the images and pretrained weights of a study, and decode the images.

    Args:
        stored: The study.
        cache: Folder of the decoded images.
        say: Prints progress and notes.

    Raises:
        DataError: They are not available, or the images differ from those that the study was begun with.
        DiskError: `cache` cannot be written.
    """
    fetch_inputs(stored.spec, cache, say)
    check_same_images(stored, prepare_data(stored.spec, cache, say, fingerprint=stored.data["fingerprint"]))


def check_same_code(stored: StoredStudy, here: Mapping[str, str]) -> None:
    """Check that this machine has the code that the study was last run with.

    Args:
        stored: The study.
        here: The code of this machine; see `provenance.code_version`.

    Raises:
        SpecError: The code differs; the message has the differences.
    """
    differences = provenance.differences(stored.versions, here)
    if differences:
        raise SpecError(
            f"the code on this machine differs from the code the study was last run with: {'; '.join(differences)}; "
            f"install the same code here, or continue with the code of this machine: `convsearch resume {stored.name}`"
        )


def check_same_images(stored: StoredStudy, images: dict[str, Any]) -> None:
    """Check that the images of this machine are those that the study was begun with.

    Raises:
        DataError: The images differ; the message has the differences.
    """
    if images["fingerprint"] == stored.data["fingerprint"]:
        return
    keys = ("classes", "train_counts", "test_counts", "image_size")
    pairs = [(key, stored.data.get(key), _plain(images.get(key))) for key in keys]
    differences = [f"{key} is {ours} here, and {theirs} there" for key, theirs, ours in pairs if ours != theirs]
    raise DataError(
        f"the images of this machine are not those that the study was begun with: "
        f"{'; '.join(differences) or 'their pixels differ'}"
    )


def _plain(value: Any) -> Any:
    """The value as JSON restores it."""
    return list(value) if isinstance(value, tuple) else value

"""What a machine must have before it works on a study: images, pretrained weights, memory, and the same code."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

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
    """The same images, wherever the next command is given."""
    return data if data.path is None else data.model_copy(update={"path": str(Path(data.path).absolute())})


def prepare_data(spec: StudySpec, cache: Path, say: Say) -> dict[str, Any]:
    """Decode the images if that was not done yet; what the study keeps of them."""
    with writing_to(cache):
        info = prepare(spec.data, cache, say)
    for note in info.notes:
        say(note)
    kept = ("fingerprint", "classes", "train_counts", "test_counts", "image_size", "notes")
    return {name: value for name, value in asdict(info).items() if name in kept}


def fetch_backbones(spec: StudySpec, say: Say) -> None:
    """Fetch the pretrained weights of every backbone that a study may draw, before workers want them all at once.

    Raises:
        DataError: they are not here, and cannot be fetched; says which file to put where.
    """
    wanted = sorted(backbones(spec))
    if not wanted:
        return  # else torch would be loaded for nothing, which takes seconds
    from models.backbone import NoWeights
    from models.backbone import fetch as fetch_weights

    for name in wanted:
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
    """Memory that a worker may take, which is more with a backbone."""
    return hardware.BACKBONE_BYTES if backbones(spec) else hardware.WORKER_BYTES


def devices(spec: StudySpec, workers: int | None, *, device: str | None) -> tuple[str, ...]:
    """The device of each worker of a study; see `machine.devices`."""
    return hardware.devices(workers, device=device, worker_bytes=worker_bytes(spec))


@contextmanager
def writing_to(cache: Path) -> Iterator[None]:
    """Say what to do where the folder of images cannot be written."""
    try:
        yield
    except OSError as error:
        raise DiskError(f"cannot write to {cache}: {error.strerror or error}; name another --cache") from error


def ensure_inputs(stored: StoredStudy, cache: Path, say: Say) -> None:
    """Get the images of a study, and pretrained weights.

    Raises:
        DataError: they cannot be had here, or are not those that the study was begun with.
        DiskError: `cache` cannot be written.
    """
    with writing_to(cache):
        fetch(stored.spec.data, cache, say)
    fetch_backbones(stored.spec, say)
    check_same_images(stored, prepare_data(stored.spec, cache, say))


def check_same_code(stored: StoredStudy, here: Mapping[str, str]) -> None:
    """Let only the code work on a study that it was last run with.

    Raises:
        SpecError: says what differs.
    """
    apart = provenance.differences(stored.versions, here)
    if apart:
        raise SpecError(
            f"the code on this machine differs from the code the study was last run with: {'; '.join(apart)}; "
            f"install the same here, or "
            f"go on with this one by `convsearch resume {stored.name}`"
        )


def check_same_images(stored: StoredStudy, found: dict[str, Any]) -> None:
    """Let a study be worked on only with the images that it was begun with.

    Raises:
        DataError: says what differs.
    """
    if found["fingerprint"] == stored.data["fingerprint"]:
        return
    keys = ("classes", "train_counts", "test_counts", "image_size")
    pairs = [(key, stored.data.get(key), _plain(found.get(key))) for key in keys]
    apart = [f"{key} is {here} here, and {there} there" for key, there, here in pairs if here != there]
    raise DataError(
        f"the images of this machine are not those it was begun with: {'; '.join(apart) or 'their pixels differ'}"
    )


def _plain(value: Any) -> Any:
    """As JSON gives it back."""
    return list(value) if isinstance(value, tuple) else value

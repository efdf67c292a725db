"""What a machine must have before it works on a study that others began: the same code, the same images."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data.dataset import fetch
from data.errors import DataError
from data.progress import Say
from search.errors import SpecError
from search.study import provenance
from search.study.inputs import fetch_backbones, prepare_data, writing_to
from search.study.stored_study import StoredStudy


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
            f"this machine has other code than it was last run with: {'; '.join(apart)}; install the same here, or "
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

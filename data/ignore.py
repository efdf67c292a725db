"""Files that are not images, by their names: training and prediction leave out the same ones."""

import re
from collections import Counter
from functools import lru_cache
from typing import Final

#: Names, in lower case, that file managers, storage devices and archivers leave beside the images.
LITTER: Final = frozenset(
    {
        "thumbs.db",  # Windows
        "ehthumbs.db",
        "ehthumbs_vista.db",
        "desktop.ini",
        "$recycle.bin",
        "system volume information",
        "icon\r",  # macOS
        "__macosx",
        "@eadir",  # Synology
        "#recycle",
        "#snapshot",
        "@tmp",
        "@recycle",  # QNAP
        "@recently-snapshot",
        "lost+found",  # ext4
        "picasa.ini",
        "zbthumbnail.info",  # Nikon and Zoner viewers
        "__pycache__",
    }
)
LITTER_PATTERN: Final = re.compile(r"\..*|.*~|~\$.*|thumbs\.db:.*|synophoto_thumb.*", re.IGNORECASE | re.DOTALL)
#: Endings, in lower case, of labels, notes, programs, archives and videos that lie beside images.
SIDE_ENDINGS: Final = frozenset(
    f".{ending}"
    for endings in (
        "txt csv tsv xml json jsonl ndjson yaml yml toml ini cfg names data log md rst html htm pdf xmp aae",  # text
        "doc docx xls xlsx ods odt db sqlite mat npy npz pkl joblib h5 hdf5 parquet",  # tables and arrays
        "pt pth ckpt onnx safetensors",  # models
        "py ipynb m r sh bat lnk url",  # programs and links
        "zip tar gz xz 7z rar sha256 md5 tmp part crdownload lock cache",  # archives and downloads
        "mp4 mov avi mkv webm 3gp m4v wmv mp3 wav m4a thm",  # videos and sound
    )
    for ending in endings.split()
)


@lru_cache(maxsize=1024)  # the names of folders come again with each of their files
def is_litter(name: str) -> bool:
    """Whether a file or folder is hidden, or left by a file manager, a storage device or an archiver."""
    return name.lower() in LITTER or LITTER_PATTERN.fullmatch(name) is not None


def is_side_file(name: str) -> bool:
    """Whether a file is not an image by its ending, such as labels or a video. Any other file is read as an image."""
    return _ending(name) in SIDE_ENDINGS


def _ending(name: str) -> str:
    return "".join(name.rpartition(".")[1:]).lower()


class Ignored:
    """Counts the files and folders that are ignored."""

    def __init__(self) -> None:
        self._litter: Counter[str] = Counter()
        self._side: Counter[str] = Counter()

    def add(self, path: str, *, is_folder: bool) -> bool:
        """Whether a path with slashes is ignored; it is counted if so."""
        parts = path.split("/")
        if litter := next(filter(is_litter, parts), None):
            self._litter["hidden" if litter.startswith(".") else litter] += 1
            return True
        if not is_folder and is_side_file(parts[-1]):
            self._side[_ending(parts[-1])] += 1
            return True
        return False

    def sentence(self) -> str:
        """The counts in one sentence, such as "ignored: 3 files of file managers (thumbs.db)"; may be empty."""
        counts = ((self._litter, "hidden or of file managers"), (self._side, "with the ending of another kind of file"))
        told = [f"{found.total()} {kind} ({_some(found)})" for found, kind in counts if found]
        return f"ignored: {' and '.join(told)}" if told else ""


def _some(found: Counter[str]) -> str:
    names = [name.strip() for name, _ in found.most_common(3)]
    return ", ".join(names) + (", ..." if len(found) > 3 else "")

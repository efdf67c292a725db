"""The images of a harness and one more member, as an archive."""

import functools
import io
import lzma
import tarfile
import zipfile
from pathlib import Path


@functools.cache
def packed_images(images: Path, kind: str) -> bytes:
    """The images as a "zip", or as a "tar" or "tar.xz" without the end of the tar, so that members can follow."""
    file = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed:
            for path in sorted(images.rglob("*.png")):
                packed.write(path, path.relative_to(images))
        return file.getvalue()
    with tarfile.open(fileobj=file, mode="w") as tar:
        tar.add(images, "")
        end = tar.offset
    return _packed(file.getvalue()[:end], kind)


def zip_with(images: Path, member: zipfile.ZipInfo, content: bytes) -> bytes:
    """The images and one more member, as a zip."""
    file = io.BytesIO(packed_images(images, "zip"))
    with zipfile.ZipFile(file, "a") as packed:
        packed.writestr(member, content, zipfile.ZIP_DEFLATED)
    return file.getvalue()


def tar_with(images: Path, kind: str, member: tarfile.TarInfo, content: bytes) -> bytes:
    """The images and one more member, as a "tar" or "tar.xz"."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        tar.addfile(member, io.BytesIO(content))
    return packed_images(images, kind) + _packed(file.getvalue(), kind)


def _packed(tar: bytes, kind: str) -> bytes:
    return lzma.compress(tar, preset=0) if kind == "tar.xz" else tar

"""Pictures, and the content of their files."""

import io

import numpy as np
from PIL import Image


def picture(number: int, size: tuple[int, int] = (20, 24)) -> Image.Image:
    """A smooth picture that differs for each number."""
    across, down = np.linspace(0, 1, size[0]), np.linspace(0, 1, size[1])[:, None]
    planes = [np.cos((number + 2) * across + channel) * np.sin(3 * down + number) for channel in range(3)]
    return Image.fromarray((np.stack(planes, -1) * 127 + 128).astype(np.uint8))


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()

"""Python code, for a model's page, that reads an image file as training does, with numpy and Pillow alone."""

from typing import Final, assert_never

from data.preprocessing import Preprocessing

LENGTHS: Final = ("photo.width", "photo.height")
#: A square with black bars, as in `data.image`.
PAD: Final = """\
width, height = (max(1, {side} * length // max(image.size)) for length in image.size)
    square = Image.new("RGB", ({side}, {side}))
    scaled = image.resize((width, height), Image.Resampling.BICUBIC)
    square.paste(scaled, (({side} - width) // 2, ({side} - height) // 2))
    return numpy.asarray(square)"""
#: The values of 16-bit and float images, without and with a range (`data.depth`).
UPPER_BYTE: Final = """\
        values, alpha = None, None
        if photo.mode == "F":
            values = numpy.asarray(photo)
        elif photo.mode.startswith("I"):
            values = numpy.asarray(photo) >> 8  # of 16 bits the upper byte"""
RANGE: Final = """\
        values, alpha = read_values(photo, path)
        if values is not None:
            values = (values - {low!r}) * {factor!r}  # the range of the training images"""
READ_VALUES: Final = '''\
def read_values(photo, path):
    """The values of 16 bits or more, and alpha: of 16-bit colours Pillow reads the upper bytes."""
    def half(raw_mode):
        swap = lambda args: raw_mode if isinstance(args, str) else (raw_mode, *args[1:])
        with Image.open(path) as other:
            other.tile = [tile._replace(args=swap(tile.args)) for tile in other.tile]
            return numpy.asarray(other, "float64")

    if photo.mode == "F" or photo.mode.startswith("I"):
        return numpy.asarray(photo, "float64"), None
    args = photo.tile[0].args if getattr(photo, "tile", None) else ""
    mode = str(args if isinstance(args, str) else args[0])
    if mode == "LA;16B":
        parts = half("RGBA")
        return parts[..., 0] * 256 + parts[..., 1], Image.fromarray(parts[..., 2].astype("uint8"))
    if photo.format == "PPM" and photo.mode == "RGB" and args[-1:] == (65535,):
        size = (photo.height, photo.width, 3)
        data = numpy.fromfile(path, ">u2", count=numpy.prod(size), offset=photo.tile[0].offset)
        return data.reshape(size).astype("float64"), None
    if mode[-4:] in (";16B", ";16L", ";16N") and mode[:3] == "RGB":
        low = half(mode[:-1] + {"B": "L", "L": "B", "N": "B"}[mode[-1]])
        values = (numpy.asarray(photo, "float64") * 256 + low)[..., :3]
        return values, photo.getchannel("A") if photo.mode == "RGBA" else None
    return None, None

'''
READ: Final = '''\
def read(path):
    """A photo as in training: upright, transparent parts white, square."""
    with Image.open(path) as photo:
        width, height = {scaled}
        if min(photo.width / width, photo.height / height) > 2:
            photo.draft(None, (width, height))  # decodes a JPEG at a fraction of its size
{values}
        image = photo
        if values is not None:
            values = numpy.clip(numpy.rint(numpy.nan_to_num(values)), 0, 255)
            image = Image.fromarray(values.astype("uint8")).convert("RGB")
            if alpha is not None:
                image.putalpha(alpha)
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        image = image.convert("RGB")
        try:
            orientation = photo.getexif().get(0x0112)
        except Exception:  # damaged metadata
            orientation = None
    if image.width * image.height > 25_000_000:
        image = image.reduce(min(max(1, min(image.width // width, image.height // height)), 16))
    turns = {{2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}}  # EXIF orientation: Image.Transpose
    if orientation in turns:
        image = image.transpose(turns[orientation])
    {square}
'''


def reading_code(steps: Preprocessing) -> str:
    """Python code of a function `read` that reads an image file as `data.image.decode` does, with numpy and Pillow."""
    side = steps.side
    match steps.fit:
        case "crop":
            scaled = ", ".join(f"{2 * side} * {length} // min(photo.size)" for length in LENGTHS)
            square = f"return numpy.asarray(ImageOps.fit(image, ({side}, {side}), Image.Resampling.BICUBIC))"
        case "pad":
            scaled = ", ".join(f"max(1, {2 * side} * {length} // max(photo.size))" for length in LENGTHS)
            square = PAD.format(side=side)
        case "squash":
            scaled = f"{2 * side}, {2 * side}"
            square = f"return numpy.asarray(image.resize(({side}, {side}), Image.Resampling.BICUBIC))"
        case _:
            assert_never(steps.fit)
    if steps.depth is None:
        values = UPPER_BYTE
    else:
        values = RANGE.format(low=steps.depth[0], factor=255 / (steps.depth[1] - steps.depth[0]))
    code = READ.format(scaled=scaled, square=square, values=values)
    return code if steps.depth is None else READ_VALUES + code

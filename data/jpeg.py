"""The structure of a JPEG stream (ITU-T T.81, annex B)."""

import re
from typing import Final

#: A marker that is followed by the length of its segment, or ends the image. Within entropy-coded data 0xFF is followed
#: by 0x00 or by a restart marker (0xD0 to 0xD7), and any marker may be preceded by more 0xFF.
MARKER: Final = re.compile(rb"\xff([^\x00\x01\xd0-\xd8\xff])", re.DOTALL)
END_OF_IMAGE, START_OF_SCAN = 0xD9, 0xDA


def has_more_scans(content: bytes, most: int) -> bool:
    """Whether the first image of a JPEG file has more scans than `most`.

    Bytes behind the end of the image are not counted, such as the video of a motion photo or further pictures, and
    neither are the contents of segments, such as a thumbnail.
    """
    if content.count(bytes((0xFF, START_OF_SCAN))) <= most:  # an upper bound, in a hundredth of the time
        return False
    scans, position = 0, 2
    while (marker := MARKER.search(content, position)) and marker[1][0] != END_OF_IMAGE:
        scans += marker[1][0] == START_OF_SCAN
        if scans > most:
            return True
        length = int.from_bytes(content[marker.end() : marker.end() + 2])
        position = marker.end() + max(length, 2)
    return False

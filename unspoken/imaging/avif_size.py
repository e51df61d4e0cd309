"""Read the frame sizes of an AVIF file before a decoder allocates memory for them.

An AVIF states its size twice: in its container, which Pillow reports, and in the AV1 stream, which
the decoder uses to allocate memory. A file of one kilobyte may state 64 x 64 in the container and
16 384 x 16 384 in the stream.
"""

from collections.abc import Iterator, Sequence

from unspoken.errors import NotAnImage, TooLarge

MAX_BOXES = 4096
MAX_ITEMS = 1024
"""Maximum number of items in a file: tiles of a grid, an alpha plane, a thumbnail."""
MAX_UNITS = 4096
"""Maximum number of OBUs in an item: headers, tile groups, metadata."""
_TABLE = (b"moov", b"trak", b"mdia", b"minf", b"stbl")
_SEQUENCE_HEADER = 1


def check_coded_size(encoded: bytes, *, max_pixels: int) -> None:
    """Raise TooLarge if a coded frame has over `max_pixels`, NotAnImage if no size is found."""
    try:
        sizes = [size for stream in _coded_streams(encoded) for size in _coded_sizes(stream)]
    except IndexError as error:
        raise NotAnImage("the picture is damaged: the AVIF ends within its header") from error
    if not sizes:
        raise NotAnImage("the picture is damaged: the AVIF has no AV1 sequence header")
    width, height = max(sizes, key=lambda size: size[0] * size[1])
    if width * height > max_pixels:
        raise TooLarge(
            f"the picture codes {width} x {height} pixels, at most {max_pixels} are read"
        )


# ---- boxes -----------------------------------------------------------------------------------


class _Reader:
    """A reader of whole bytes or single bits in sequence. Raises IndexError at the end."""

    def __init__(self, content: bytes, start: int, end: int) -> None:
        self._content, self._bit, self._end = content, 8 * start, 8 * min(end, len(content))

    def bits(self, count: int) -> int:
        if self._bit + count > self._end:
            raise IndexError
        start, stop = self._bit // 8, (self._bit + count + 7) // 8
        value = int.from_bytes(self._content[start:stop], "big")
        self._bit += count
        return value >> (8 * stop - self._bit) & (1 << count) - 1

    def bytes(self, count: int) -> int:
        return self.bits(8 * count)


def _boxes(encoded: bytes, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield (kind, start, end) of the content of each box."""
    for _ in range(MAX_BOXES):
        if start + 8 > min(end, len(encoded)):
            return
        size, kind, head = int.from_bytes(encoded[start : start + 4], "big"), start + 4, 8
        if size == 1:
            size, head = int.from_bytes(encoded[start + 8 : start + 16], "big"), 16
        stop = end if size == 0 else start + max(size, head)
        yield encoded[kind : kind + 4], start + head, min(stop, end)
        start = stop
    raise TooLarge(f"the picture has over {MAX_BOXES} boxes")


def _find(encoded: bytes, path: Sequence[bytes], start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of the content of each box at the end of a path of kinds."""
    for kind, inner, stop in _boxes(encoded, start, end):
        if kind == path[0] and len(path) == 1:
            yield inner, stop
        elif kind == path[0]:
            # A `meta` box has a version and flags before its inner boxes.
            yield from _find(encoded, path[1:], inner + 4 * (kind == b"meta"), stop)


def _coded_streams(encoded: bytes) -> Iterator[bytes]:
    """Yield the data of each item, and of the first frame of each track."""
    whole = (0, len(encoded))
    idats = [encoded[start:end] for start, end in _find(encoded, (b"meta", b"idat"), *whole)]
    for start, end in _find(encoded, (b"meta", b"iloc"), *whole):
        yield from _items(_Reader(encoded, start, end), encoded, idats[0] if idats else b"")
    for start, end in _find(encoded, _TABLE, *whole):
        yield from _first_frames(encoded, start, end)


def _items(reader: _Reader, encoded: bytes, idat: bytes) -> Iterator[bytes]:
    version = reader.bytes(4) >> 24
    offset_bytes, length_bytes, base_bytes, index_bytes = (reader.bits(4) for _ in range(4))
    num_items = reader.bytes(4 if version == 2 else 2)
    if num_items > MAX_ITEMS:
        raise TooLarge(f"the picture has {num_items} parts, at most {MAX_ITEMS} are read")
    for _ in range(num_items):
        reader.bytes(4 if version == 2 else 2)
        source = idat if version > 0 and reader.bytes(2) & 15 == 1 else encoded
        reader.bytes(2)
        base = reader.bytes(base_bytes)
        parts, num_bytes = list[bytes](), 0
        for _ in range(reader.bytes(2)):
            if version > 0:
                reader.bytes(index_bytes)
            start = base + reader.bytes(offset_bytes)
            length = reader.bytes(length_bytes)
            parts.append(source[start : start + length if length else None])
            num_bytes += len(parts[-1])
            if num_bytes > len(encoded):
                raise TooLarge("the picture's parts claim more bytes than the file has")
        yield b"".join(parts)


def _first_frames(encoded: bytes, start: int, end: int) -> Iterator[bytes]:
    """Yield the first frame of a track, located by its sample table."""
    boxes = dict(_named(encoded, start, end))
    sizes = boxes.get(b"stsz")
    for kind, width in ((b"stco", 4), (b"co64", 8)):
        places = boxes.get(kind)
        if places is None or sizes is None:
            continue
        places.bytes(4)
        sizes.bytes(4)
        same_size, num_sizes = sizes.bytes(4), sizes.bytes(4)
        if places.bytes(4) and num_sizes:
            at = places.bytes(width)
            yield encoded[at : at + (same_size or sizes.bytes(4))]


def _named(encoded: bytes, start: int, end: int) -> Iterator[tuple[bytes, _Reader]]:
    for kind, inner, stop in _boxes(encoded, start, end):
        yield kind, _Reader(encoded, inner, stop)


# ---- AV1 -------------------------------------------------------------------------------------


def _coded_sizes(stream: bytes) -> Iterator[tuple[int, int]]:
    """Yield (width, height) of every sequence header; nothing if the data is not AV1."""
    start = 0
    for _ in range(MAX_UNITS):
        if start >= len(stream):
            return
        head = stream[start]
        kind, has_extension, has_size = head >> 3 & 15, head >> 2 & 1, head >> 1 & 1
        start += 1 + has_extension
        size = len(stream) - start
        if has_size:
            size, start = _leb128(stream, start)
        if head >= 128 or start + size > len(stream):
            return
        if kind == _SEQUENCE_HEADER:
            yield _sequence_size(_Reader(stream, start, start + size))
        start += size
    raise TooLarge(f"the picture has over {MAX_UNITS} parts")


def _leb128(encoded: bytes, start: int) -> tuple[int, int]:
    """Return a LEB128 number and the position after it."""
    value = 0
    for place in range(8):
        byte = encoded[start + place]
        value |= (byte & 127) << 7 * place
        if byte < 128:
            return value, start + place + 1
    return value, start + 8


def _sequence_size(reader: _Reader) -> tuple[int, int]:
    """Return (width, height) of a sequence header. See section 5.5.1 of the AV1 specification."""
    reader.bits(4)
    if reader.bits(1):  # reduced_still_picture_header
        reader.bits(5)
    else:
        _skip_operating_points(reader)
    width_bits, height_bits = reader.bits(4) + 1, reader.bits(4) + 1
    return reader.bits(width_bits) + 1, reader.bits(height_bits) + 1


def _skip_operating_points(reader: _Reader) -> None:
    delay_bits = 0
    if reader.bits(1):  # timing_info_present_flag
        reader.bits(64)
        if reader.bits(1):
            _skip_uvlc(reader)
        if reader.bits(1):  # decoder_model_info_present_flag
            delay_bits = reader.bits(5) + 1
            reader.bits(42)
    has_display_delay = reader.bits(1)
    for _ in range(reader.bits(5) + 1):
        reader.bits(12)
        if reader.bits(5) > 7:
            reader.bits(1)
        if delay_bits and reader.bits(1):
            reader.bits(2 * delay_bits + 1)
        if has_display_delay and reader.bits(1):
            reader.bits(4)


def _skip_uvlc(reader: _Reader) -> None:
    num_zeros = 0
    while not reader.bits(1):
        num_zeros += 1
    if num_zeros < 32:
        reader.bits(num_zeros)

"""Reads numeric arrays from MATLAB files of version 5 (also called 6 and 7), with bounds checks.

SciPy's reader crashes the process on some damaged files and decompresses without a limit. This
reader supports only the tags of numeric arrays (MathWorks: MAT-File Format, version 5).
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np

HEADER_BYTES = 128
MOST_UNPACKED_BYTES = 256 << 20
MATRIX, COMPRESSED = 14, 15
NUMBERS = {  # data type of an element: NumPy's type code
    1: "i1",
    2: "u1",
    3: "i2",
    4: "u2",
    5: "i4",
    6: "u4",
    7: "f4",
    9: "f8",
    12: "i8",
    13: "u8",
}
NUMERIC_CLASSES = range(6, 16)  # double to uint64
COMPLEX_FLAG = 0x0800

Order = Literal["little", "big"]
ORDERS: dict[bytes, Order] = {b"IM": "little", b"MI": "big"}  # at the header's end


class _Element(NamedTuple):
    """A tagged data element of the file."""

    kind: int
    data: memoryview


def read_matlab(data: bytes, name: str) -> np.ndarray:
    """Reads a real numeric array by name, in its stored type.

    Args:
        data: the file's bytes.
        name: the variable's name.

    Raises:
        ValueError: the file is damaged, of another version, or has no such array; says which.
    """
    order = ORDERS.get(data[126:128])
    if order is None:
        raise ValueError("it is no MATLAB file of version 5 to 7")
    titles = []
    for element in _elements(memoryview(data)[HEADER_BYTES:], order):
        if element.kind == COMPRESSED:
            element = _unpack(element, order)
        if element.kind != MATRIX:
            raise ValueError(f"it holds a part of kind {element.kind}, where an array is expected")
        title, array = _read_array(element.data, order, name)
        if title == name:
            assert array is not None
            return array
        titles.append(title)
    raise ValueError(f"it has no field {name!r} (found {', '.join(titles) or 'none'})")


def _elements(data: memoryview, order: Order) -> Iterator[_Element]:
    """Yields consecutive elements, each padded to eight bytes."""
    at = 0
    while at < len(data):
        if at + 8 > len(data):
            raise ValueError("its end is missing")
        kind = int.from_bytes(data[at : at + 4], order)
        count = int.from_bytes(data[at + 4 : at + 8], order)
        start = at + 8
        if kind >> 16:  # a small element, whose length and data are in the tag
            kind, count, start = kind & 0xFFFF, kind >> 16, at + 4
            at += 8
            if count > 4:
                raise ValueError("the length of one of its parts is wrong")
        else:
            at = start + count
            if kind != COMPRESSED:
                at += -count % 8
        if start + count > len(data):
            raise ValueError("its end is missing")
        yield _Element(kind, data[start : start + count])


def _unpack(element: _Element, order: Order) -> _Element:
    unpacker = zlib.decompressobj()
    try:
        unpacked = unpacker.decompress(element.data, MOST_UNPACKED_BYTES)
    except zlib.error as error:
        raise ValueError(f"a part of it could not be unpacked ({error})") from None
    if not unpacker.eof:
        missing = unpacker.unconsumed_tail
        reason = f"is larger than {MOST_UNPACKED_BYTES:,} bytes" if missing else "is cut short"
        raise ValueError(f"a part of it {reason}")
    return next(_elements(memoryview(unpacked), order))


def _read_array(data: memoryview, order: Order, name: str) -> tuple[str, np.ndarray | None]:
    """Returns the name of an array, and its values if it is the requested one."""
    parts = _elements(data, order)
    try:
        flags, sizes, title = (next(parts).data for _ in range(3))
    except StopIteration:
        raise ValueError("one of its arrays lacks a part") from None
    decoded = bytes(title).decode("latin1")
    if decoded != name:
        return decoded, None
    kind = int.from_bytes(flags[:4], order)
    if kind & 0xFF not in NUMERIC_CLASSES or kind & COMPLEX_FLAG:
        raise ValueError(f"its field {name!r} holds no real numbers")
    letter = "<" if order == "little" else ">"
    shape = tuple(int(size) for size in np.frombuffer(sizes, f"{letter}i4"))
    numbers = next(parts, None)
    if numbers is None or numbers.kind not in NUMBERS or len(shape) < 2 or min(shape) < 0:
        raise ValueError(f"its field {name!r} holds no numbers")
    stored = np.dtype(f"{letter}{NUMBERS[numbers.kind]}")
    if len(numbers.data) != math.prod(shape) * stored.itemsize:
        raise ValueError(f"its field {name!r} has a length that does not fit its shape {shape}")
    return decoded, np.frombuffer(numbers.data, stored).reshape(shape, order="F")

"""MediaPipe's .task bundles: creating them, and replacing the landmark network's weights.

A bundle is a zip file whose members are stored uncompressed, so that they can be memory-mapped. The
weights are therefore replaced in place, with the two checksums that zip keeps of them.
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib

from ...errors import InputError
from .tflite_files import HEADS, MOST_BYTES, TfliteFile, Weights, expect_same_graph

MOST_MEMBERS = 100
PALMS_MEMBER, LANDMARKS_MEMBER = "hand_detector.tflite", "hand_landmarks_detector.tflite"
ALIGNMENT, ALIGNMENT_EXTRA, EXTRA_HEADER = 16, 0xD935, 4  # zip's extra field for alignment
LOCAL_HEADER, LOCAL_CRC = 30, 14  # size of a member's local header; offset of its checksum
CENTRAL_HEADER, CENTRAL_CRC, CENTRAL_SIGNATURE = 46, 16, b"PK\x01\x02"
CRC_FOLLOWS = 0x8  # flag: the checksum follows the data


def bundle_of(palms: bytes, landmarks: bytes) -> bytes:
    """Builds a bundle for MediaPipe's HandLandmarker from its two networks' files.

    Members are stored at multiples of ALIGNMENT. The same files give the same bundle.
    """
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for name, data in ((PALMS_MEMBER, palms), (LANDMARKS_MEMBER, landmarks)):
            member = zipfile.ZipInfo(name)
            begin = stream.tell() + LOCAL_HEADER + len(name) + EXTRA_HEADER
            padding = -begin % ALIGNMENT
            member.extra = struct.pack("<HH", ALIGNMENT_EXTRA, padding) + bytes(padding)
            archive.writestr(member, data)
    return stream.getvalue()


def with_taught_network(bundle: bytes, name: str, taught: TfliteFile, weights: Weights) -> bytes:
    """Replaces the weights of a bundle's landmark network.

    Args:
        bundle: the bytes of a .task file.
        name: its name in error messages.
        taught: the file that was trained; the bundle's network must have the same graph.
        weights: {layer.weight: array}.

    Raises:
        InputError: the bundle is invalid, or its network differs; the message says where.
    """
    members = _members(bundle, name)
    candidates = [entry for entry in members if entry.filename.endswith(".tflite")]
    if not candidates:
        names = ", ".join(entry.filename for entry in members) or "nothing"
        raise InputError(f"{name}: expected a bundle with .tflite files inside, it holds {names}")
    refused: InputError | None = None
    for member in candidates:
        start = _data_start(bundle, member, name)
        data = bundle[start : start + member.file_size]
        file = TfliteFile(data, f"{name}: {member.filename}")
        if len(file.outputs) != len(HEADS):
            continue  # the palm network
        try:
            expect_same_graph(file, taught)
        except InputError as error:
            refused = error
            continue
        return _patched(bundle, member, start, file.with_weights(weights), name)
    raise refused or InputError(
        f"{name}: holds no hand landmark network; expected MediaPipe's hand_landmarker.task"
    )


def _members(bundle: bytes, name: str) -> list[zipfile.ZipInfo]:
    try:
        with zipfile.ZipFile(io.BytesIO(bundle)) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, ValueError, struct.error, NotImplementedError) as error:
        raise InputError(f"{name}: expected a .task bundle (a zip file): {error}") from None
    if len(members) > MOST_MEMBERS:
        raise InputError(f"{name}: expected MediaPipe's bundle, it holds {len(members)} files")
    return members


def _data_start(bundle: bytes, member: zipfile.ZipInfo, name: str) -> int:
    """The offset of a member's data."""
    header = bundle[member.header_offset : member.header_offset + LOCAL_HEADER]
    is_stored = member.compress_type == zipfile.ZIP_STORED
    if len(header) < LOCAL_HEADER or not is_stored or member.flag_bits & CRC_FOLLOWS:
        raise InputError(
            f"{name}: {member.filename} is packed in another way than MediaPipe packs its bundles "
            "(stored); give the bundle as it was downloaded"
        )
    names, extra = struct.unpack_from("<HH", header, 26)
    start = member.header_offset + LOCAL_HEADER + names + extra
    if member.file_size > MOST_BYTES or start + member.file_size > len(bundle):
        raise InputError(f"{name}: {member.filename} is cut short or too large; copy it again")
    return start


def _patched(bundle: bytes, member: zipfile.ZipInfo, start: int, data: bytes, name: str) -> bytes:
    patched = bytearray(bundle)
    patched[start : start + len(data)] = data
    checksum = zlib.crc32(data)
    struct.pack_into("<I", patched, member.header_offset + LOCAL_CRC, checksum)
    struct.pack_into("<I", patched, _central_entry(bundle, member, name) + CENTRAL_CRC, checksum)
    with zipfile.ZipFile(io.BytesIO(patched)) as archive:
        if archive.testzip() is not None:
            raise InputError(f"{name}: could not be written again; give it as it was downloaded")
    return bytes(patched)


def _central_entry(bundle: bytes, member: zipfile.ZipInfo, name: str) -> int:
    """The offset of a member's entry in the central directory."""
    with zipfile.ZipFile(io.BytesIO(bundle)) as archive:
        at: int = archive.start_dir
    while bundle[at : at + 4] == CENTRAL_SIGNATURE:
        names, extra, comment = struct.unpack_from("<HHH", bundle, at + 28)
        (offset,) = struct.unpack_from("<I", bundle, at + 42)
        if offset == member.header_offset:
            return at
        at += CENTRAL_HEADER + names + extra + comment
    raise InputError(f"{name}: its directory does not name {member.filename}; copy it again")

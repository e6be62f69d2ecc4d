"""Mutations: from the bytes of a valid file and a random generator to the bytes of a damaged one.

Each form of file has a function. Those of formats with checksums and lengths repair these, so that the damage reaches what lies behind.
"""

import gzip
import io
import json
import pickletools
import re
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from copy import deepcopy
from random import Random
from typing import Any

Form = Callable[[bytes, Random], bytes]
NUMBERS = (
    0,
    1,
    -1,
    255,
    1 << 15,
    1 << 16,
    (1 << 31) - 1,
    1 << 31,
    1 << 32,
    1 << 53,
    (1 << 63) - 1,
    1 << 63,
    10**18,
    10**400,
)
ODD = (
    *NUMBERS, -(1 << 63), 0.5, 1e308, -1e308, 5e-324, float("nan"), float("inf"), float("-inf"), None, True, False, "", " ", "x" * 5000,
    "NaN", "-1", "007", "1e400", "10 epochs", "../../etc/passwd", "/dev/zero", "\0", "\n", "\u202e", "\ud800", "<script>", "{}", "${HOME}",
    [], [[]], [None], {}, {"": {}}, {"a": [1]}, [1, 2, 3],
)  # fmt: skip
WORDS = re.compile(rb"[A-Za-z_]\w*|-?\d+\.?\d*(?:[eE][-+]?\d+)?|[^\w\s]")
SIGNS = (
    b"\0",
    b"\xff",
    b"\xef\xbb\xbf",
    b"\r",
    b"\n",
    b"\t",
    b'"',
    b"'",
    b",",
    b":",
    b"-",
    b"[",
    b"{",
    b"&",
    b"*",
    b"!",
    b"%",
    b"#",
)


def raw(data: bytes, chance: Random) -> bytes:
    """Bytes flipped, replaced by extreme numbers, cut, repeated, moved or inserted, in one to four places."""
    found = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 4))):
        at = chance.randrange(len(found) + 1)
        span = chance.choice((1, 2, 4, 8, 16, 64, 512, 4096))
        match chance.randrange(8):
            case 0 if at < len(found):
                found[at] ^= 1 << chance.randrange(8)
            case 1:
                code = chance.choice(("<H", ">H", "<I", ">I", "<Q", ">Q"))
                number = chance.choice(NUMBERS[:-1]) % (1 << 8 * struct.calcsize(code))
                found[at : at + struct.calcsize(code)] = struct.pack(code, number)
            case 2:
                del found[at:]
            case 3:
                del found[at : at + span]
            case 4:
                found[at:at] = found[at : at + span] * chance.choice((1, 1, 2, 20))
            case 5:
                found[at : at + span] = bytes([chance.choice((0, 255, chance.randrange(256)))]) * span
            case 6:
                other = chance.randrange(len(found) + 1)
                found[at : at + span] = found[other : other + span]
            case _:
                found[at:at] = chance.randbytes(span)
    return bytes(found)


def text(data: bytes, chance: Random) -> bytes:
    """Words, numbers and signs replaced, removed, repeated or swapped; lines cut, repeated or swapped; now and then `raw`."""
    if chance.random() < 0.15:
        return raw(data, chance)
    for _ in range(chance.choice((1, 1, 2, 3))):
        if chance.random() < 0.25:
            lines = data.split(b"\n")
            at, other = chance.randrange(len(lines)), chance.randrange(len(lines))
            lines[at : at + 1] = chance.choice(
                ([], [lines[at]] * 2, [lines[other]], [b"  " + lines[at]], [lines[at][:9]])
            )
            data = b"\n".join(lines)
            continue
        found = list(WORDS.finditer(data))
        spot = chance.choice(found).span() if found else (0, 0)
        other_word = chance.choice(found)[0] if found else b""
        new = chance.choice(
            (written(chance.choice(ODD)), written(chance.choice(NUMBERS)), chance.choice(SIGNS), other_word, b"")
        )
        data = data[: spot[0]] + new + data[spot[1] :]
    return data


def written(value: Any) -> bytes:
    """A value as it would stand in a text."""
    return (value if isinstance(value, str) else json.dumps(value)).encode(errors="surrogatepass")


def tree(value: Any, chance: Random) -> Any:
    """Plain values within each other, in one to three places replaced, removed, repeated or wrapped."""
    for _ in range(chance.choice((1, 1, 2, 3))):
        holders = [holder for holder in inner(value) if holder]
        if not holders:
            return deepcopy(chance.choice(ODD))
        holder = chance.choice(holders)
        key: Any = chance.choice(list(holder)) if isinstance(holder, dict) else chance.randrange(len(holder))
        match chance.randrange(8):
            case 0:
                del holder[key]
            case 1 if isinstance(holder, dict):
                holder[written(chance.choice(ODD)).decode(errors="replace")] = deepcopy(holder[key])
            case 2 if isinstance(holder, list):
                holder.insert(key, deepcopy(holder[key]))
            case 3:
                holder[key] = [holder[key]]
            case _:
                holder[key] = deepcopy(chance.choice(ODD))
    return value


def inner(value: Any) -> list[Any]:
    """All lists and mappings in a value, itself among them."""
    below = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [value, *(one for part in below for one in inner(part))] if isinstance(value, dict | list) else []


def in_json(data: bytes, chance: Random) -> bytes:
    """A JSON file: mostly its tree."""
    return json.dumps(tree(json.loads(data), chance)).encode() if chance.random() < 0.7 else text(data, chance)


def in_lines(data: bytes, chance: Random) -> bytes:
    """A file of JSON lines."""
    lines = data.splitlines()
    at = chance.randrange(len(lines))
    lines[at] = in_json(lines[at], chance)
    return b"\n".join(lines) if chance.random() < 0.8 else text(data, chance)


def in_gzip(data: bytes, chance: Random) -> bytes:
    """A compressed JSON file."""
    return gzip.compress(in_json(gzip.decompress(data), chance)) if chance.random() < 0.8 else raw(data, chance)


def in_safetensors(data: bytes, chance: Random) -> bytes:
    """The header of a safetensors file, whose length is repaired."""
    length = int.from_bytes(data[:8], "little")
    if chance.random() < 0.3:
        return raw(data, chance)
    header = in_json(data[8 : 8 + length], chance)
    return len(header).to_bytes(8, "little") + header + data[8 + length :]


def in_png(data: bytes, chance: Random) -> bytes:
    """The chunks of a PNG, whose checksums are repaired, and the pixels below their compression."""
    if chance.random() < 0.3:
        return raw(data, chance)
    chunks, at = [], 8
    while at < len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    at = chance.randrange(len(chunks))
    name, body = chunks[at]
    if name == b"IDAT" and chance.random() < 0.5:
        body = zlib.compress(raw(zlib.decompress(body), chance))
    changed = (name, body if chance.random() < 0.2 else raw(body, chance))
    chunks[at : at + 1] = chance.choice(([changed], [changed], [changed, chance.choice(chunks)], []))
    parts = [
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    ]
    return data[:8] + b"".join(parts)


def in_tar(data: bytes, chance: Random) -> bytes:
    """A header of a tar file, whose checksum is repaired; or a whole member, left out or repeated."""
    if chance.random() < 0.3:
        return raw(data, chance)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        at = chance.choice([member.offset for member in tar])
    header = bytearray(data[at : at + 512])
    begin, end = chance.choice(
        ((0, 100), (100, 108), (124, 136), (136, 148), (156, 157), (157, 257), (257, 265), (345, 500))
    )
    numbers = (
        b"-1",
        b"77777777777\0",
        b"\x80" + b"\xff" * 11,
        b"\xff" * 12,
        b"\0" * 12,
        b"00000000010\0",
        b"x",
        b"../",
        b"S",
        b"g",
        b"L",
    )
    new = chance.choice((*numbers, chance.randbytes(end - begin)))[: end - begin]
    header[begin : begin + len(new)] = new
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return data[:at] + bytes(header) + data[at + 512 :]


def in_pickle(data: bytes, chance: Random) -> bytes:
    """Operations of a pickle left out, repeated, replaced by another one's bytes or by an odd value."""
    if chance.random() < 0.2:
        return raw(data, chance)
    places = [place for _, _, place in pickletools.genops(data)] + [len(data)]
    for _ in range(chance.choice((1, 1, 2))):
        at, other = chance.randrange(len(places) - 1), chance.randrange(len(places) - 1)
        begin, end = places[at : at + 2]
        odd = (
            b"N",
            b"\x88",
            b"K\xff",
            b"J\xff\xff\xff\xff",
            b"\x8a\x09" + b"\0" * 8 + b"\1",
            b"G\x7f\xf8" + bytes(6),
            b"X\1\0\0\0x",
            b"]",
            b"}",
            b")",
            b"0",
        )
        new = chance.choice(
            (b"", data[begin:end] * 2, data[places[other] : places[other + 1]], chance.choice(odd), chance.choice(odd))
        )
        data = data[:begin] + new + data[end:]
        places = [place if place <= begin else place + len(new) - (end - begin) for place in places]
    return data


def in_zip(data: bytes, chance: Random) -> bytes:
    """A member of a zip file, most often the pickle of a PyTorch file, whose checksum is repaired."""
    if chance.random() < 0.2:
        return raw(data, chance)
    with zipfile.ZipFile(io.BytesIO(data)) as old:
        members = {name: old.read(name) for name in old.namelist()}
    pickles = [name for name in members if name.endswith(".pkl")]
    name = chance.choice(pickles if chance.random() < 0.8 else list(members))
    members[name] = (in_pickle if name in pickles else raw)(members[name], chance)
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as new:
        for name, content in members.items():
            new.writestr(name, content)
    return made.getvalue()

"""Damage to files and to what stands in them, drawn from a ``random.Random``; used by ``fuzz.py``."""

import copy
import json
import struct
import zlib

NUMBERS = [
    0, 1, -1, 2, 3, 4, 7, 16, 17, 255, 256, 65535, 65536, 2**31 - 1, 2**31, -(2**31), 2**32 - 1, 2**53 + 1, 2**63,
    2**64, -(2**63), 10**30, 10**400, 0.0, -0.0, 0.1, 0.5, -0.5, 1.5, 1e-300, 5e-324, 1e6, 1e15, 1e300, 1.7e308, -1e308,
    float("nan"), float("inf"), float("-inf"),
]  # fmt: skip

TEXTS = [
    "", " ", ".", "..", "/", "../../etc/passwd", "/etc/passwd", "a/../../b.jpg", "a.jpg", "\0", "a\0b", "\ud800", "é",
    "\u202e", "\n", "C:\\x", "x" * 300, "a/" * 3000, "nan", "1", "1e5", "true", "null", "__proto__", "left_x",
    "right_x", "%s%n", "{0}", "softmax", "mpii", "🦴", "9" * 5000,
]  # fmt: skip


def weird_value(rng, depth=0):
    """A JSON value that may not belong where it is put."""
    kind = rng.randrange(12 if depth < 2 else 8)
    if kind < 4:
        return rng.choice(NUMBERS)
    if kind < 6:
        return rng.choice(TEXTS)
    if kind < 8:
        return rng.choice([None, True, False, [], {}])
    if kind == 8:
        return {rng.choice(TEXTS): weird_value(rng, depth + 1) for _ in range(rng.randrange(4))}
    if kind == 9:
        return [weird_value(rng, depth + 1)] * rng.choice([1, 2, 3, 4, 16, 17, 1000])
    return [weird_value(rng, depth + 1) for _ in range(rng.randrange(6))]


def _places(value, places):
    """Every (container, key) in a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        places.append((value, key))
        _places(item, places)
    return places


def mutate_json(rng, value, count=None):
    """A copy of a JSON value with some of its parts replaced, dropped, doubled, moved or wrapped."""
    value = copy.deepcopy(value)
    for _ in range(count or rng.choice([1, 1, 1, 2, 4])):
        places = _places(value, [])
        if not places or rng.random() < 0.02:
            value = weird_value(rng)
            continue
        container, key = rng.choice(places)
        kind = rng.randrange(8)
        if kind < 4:
            container[key] = weird_value(rng)
        elif kind == 4:
            del container[key]
        elif kind == 5:
            container[key] = [container[key]] if rng.random() < 0.5 else {"x": container[key]}
        elif kind == 6 and isinstance(container, list):
            container.insert(key, copy.deepcopy(container[key]))
        elif kind == 6:
            container[rng.choice(TEXTS)] = container[key]
        else:
            other, place = rng.choice(places)
            container[key] = copy.deepcopy(other[place]) if place in other or isinstance(other, list) else None
    return value


def json_bytes(rng, value):
    """A JSON value as a file would hold it: NaN and lone surrogates included, and at times another encoding."""
    text = json.dumps(value, ensure_ascii=rng.random() < 0.9, indent=rng.choice([None, None, 1]))
    encoding = rng.choice(["utf-8"] * 12 + ["utf-8-sig", "utf-16", "latin-1"])
    return text.encode(encoding, "surrogatepass" if encoding.startswith("utf") else "replace")


def mutate_bytes(rng, data, others=()):
    """Bytes cut short, flipped, overwritten, moved or joined with others."""
    data = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 2, 3, 8])):
        kind = rng.randrange(11)
        near_start = rng.random() < 0.5  # where headers are
        at = rng.randrange(min(len(data), 64) if near_start and data else len(data) + 1) if data else 0
        if kind == 0:
            del data[at:]
        elif kind == 1:
            del data[at : at + rng.choice([1, 2, 4, 16, 256])]
        elif kind == 2 and data:
            data[min(at, len(data) - 1)] ^= 1 << rng.randrange(8)
        elif kind == 3 and data:
            data[min(at, len(data) - 1)] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)])
        elif kind in (4, 5):
            form = rng.choice(["<H", ">H", "<I", ">I", "<Q"])
            top = 1 << 8 * struct.calcsize(form)
            number = rng.choice([0, 1, 2, top - 1, top // 2, top // 2 - 1, 10000, 65535, rng.randrange(top)]) % top
            data[at : at + struct.calcsize(form)] = struct.pack(form, number)
        elif kind == 6:
            data[at:at] = bytes([rng.choice([0, 0xFF, 0x20, 0x5B, 0x7B, rng.randrange(256)])]) * rng.choice(
                [1, 4, 5000]
            )
        elif kind == 7:
            end = at + rng.randrange(1, 200)
            place = rng.randrange(len(data) + 1)
            data[place:place] = data[at:end]
        elif kind == 8:
            data[at : at + 8] = rng.randbytes(8)
        elif kind == 9 and others:
            other = rng.choice(others)
            data[at:] = other[rng.randrange(len(other) + 1) :]
        elif kind == 10:
            data += rng.randbytes(rng.choice([1, 100]))
    return bytes(data)


def repair_png(data):
    """A damaged PNG with the checksums of its chunks made right, so that what reads them sees the damage."""
    out, at = bytearray(data[:8]), 8
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        body = data[at + 4 : at + 8 + length]
        if at + 12 + length > len(data):
            break
        out += data[at : at + 4] + body + zlib.crc32(body).to_bytes(4, "big")
        at += 12 + length
    return bytes(out + data[at:])

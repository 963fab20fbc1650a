#!/usr/bin/env python3
"""Whether a built library holds machine code of every device kernel for every architecture that was asked for.

    device_code.py LIBRARY ARCHITECTURES     e.g. device_code.py libdaug_cuda_kernels.a "80;90"

nvcc puts a fat binary into the object of each .cu file: a header of 16 bytes (magic number, version, its size, that of what
follows) and, with a header of the same kind each, PTX (kind 1) and machine code (kind 2) of one architecture after the other.
"""

import pathlib
import re
import struct
import sys

SOURCES = sorted((pathlib.Path(__file__).resolve().parents[2] / "src/kernels/cuda").glob("*.cu"))
MAGIC = struct.pack("<I", 0xBA55ED50)
KINDS = {1: "PTX", 2: "machine code"}


def contents(data):
    """Of each fat binary, (what, architecture) of all that is in it."""
    for found in re.finditer(re.escape(MAGIC), data):
        _, header, size = struct.unpack_from("<HHQ", data, found.start() + 4)
        at = found.start() + header
        end = at + size
        held = set()
        while at < end:
            kind, _, header, size = struct.unpack_from("<HHIQ", data, at)
            held.add((KINDS.get(kind, kind), struct.unpack_from("<I", data, at + 28)[0]))
            at += header + size
        yield held


def main(library, architectures):
    held = list(contents(pathlib.Path(library).read_bytes()))
    if len(held) != len(SOURCES):
        sys.exit(f"device_code.py: {library} has device code of {len(held)} files, src/kernels/cuda has {len(SOURCES)}")
    for architecture in architectures.split(";"):
        number = re.match("[0-9]+", architecture)
        if not number:
            print(f"skipped: '{architecture}' is no number of an architecture")
            sys.exit(77)
        wanted = ("PTX" if architecture.endswith("-virtual") else "machine code", int(number.group()))
        count = sum(wanted in one for one in held)
        print(f"{wanted[0]} for sm_{wanted[1]}: {count} of {len(held)} files")
        if count != len(held):
            sys.exit(f"device_code.py: {library} lacks {wanted[0]} for sm_{wanted[1]}")


if __name__ == "__main__":
    main(*sys.argv[1:])

#!/usr/bin/env python3
"""Writes mojibake_tables.inc: what tells text in a wrong encoding, from ftfy (pip install ftfy==6.3.1, Apache-2.0).

Usage: python3 make_mojibake_tables.py > mojibake_tables.inc

ftfy describes suspicious text by regular expressions that are alternatives of short sequences of character sets. A
character's kind says in which of the sets it is (kind 0: letters and numbers that no set names, 1: what else no set
names); a pattern is a sequence of numbers of sets.
"""
import re
import re._parser as parser
from importlib.metadata import version

import ftfy.badness
import ftfy.chardata
import ftfy.fixes

WIDTH = 120
LONGEST = 7


def contains(item, char):
    """Whether a node of a parsed expression that stands for one character accepts `char`."""
    kind, value = str(item[0]), item[1]
    code = ord(char)
    if kind == "LITERAL":
        return code == value
    if kind == "NOT_LITERAL":
        return code != value
    if kind == "ANY":
        return char != "\n"
    if kind == "RANGE":
        return value[0] <= code <= value[1]
    if kind == "CATEGORY":
        return re.match({"CATEGORY_SPACE": r"\s", "CATEGORY_WORD": r"\w"}[str(value)], char) is not None
    assert kind == "IN", kind
    negated = str(value[0][0]) == "NEGATE"
    return any(contains(one, char) for one in value[negated:]) != negated


def spelled(item):
    """The characters that a node of a parsed expression names, whether it accepts or refuses them."""
    kind, value = str(item[0]), item[1]
    if kind in ("LITERAL", "NOT_LITERAL"):
        return {chr(value)}
    if kind == "RANGE":
        return {chr(code) for code in range(value[0], value[1] + 1)}
    return set().union(*map(spelled, value)) if kind == "IN" else set()


def sequences(expression):
    """[at_start, [item of one character, ...]] of each alternative, in the order in which they are tried."""
    nodes = list(parser.parse(expression.pattern, expression.flags & ~re.UNICODE))
    alternatives = nodes[0][1][1] if str(nodes[0][0]) == "BRANCH" else [nodes]
    for alternative in alternatives:
        found = [[False, []]]
        for node in alternative:
            kind = str(node[0])
            if kind == "AT":
                found = [[True, items] for _, items in found]
            elif kind == "MAX_REPEAT":  # an optional character
                low, high, inner = node[1]
                assert (low, high, len(inner)) == (0, 1, 1)
                found = [[start, items + extra] for start, items in found for extra in ([inner[0]], [])]
            else:
                found = [[start, items + [node]] for start, items in found]
        yield from found


class Sets:
    """Numbers character sets, given by their members among `universe`, and finds the kind of each character."""

    def __init__(self, universe):
        self.universe = universe
        self.members = []

    def number(self, accepts):
        members = frozenset(char for char in self.universe if accepts(char))
        if members not in self.members:
            self.members.append(members)
        return self.members.index(members)

    def patterns(self, expression):
        for at_start, items in sequences(expression):
            numbers = [self.number(lambda char: contains(item, char)) for item in items]
            assert len(numbers) <= LONGEST
            yield at_start, numbers

    def mask(self, char):
        return sum(1 << bit for bit, members in enumerate(self.members) if char in members)


def emit(declaration, rows):
    print(f"constexpr {declaration} = {{")
    line = "   "
    for row in rows:
        if len(line) + len(row) + 2 > WIDTH:
            print(line)
            line = "   "
        line += f" {row},"
    print(line + "\n};")


def emit_patterns(name, patterns):
    rows = []
    for at_start, numbers in patterns:
        rows.append(f"{{{'true' if at_start else 'false'}, {len(numbers)}, {{{', '.join(map(str, numbers))}}}}}")
    emit(f"Pattern {name}[]", rows)


def emit_kinds(prefix, sets, codes):
    """Ranges of `codes` of one kind, and the sets of each kind. Kinds 0 and 1 are those of the last two of `universe`."""
    kinds = [sets.mask(char) for char in sets.universe[-2:]]
    ranges = []
    for code in codes:
        mask = sets.mask(chr(code))
        if mask not in kinds:
            kinds.append(mask)
        kind = kinds.index(mask)
        if ranges and ranges[-1][1] == code - 1 and ranges[-1][2] == kind:
            ranges[-1][1] = code
        else:
            ranges.append([code, code, kind])
    assert len(sets.members) <= 128 and len(kinds) <= 256
    emit(f"KindRange {prefix}Kinds[]", (f"{{{first}, {last}, {kind}}}" for first, last, kind in ranges))
    low = (1 << 64) - 1
    emit(f"Sets {prefix}Sets[]", (f"{{{{0x{mask & low:x}, 0x{mask >> 64:x}}}}}" for mask in kinds))


def main():
    print(f"// Written by make_mojibake_tables.py from ftfy {version('ftfy')} (Robyn Speer, Apache-2.0). clang-format off")
    data = ftfy.chardata
    badness = ftfy.badness.BADNESS_RE
    # Characters that some set names; all others differ by being a letter or number or not.
    named = {chr(code) for code in range(128)} | {chr(code) for code in range(0x10000) if chr(code).isspace()}
    for _, items in sequences(badness):
        named |= {char for item in items for char in spelled(item)}
    clues = {name: parser.parse(f"[{text}]")[0] for name, text in data.UTF8_CLUES.items()}
    named |= {char for item in clues.values() for char in spelled(item)}
    letter, other = "\u4e2d", "\u2603"
    assert letter not in named and other not in named
    sets = Sets(sorted(named) + [letter, other])
    emit_patterns("kBadness", list(sets.patterns(badness)))
    for name, item in clues.items():
        constant = "k" + "".join(part.capitalize() for part in name.split("_"))
        print(f"constexpr unsigned {constant} = {sets.number(lambda char: contains(item, char))};")
    emit_kinds("kCode", sets, sorted(map(ord, named)))

    octets = Sets([chr(code) for code in range(256)])
    emit_patterns("kSpaceForA0", list(octets.patterns(data.ALTERED_UTF8_RE)))
    emit_patterns("kLossy", list(octets.patterns(data.LOSSY_UTF8_RE)))
    emit_kinds("kByte", octets, range(256))

    for encoding in data.CHARMAP_ENCODINGS:
        # Byte 0x1A too: sloppy encodings have U+FFFD there.
        pairs = sorted(map(ord, bytes([0x1A, *range(128, 256)]).decode(encoding)))
        constant = "k" + encoding.title().replace("-", "")
        emit(f"EncodedCode {constant}[]", (f"{{{code}, {chr(code).encode(encoding)[0]}}}" for code in pairs))
    names = ["k" + encoding.title().replace("-", "") for encoding in data.CHARMAP_ENCODINGS]
    emit("Encoding kEncodings[]", (f"{{{name}, std::size({name}), {str('sloppy' in encoding).lower()}, "
                                   f"{str(encoding != 'macroman').lower()}}}"
                                   for name, encoding in zip(names, data.CHARMAP_ENCODINGS)))


main()

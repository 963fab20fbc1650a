#!/usr/bin/env python3
"""Writes unicode_tables.inc: the Unicode properties the tokenizer needs, as compact sorted tables.

Usage: python3 make_unicode_tables.py > unicode_tables.inc   (the result depends on Python's Unicode version)
"""
import html.entities
import unicodedata

EVERY = range(0x110000)


def ranges(value):
    """Maximal [first, last, value] runs of a truthy property."""
    runs = []
    current = None
    for code in EVERY:
        now = value(code)
        if current and now == current[2]:
            current[1] = code
        else:
            if current:
                runs.append(current)
            current = [code, code, now] if now else None
    return runs + ([current] if current else [])


def lower_runs():
    """[first, last, stride, delta] runs of code points whose lower case is one other code point."""
    runs = []
    for code in EVERY:
        lower = chr(code).lower()
        if len(lower) != 1 or ord(lower) == code:
            continue
        delta = ord(lower) - code
        if runs:
            first, last, stride, run_delta = runs[-1]
            if run_delta == delta and code - last in (1, 2) and stride in (0, code - last):
                runs[-1] = [first, code, code - last, delta]
                continue
        runs.append([code, code, 0, delta])
    return [[first, last, stride or 1, delta] for first, last, stride, delta in runs]


def cased(code):
    """"true" for a cased character, "false" for a case-ignorable one, also if cased, else None: what str.lower() takes for
    the word before a capital sigma, and what it looks past."""
    final = lambda before: (before + "\u03a3").lower()[-1] == "\u03c2"
    return "true" if final(chr(code)) else "false" if final("A" + chr(code)) else None


def decompositions():
    for code in EVERY:
        parts = unicodedata.decomposition(chr(code)).split()
        if parts and not parts[0].startswith("<"):
            composes = len(parts) == 2 and unicodedata.normalize("NFC", chr(code)) == chr(code)
            yield code, int(parts[0], 16), int(parts[1], 16) if len(parts) == 2 else 0, composes


def entities():
    """Every name of HTML 5 without its semicolon, and whether it does without one."""
    for name in sorted({name.rstrip(";") for name in html.entities.html5}):
        text = html.entities.html5[name + ";"]
        yield name, ord(text[0]), ord(text[1]) if len(text) == 2 else 0, name in html.entities.html5


def upper():
    """Upper case, up to three characters, of the characters beyond ASCII that names in lower case stand for."""
    lower = {char for name, text in html.entities.html5.items() if name == name.lower() for char in text}
    for char in sorted(lower):
        if ord(char) >= 128 and char.upper() != char:
            yield ord(char), [ord(part) for part in char.upper()]


def widths():
    """What half-width forms and further full-width symbols, U+FF5F to U+FFEE, are otherwise; 0: the same."""
    for code in range(0xFF5F, 0xFFEF):
        text = unicodedata.normalize("NFKC", chr(code))
        yield ord(text) if len(text) == 1 and text != chr(code) else 0


def emit(declaration, rows):
    print(f"constexpr {declaration}[] = {{")
    line = "   "
    for row in rows:
        item = f" {row}," if isinstance(row, str) else " {" + ", ".join(row) + "},"
        if len(line) + len(item) > 120:
            print(line)
            line = "   "
        line += item
    print(line + "\n};")


def main():
    number = lambda value: str(value)
    flag = lambda value: "true" if value else "false"
    print(f"// Written by make_unicode_tables.py from Unicode {unicodedata.unidata_version}. clang-format off")
    letter = ranges(lambda code: unicodedata.category(chr(code))[0] == "L")
    numeral = ranges(lambda code: unicodedata.category(chr(code))[0] == "N")
    emit("CodeRange kLetters", ([number(a), number(b)] for a, b, _ in letter))
    emit("CodeRange kNumbers", ([number(a), number(b)] for a, b, _ in numeral))
    emit("LowerRun kLower", ([number(value) for value in run] for run in lower_runs()))
    emit("CaseRange kCases", ([number(a), number(b), role] for a, b, role in ranges(cased)))
    combining = ranges(lambda code: unicodedata.combining(chr(code)))
    emit("CombiningRange kCombining", ([number(value) for value in run] for run in combining))
    emit("Decomposition kDecompositions",
         ([number(code), number(a), number(b), flag(composes)] for code, a, b, composes in decompositions()))
    emit("Entity kEntities", ([f'"{name}"', number(code), number(second), flag(bare)]
                              for name, code, second, bare in entities()))
    emit("UpperCase kUpper", ([number(code), "{" + ", ".join(map(number, parts)) + "}"] for code, parts in upper()))
    emit("char16_t kWidths", (number(code) for code in widths()))


main()

"""Compares two JSON files: everything equal, numbers within 1e-12 relative, since libraries of mathematical functions
differ in the last bit.

    same_json.py EXPECTED FOUND
"""

import json
import math
import sys


def differences(expected, found, path="$"):
    both = type(expected), type(found)
    if both == (dict, dict) and expected.keys() == found.keys():
        for key in expected:
            yield from differences(expected[key], found[key], f"{path}.{key}")
    elif both == (list, list) and len(expected) == len(found):
        for index, pair in enumerate(zip(expected, found)):
            yield from differences(*pair, f"{path}[{index}]")
    elif float in both and set(both) <= {int, float}:
        if not math.isclose(expected, found, rel_tol=1e-12, abs_tol=1e-15):
            yield f"{path}: {expected!r} became {found!r}"
    elif both[0] != both[1] or expected != found:
        yield f"{path}: {str(expected)[:80]} became {str(found)[:80]}"


def main():
    expected, found = (json.load(open(path, encoding="utf-8")) for path in sys.argv[1:3])
    lines = list(differences(expected, found))
    for line in lines[:20]:
        print(line, file=sys.stderr)
    if lines:
        sys.exit(f"{len(lines)} differences between {sys.argv[1]} and {sys.argv[2]}")
    print(f"{sys.argv[1]}: as its script makes it")


if __name__ == "__main__":
    main()

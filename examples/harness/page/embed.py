#!/usr/bin/env python3
"""Makes C++ of a page: its HTML with the style sheet and the scripts that it names put in their places.

Arguments: the source to write, the HTML, then the other files. In the HTML, a line of `@name@` stands for the file of
that name. The source defines what harness/memory_report_page.hpp declares.
"""

import pathlib
import sys


def main():
    source, page, *parts = map(pathlib.Path, sys.argv[1:])
    text = page.read_text(encoding="utf-8")
    for part in parts:
        placeholder = f"@{part.name}@"
        assert text.count(placeholder) == 1, f"{page} should name {placeholder} once"
        text = text.replace(placeholder, part.read_text(encoding="utf-8").strip())
    source.write_text(f'#include "examples/harness/{page.stem}_page.hpp"\n\nnamespace palimpsest::harness {{\n\n'
                      f'const std::string_view {page.stem}_page = R"page({text})page";\n\n}}\n', encoding="utf-8")


if __name__ == "__main__":
    main()

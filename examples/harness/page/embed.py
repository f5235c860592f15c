#!/usr/bin/env python3
"""Makes a C++ header of a page: its HTML with the style sheet and the scripts that it names put in their places.

Arguments: the header to write, the HTML, then the other files. In the HTML, a line of `@name@` stands for the file of
that name. The header has the page as a string_view named after the HTML file.
"""

import pathlib
import sys


def main():
    header, page, *parts = map(pathlib.Path, sys.argv[1:])
    text = page.read_text(encoding="utf-8")
    for part in parts:
        placeholder = f"@{part.name}@"
        assert text.count(placeholder) == 1, f"{page} should name {placeholder} once"
        text = text.replace(placeholder, part.read_text(encoding="utf-8").strip())
    header.write_text(f"#pragma once\n\n#include <string_view>\n\nnamespace palimpsest::harness {{\n\n"
                      f'inline constexpr std::string_view {page.stem}_page = R"page({text})page";\n\n}}\n', encoding="utf-8")


if __name__ == "__main__":
    main()

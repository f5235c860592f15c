#!/usr/bin/env python3
"""Makes C++ of a page: its HTML with the style sheet and the scripts that it names put in their places.

Arguments: the source to write, the HTML, then the other files. In the HTML, a line of `@name@` stands for the file of
that name. The source defines the string that the page's source declares, memory_page.cpp or run_page.cpp.
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
    name = f"{page.stem}_template"
    source.write_text(f'#include <string_view>\n\nnamespace palimpsest::reports {{\n\n'
                      f'extern const std::string_view {name};\n'
                      f'const std::string_view {name} = R"page({text})page";\n\n}}\n', encoding="utf-8")


if __name__ == "__main__":
    main()

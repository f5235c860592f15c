#!/usr/bin/env python3
"""Measures of the sources: functions, files, comments, includes.

usage: measures.py [--comments] [FOLDER]

Prints a table about the sources that git knows in FOLDER (this one). With --comments it lists the comment sentences that
do not begin with their subject instead, and fails if there are any.
"""

import collections
import pathlib
import re
import statistics
import subprocess
import sys

NOT_A_SUBJECT = r"(?:What|Where|Who|Whether|Of|Which|Whoever|Whatever)\b"
NOT_THE_LIBRARY = {"tests", "bench", "examples"}


def sources(root):
    """The texts of all sources by their paths."""
    listed = subprocess.run(["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.cpp", "*.hpp", "*.cu"],
                            cwd=root, capture_output=True, text=True, check=True).stdout.split()
    return {path: (root / path).read_text(encoding="utf-8") for path in listed if (root / path).exists()}


def comment_blocks(text):
    """(first line, sentences' text) of every comment; lines that follow one another are one comment."""
    block, start = [], 0
    for number, line in enumerate([*text.split("\n"), ""], 1):
        found = re.search(r"(?:^|\s)//[/<!]*\s?(.*)$", line)
        alone = line.lstrip().startswith("//")
        if block and not (found and alone):
            yield start, block
            block = []
        if found:
            start = start if block else number
            block.append(found.group(1))


def inverted_comments(texts):
    """Comment sentences that begin with What, Where, Who, Whether, Of or Which: `path:line: text`."""
    found = []
    for path, text in texts.items():
        for start, block in comment_blocks(text):
            for sentence in re.finditer(rf"(?:^(?:- )?|[.:?]\s|\n- ){NOT_A_SUBJECT}", "\n".join(block)):
                line = "\n".join(block)[:sentence.end()].count("\n")
                found.append(f"{path}:{start + line}: {block[line].strip()}")
    return found


def code_of(text):
    """The text with comments, literals and preprocessor lines blanked out, every line and column where it was."""
    blank = lambda match: re.sub(r"[^\n]", " ", match.group())
    pattern = r'//[^\n]*|/\*.*?\*/|R"\((?:.*?)\)"|"(?:\\.|[^"\\\n])*"|(?<![0-9a-fA-F])\'(?:\\.|[^\'\\\n])\''
    text = re.sub(pattern, blank, text, flags=re.S)
    return re.sub(r"^[ \t]*#(?:[^\n]*\\\n)*[^\n]*", blank, text, flags=re.M)


def scope_of(head, outer):
    """What a brace opens after the text `head` in a scope of the kind `outer`."""
    if outer not in ("namespace", "class"):
        return "body"
    if re.search(r"\bnamespace\b[^()]*$|extern\s*$", head):
        return "namespace"
    if re.search(r"\b(class|struct|union)\b[^()=]*$", head) and not re.search(r"\)[^()]*$", head.split("class")[0]):
        return "class"
    if re.search(r"\benum\b", head):
        return "enum"
    if re.search(r"\)[^()=]*:(?!:)[^{}]*[\w>]\s*$", head):
        return "member"  # of a constructor's list: the head goes on behind it
    if "(" in head and not re.search(r"=\s*$", head):
        return "function"
    return "value"


def declarations(text):
    """(kind, first line, last line, scope is public) of functions with a body, types and other declarations outside of
    functions; kind is function, class, enum or declaration."""
    code = code_of(text)
    stack, begins, line, head = [("namespace", 0, True)], 0, 1, ""
    for character in code:
        line += character == "\n"
        kind, _, public = stack[-1]
        if character == "{":
            opened = scope_of(head, kind)
            if opened in ("class", "enum"):
                yield opened, begins, line, public
            inner = public if opened != "class" else not re.search(r"\bclass\b", head)
            stack.append((opened, begins, inner))
            if opened not in ("member", "value", "body"):
                head = ""
        elif character == "}" and len(stack) > 1:
            closed, begun, _ = stack.pop()
            if closed == "function":
                yield closed, begun, line, stack[-1][2]
            if closed in ("function", "namespace"):
                head = ""
            elif closed in ("class", "enum"):
                head = "}"
        elif character == ";" and kind in ("namespace", "class"):
            declared = head.strip()
            if declared and not declared.startswith("}") and not re.match(r"(using|friend|template|static_assert)\b|(class|struct) \w+$", declared):
                yield "declaration", begins, line, public
            head = ""
        elif kind in ("namespace", "class"):
            if not head.strip() and not character.isspace():
                head, begins = "", line
            head += character
            access = re.fullmatch(r"\s*(public|private|protected)\s*:", head)
            if access and kind == "class":
                stack[-1] = (kind, stack[-1][1], access.group(1) == "public")
                head = ""


def documented(texts):
    """Shares of the public declarations of headers that have a comment, alone and with those of their group."""
    total = alone = grouped = 0
    for path, text in texts.items():
        lines = text.split("\n")
        marked = set()  # last lines of documented declarations
        for _, first, last, public in sorted(declarations(text), key=lambda found: found[1]):
            if not public or not path.endswith(".hpp"):
                continue
            before = lines[first - 2].strip() if first > 1 else ""
            if before.startswith("template"):
                before = lines[first - 3].strip()
            total += 1
            has_comment = before.startswith("//") or "//" in lines[first - 1]
            alone += has_comment
            if has_comment or first - 1 in marked:
                grouped += 1
                marked.add(last)
    return alone / total, grouped / total


def include_cycles(texts):
    """Circles of headers that include one another, each as its paths."""
    graph = {path: [header for header in re.findall(r'#include\s+[<"](?:palimpsest/)?([^>"]+)', text) if header in texts]
             for path, text in texts.items()}
    done, cycles = set(), []

    def visit(path, way):
        if path in way:
            cycles.append(way[way.index(path):])
        elif path not in done:
            for header in graph[path]:
                visit(header, [*way, path])
            done.add(path)

    for path in graph:
        visit(path, [])
    return cycles


def installed_headers(root):
    text = "\n".join(path.read_text() for path in root.glob("*/meson.build"))
    return sum(len(re.findall(r"\.hpp'", call)) for call in re.findall(r"install_headers\((.*?)\)", text, flags=re.S))


def table(root):
    texts = sources(root)
    rooms = collections.defaultdict(list)
    for path, text in texts.items():
        rooms[path.split("/")[0]].append(text.count("\n"))
    library = {path: text for path, text in texts.items() if path.split("/")[0] not in NOT_THE_LIBRARY}
    sizes = sorted(last - first + 1 for text in library.values()
                   for kind, first, last, _ in declarations(text) if kind == "function")
    alone, grouped = documented(library)
    yield "functions of the library", len(sizes)
    yield "lines of one: median, p90, max", f"{statistics.median(sizes):.0f}, {sizes[len(sizes) * 9 // 10]}, {sizes[-1]}"
    yield "friend declarations", sum(len(re.findall(r"\bfriend\b", code_of(text))) for text in library.values())
    yield "headers installed", installed_headers(root)
    yield "public declarations documented, with groups", f"{alone:.0%}, {grouped:.0%}"
    yield "comment sentences not beginning with their subject", len(inverted_comments(texts))
    yield "include cycles", len(include_cycles(texts))
    for room, lines in sorted(rooms.items()):
        yield f"{room}: files, lines", f"{len(lines)}, {sum(lines):,}"
    yield "lines without tests and bench", f"{sum(sum(rooms[room]) for room in rooms if room not in ('tests', 'bench')):,}"


def main():
    words = sys.argv[1:]
    folders = [word for word in words if word != "--comments"]
    if len(folders) > 1 or any(word.startswith("-") for word in folders):
        print(__doc__, file=sys.stderr)
        return 2
    root = pathlib.Path(folders[0] if folders else ".")
    if "--comments" in words:
        found = inverted_comments(sources(root))
        print(*found, sep="\n", end="\n" if found else "")
        return 1 if found else 0
    for name, value in table(root):
        print(f"| {name} | {value} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())

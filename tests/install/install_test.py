#!/usr/bin/env python3
"""The library as a program outside of the tree has it: installed, moved, and found again.

usage: install_test.py KIND COMPILER SOURCE BUILD

KIND: headers     every installed header compiles alone, and none of the library's inside is among them
      pkg-config  examples/own_model.cpp, copied, is built with its flags and runs
      cmake       the same by find_package
      subproject  the same as a Meson project that has the sources as a subproject
SOURCE and BUILD are the library's folders. The program runs under every policy and a budget: with one digest, with the
peak that was predicted, and with a page of its memory. Headers of the same names as the library's, but the program's own, come first
on every include path. Skipped (status 77) where the compiler or CMake is missing.
"""

import concurrent.futures
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

POLICIES = ["store-all", "shared", "checkpoint", "reversible", "checkpoint+shared", "reversible+shared", "offload",
            "budget=40MiB"]
WARNINGS = ["-Wall", "-Wextra", "-Wpedantic", "-Werror"]
INSIDE = {"engine", "kernels", "cpu", "cuda"}  # folders of what is not for programs


def run(command, **how):
    """The standard output of a command, which must succeed."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False, **how)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout[-4000:]}{done.stderr[-4000:]}"
    return done.stdout


def install(build, folder):
    """Installs into a folder of its own, which is then moved: the prefix that its files lie under."""
    options = json.loads(run(["meson", "introspect", "--buildoptions", build]))
    prefix = next(option["value"] for option in options if option["name"] == "prefix")
    run(["meson", "install", "-C", build, "--no-rebuild", "--quiet", "--destdir", folder / "staged"])
    return (folder / "staged" / prefix.lstrip("/")).rename(folder / "moved")


def headers_of(root):
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*.hpp"))


def own_headers(names, folder):
    """Headers of the program's own that are called like the library's inside of its room."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("#error the program's own header instead of the library's\n")
    return folder


def check_headers(compiler, prefix, own):
    names = headers_of(prefix / "include" / "palimpsest")
    assert len(names) > 40, names
    inside = [name for name in names if INSIDE & set(name.split("/"))]
    assert not inside, f"installed, but not for programs: {inside}"

    def compile_alone(name):
        run([compiler, "-std=c++20", *WARNINGS, "-fsyntax-only", f"-I{own}", f"-I{prefix / 'include'}", "-x", "c++", "-"],
            input=f"#include <palimpsest/{name}>\n")

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        list(pool.map(compile_alone, names))
    return f"{len(names)} headers"


def check_program(command, folder, **how):
    """A few steps under every policy."""
    digests = set()
    for policy in POLICIES:
        page = folder / "page.html"
        said = run([command, "--images", "16", "--batch-size", "8", "--epochs", "1", "--memory", policy, "--page", page],
                   **how)
        predicted = re.search(r"will need ([\d.]+ MiB)", said).group(1)
        measured = re.search(r"peak memory +([\d.]+ MiB)", said).group(1)
        assert predicted == measured, f"under {policy}: {predicted} predicted, {measured} measured"
        digests.add(re.search(r"state digest +(\w+)", said).group(1))
        assert "</html>" in page.read_text(encoding="utf-8"), "no page"
        page.unlink()
    assert len(digests) == 1, f"policies differ: {digests}"
    return f"{len(POLICIES)} policies, digest {digests.pop()}"


def by_pkg_config(compiler, prefix, own, program, folder):
    library = next(prefix.rglob("palimpsest.pc")).parent
    environment = {**os.environ, "PKG_CONFIG_PATH": str(library)}
    flags = run(["pkg-config", "--cflags", "palimpsest"], env=environment).split()
    assert all(flag.startswith("-I") for flag in flags), f"more than include paths in {flags}"
    links = run(["pkg-config", "--libs", "palimpsest"], env=environment).split()
    built = folder / "program"
    run([compiler, "-std=c++20", *WARNINGS, f"-I{own}", *flags, program, "-o", built, *links])
    return check_program(built, folder, env={**os.environ, "LD_LIBRARY_PATH": str(library.parent)})


def by_cmake(compiler, prefix, own, program, folder):
    if not shutil.which("cmake"):
        sys.exit(77)
    (folder / "CMakeLists.txt").write_text(f"""cmake_minimum_required(VERSION 3.16)
project(program LANGUAGES CXX)
find_package(palimpsest 0.1 REQUIRED)
add_executable(program "{program}")
target_include_directories(program PRIVATE "{own}")
target_link_libraries(program PRIVATE palimpsest::palimpsest)
""")
    run(["cmake", "-S", folder, "-B", folder / "built", "-G", "Ninja", f"-DCMAKE_CXX_COMPILER={compiler}",
         f"-DCMAKE_CXX_FLAGS={' '.join(WARNINGS)}", f"-DCMAKE_PREFIX_PATH={prefix}"])
    run(["cmake", "--build", folder / "built"])
    return check_program(folder / "built" / "program", folder)


def as_subproject(compiler, source, own, folder):
    """Unoptimised and for the baseline alone: what is asked is whether it builds."""
    (folder / "subprojects").mkdir()
    (folder / "subprojects" / "palimpsest").symlink_to(source)
    own.rename(folder / "own")
    (folder / "meson.build").write_text(f"""project('program', 'cpp', default_options: ['cpp_std=c++20'])
executable('program', 'program.cpp', include_directories: 'own', cpp_args: {WARNINGS},
  dependencies: dependency('palimpsest', version: '>=0.1'))
""")
    run(["meson", "setup", folder / "built", folder, "--wrap-mode=forcefallback", "-Dpalimpsest:cuda=disabled",
         "-Dpalimpsest:instruction_sets=baseline", "-Dbuildtype=plain"],
        env={**os.environ, "CXX": compiler if not shutil.which("ccache") else f"ccache {compiler}"})
    targets = json.loads(run(["meson", "introspect", "--targets", folder / "built"]))
    names = {target["name"] for target in targets if target["type"] != "custom"}
    assert names == {"program", "palimpsest", "kernels_generic"}, f"more than the library is built: {names}"
    run(["ninja", "-C", folder / "built"])
    return check_program(folder / "built" / "program", folder)


def main():
    kind, compiler = sys.argv[1:3]
    source, build = map(pathlib.Path, sys.argv[3:5])
    if not shutil.which(compiler):
        print(f"no {compiler}")
        return 77
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        prefix = install(build, folder)
        own = own_headers(headers_of(prefix / "include" / "palimpsest"), folder / "own")
        if kind == "headers":
            print(check_headers(compiler, prefix, own))
            return 0
        room = folder / "program"
        room.mkdir()
        program = shutil.copy(source / "examples" / "own_model.cpp", room / "program.cpp")
        if kind == "subproject":
            print(as_subproject(compiler, source, own, room))
        else:
            print({"pkg-config": by_pkg_config, "cmake": by_cmake}[kind](compiler, prefix, own, program, room))
    return 0


if __name__ == "__main__":
    sys.exit(main())

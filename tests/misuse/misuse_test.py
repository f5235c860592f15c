#!/usr/bin/env python3
"""Programs that must not compile, and what the compiler has to say about them: the first error is a line that a user
can act on.

usage: misuse_test.py INCLUDE_FOLDER COMPILER..."""

import subprocess
import sys

PROGRAMS = {
    'elements of a type that tensors do not have': ('''
#include <palimpsest/autograd/tensor.hpp>
void f() { palimpsest::Tensor::from_vector<std::int64_t>({2}, {0, 3}); }
''', 'convert others first, labels to std::int32_t'),
    'reading them': ('''
#include <palimpsest/autograd/tensor.hpp>
auto f(const palimpsest::Tensor& x) { return x.to_vector<std::int64_t>(); }
''', 'convert others first, labels to std::int32_t'),
    'layers in a vector': ('''
#include <vector>
#include <palimpsest/nn/layers.hpp>
void f(palimpsest::nn::Init& init) {
  std::vector<palimpsest::nn::Linear> layers;
  layers.emplace_back(init, 2, 3);
}
''', 'keep several in a std::deque'),
    'a model that is moved': ('''
#include <utility>
#include <palimpsest/nn/models/densenet.hpp>
palimpsest::nn::DenseNet f(palimpsest::nn::DenseNet& net) { return std::move(net); }
''', 'keep several in a std::deque'),
    'layers in a deque': ('''
#include <deque>
#include <palimpsest/nn/layers.hpp>
void f(palimpsest::nn::Init& init) {
  std::deque<palimpsest::nn::Linear> layers;
  layers.emplace_back(init, 2, 3);
}
''', None),
}


def main() -> int:
    include, compiler = sys.argv[1], sys.argv[2:]
    failed = 0
    for name, (program, expected) in PROGRAMS.items():
        run = subprocess.run([*compiler, '-std=c++20', '-fsyntax-only', '-I' + include, '-x', 'c++', '-'], input=program,
                             capture_output=True, text=True, check=False)
        errors = [line for line in run.stderr.splitlines() if 'error:' in line]
        right = run.returncode == 0 if expected is None else bool(errors) and expected in errors[0]
        if not right:
            failed += 1
            print(f'{name}: expected {expected}, got\n{run.stderr}')
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())

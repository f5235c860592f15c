// Prints how much of a RevNet's streams comes back under `reversible` in float32, as a Markdown table by stage, without
// a grid and with one.
//
//   reversal_drift [DEPTH [BATCH_SIZE [STEPS]]]     by default 110, 100 and 1

#include <cstdio>
#include <cstdlib>
#include <exception>
#include <iostream>
#include <string>
#include <vector>

#include "tests/support/reversal_drift.hpp"

namespace {

using namespace palimpsest;

void print_rows(nn::ResidualOptions spec, std::optional<int> grid, std::int64_t batch, int steps) {
  spec.grid = grid;
  const std::vector<test::StageDrift> stages = test::reversal_drift(spec, batch, 32, steps);
  const std::string name = grid ? "`--grid " + std::to_string(*grid) + "`" : "no grid";
  for (std::size_t s = 0; s < stages.size(); ++s) {
    std::printf("| %s | %zu | %.4f | %.2g |\n", name.c_str(), s + 1, stages[s].same_fraction(),
                stages[s].largest_error);
  }
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const auto number = [&](int i, int otherwise) { return i < argc ? std::stoi(argv[i]) : otherwise; };
    const nn::ResidualOptions spec = nn::RevNet::cifar(number(1, 110));
    std::puts("| | stage | elements back to the bit | largest relative error |\n|---|---:|---:|---:|");
    for (const std::optional<int> grid : {std::optional<int>(), std::optional<int>(16)}) {
      print_rows(spec, grid, number(2, 100), number(3, 1));
    }
    return EXIT_SUCCESS;
  } catch (const std::exception& error) {
    std::cerr << "reversal_drift: " << error.what() << '\n';
    return EXIT_FAILURE;
  }
}

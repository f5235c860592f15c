// Cases of reversible couplings and of rounding to a grid.

#include <cmath>
#include <limits>
#include <optional>

#include <palimpsest/ops/add.hpp>
#include <palimpsest/ops/couple.hpp>
#include "tests/support/op_case_support.hpp"

namespace palimpsest::test {
namespace {

double on_grid(double value, int grid) { return std::ldexp(std::nearbyint(std::ldexp(value, grid)), -grid); }

OpCase couple_case(const std::string& name, const Shape& shape, std::optional<int> grid) {
  OpCase made;
  made.name = "couple_" + name;
  made.inputs = {{shape}, {shape}};
  made.run = [=](Tensors in) { return std::vector{ops::couple(in[0], in[1], grid)}; };
  made.reference = [=](Arrays in) {
    const auto rounded = [&](double value) { return grid ? on_grid(value, *grid) : value; };
    return std::vector{sum_of(in[0], map_values(in[1], rounded))};
  };
  made.exact_on_integers = true;
  if (!grid) return made;
  made.inputs[0].fill = multiples_of(std::ldexp(1, -*grid));
  made.inputs[1].fill = multiples_of(std::ldexp(1, -*grid - 2));  // ties among them
  made.straight_through = [](Tensors in) { return std::vector{ops::add(in[0], in[1])}; };
  return made;
}

OpCase round_case(const std::string& name, const Shape& shape, int grid) {
  OpCase made;
  made.name = "round_to_grid_" + name;
  made.inputs = {{shape, multiples_of(std::ldexp(1, -grid - 2))}};
  made.run = [=](Tensors in) { return std::vector{ops::round_to_grid(in[0], grid)}; };
  made.reference = [=](Arrays in) {
    return std::vector{map_values(in[0], [=](double value) { return on_grid(value, grid); })};
  };
  made.straight_through = [](Tensors in) { return std::vector{in[0]}; };
  made.exact_on_integers = true;
  return made;
}

void add_couple_and_round_cases(std::vector<OpCase>& cases) {
  cases.push_back(couple_case("one_element", {1, 1, 1, 1}, std::nullopt));
  cases.push_back(couple_case("image", {2, 3, 5, 7}, std::nullopt));
  cases.push_back(couple_case("large", {5, 17, 29, 31}, std::nullopt));
  cases.push_back(couple_case("on_grid_0", {13}, 0));
  cases.push_back(couple_case("on_grid_16", {2, 3, 5, 7}, 16));
  cases.push_back(couple_case("on_grid_large", {5, 17, 29, 31}, 12));
  cases.push_back(round_case("0", {13}, 0));
  cases.push_back(round_case("16", {2, 3, 5, 7}, 16));
  cases.push_back(round_case("large", {5, 17, 29, 31}, 12));
}

void add_bad_couple(std::vector<BadCall>& calls) {
  add_bad<ShapeError>(calls, "couple_shapes", "[couple] input 1 is (2, 4), expected (2, 3)", [] {
    ops::couple(leaf({2, 3}), leaf({2, 4}));
  });
  add_bad<ValueError>(calls, "couple_negative_grid", "[couple] grid is -1, expected 0 to 23 for float32", [] {
    ops::couple(leaf({2, 3}), leaf({2, 3}), -1);
  });
  add_bad<ValueError>(calls, "couple_grid_finer_than_float32", "[couple] grid is 24, expected 0 to 23 for float32", [] {
    ops::couple(leaf({2, 3}), leaf({2, 3}), 24);
  });
  add_bad<ValueError>(calls, "couple_grid_finer_than_float64", "[couple] grid is 53, expected 0 to 52 for float64", [] {
    ops::couple(leaf({2, 3}, Dtype::Float64), leaf({2, 3}, Dtype::Float64), 53);
  });
  add_bad<ValueError>(calls, "couple_of_a_stream_off_the_grid",
                      "[couple] input 0 is not on the grid 2^-4: it holds 0.3", [] {
                        ops::couple(filled({2, 3}, 0.3).requires_grad(), filled({2, 3}, 1), 4);
                      });
  add_bad<ValueError>(calls, "round_to_grid_negative_grid", "[round_to_grid] grid is -1", [] {
    ops::round_to_grid(leaf({2, 3}), -1);
  });
}

/// batch_norm of x with parameters and running statistics of these sizes and types.

}  // namespace

void add_couple_cases(std::vector<OpCase>& cases) { add_couple_and_round_cases(cases); }

void add_bad_couplings(std::vector<BadCall>& calls) { add_bad_couple(calls); }

}  // namespace palimpsest::test

// Cases of convolutions and linear layers.

#include <palimpsest/ops/conv2d.hpp>
#include <palimpsest/ops/linear.hpp>
#include "tests/support/op_case_support.hpp"

namespace palimpsest::test {
namespace {

double naive_conv2d_pixel(const Array& x, const Array& weight, std::int64_t n, std::int64_t k, std::int64_t top,
                          std::int64_t left) {
  double sum = 0;
  for (std::int64_t c = 0; c < x.shape.c(); ++c) {
    for (std::int64_t r = 0; r < weight.shape.h(); ++r) {
      for (std::int64_t s = 0; s < weight.shape.w(); ++s) {
        const std::int64_t h = top + r;
        const std::int64_t w = left + s;
        const bool inside = h >= 0 && h < x.shape.h() && w >= 0 && w < x.shape.w();
        if (inside) sum += x.at(n, c, h, w) * weight.at(k, c, r, s);
      }
    }
  }
  return sum;
}

Array naive_conv2d(const Array& x, const Array& weight, const ops::Conv2dOptions& spec) {
  const ops::Padding& pad = spec.padding;
  const std::int64_t height = (x.shape.h() + pad.top + pad.bottom - weight.shape.h()) / spec.stride + 1;
  const std::int64_t width = (x.shape.w() + pad.left + pad.right - weight.shape.w()) / spec.stride + 1;
  return map(array_of({x.shape.n(), weight.shape.n(), height, width}),
             [&](double, std::int64_t n, std::int64_t k, std::int64_t h, std::int64_t w) {
               return naive_conv2d_pixel(x, weight, n, k, h * spec.stride - pad.top, w * spec.stride - pad.left);
             });
}

OpCase conv2d_case(const std::string& name, const Shape& x, const Shape& weight, const ops::Conv2dOptions& spec) {
  OpCase made;
  made.name = "conv2d_" + name;
  made.inputs = {{x}, {weight}};
  made.run = [=](Tensors in) { return std::vector{ops::conv2d(in[0], in[1], spec)}; };
  made.image_by_image = [=](Tensors in) {
    return std::vector{ops::conv2d(in[0], in[1], {spec.stride, spec.padding, {.column_bytes = 1}})};
  };
  made.reference = [=](Arrays in) { return std::vector{naive_conv2d(in[0], in[1], spec)}; };
  made.exact_on_integers = true;
  return made;
}

void add_conv2d_cases(std::vector<OpCase>& cases) {
  const auto all = ops::Padding::all;
  const std::vector<OpCase> list = {
      conv2d_case("one_element", {1, 1, 1, 1}, {1, 1, 1, 1}, {}),
      conv2d_case("1x1", {3, 5, 4, 7}, {7, 5, 1, 1}, {}),
      conv2d_case("1x1_stride_2", {2, 3, 5, 7}, {4, 3, 1, 1}, {2, {}}),
      conv2d_case("1x1_stride_3_padded", {2, 3, 5, 7}, {4, 3, 1, 1}, {3, all(1)}),
      conv2d_case("3x3", {2, 3, 5, 7}, {4, 3, 3, 3}, {1, all(1)}),
      conv2d_case("3x3_unpadded_primes", {1, 7, 11, 5}, {13, 7, 3, 3}, {}),
      conv2d_case("3x3_stride_2_same", {2, 3, 6, 8}, {4, 3, 3, 3}, {2, {0, 0, 1, 1}}),
      conv2d_case("3x3_stride_3", {2, 4, 10, 7}, {5, 4, 3, 3}, {3, all(1)}),
      conv2d_case("3x3_padding_all_different", {2, 3, 4, 5}, {5, 3, 3, 3}, {1, {2, 1, 0, 3}}),
      conv2d_case("3x3_padding_larger_than_needed", {1, 3, 3, 4}, {4, 3, 3, 3}, {1, all(4)}),
      conv2d_case("3x3_one_channel", {1, 1, 9, 6}, {1, 1, 3, 3}, {1, all(1)}),
      conv2d_case("3x3_to_one_channel", {2, 8, 5, 5}, {1, 8, 3, 3}, {1, all(1)}),
      conv2d_case("3x3_17_channels", {1, 17, 4, 5}, {17, 17, 3, 3}, {1, all(1)}),
      conv2d_case("3x3_33_to_31_channels", {2, 33, 5, 6}, {31, 33, 3, 3}, {1, all(1)}),
      conv2d_case("1x3", {2, 3, 5, 7}, {4, 3, 1, 3}, {1, {0, 1, 0, 1}}),
      conv2d_case("5x2_stride_2", {2, 3, 9, 7}, {4, 3, 5, 2}, {2, {2, 0, 2, 1}}),
      conv2d_case("2x2_stride_3", {2, 3, 8, 11}, {4, 3, 2, 2}, {3, {}}),
      conv2d_case("7x7_stride_2", {1, 3, 17, 13}, {4, 3, 7, 7}, {2, all(3)}),
      conv2d_case("kernel_as_large_as_image", {2, 3, 5, 4}, {6, 3, 5, 4}, {}),
      conv2d_case("kernel_larger_than_image", {1, 2, 2, 2}, {3, 2, 5, 5}, {1, all(2)}),
      conv2d_case("many_pixels", {5, 12, 23, 19}, {17, 12, 3, 3}, {1, all(1)}),
      conv2d_case("many_pixels_1x1", {7, 24, 19, 17}, {20, 24, 1, 1}, {}),
  };
  cases.insert(cases.end(), list.begin(), list.end());
}

Array naive_linear(const Array& x, const Array& weight, const Array& bias) {
  return map(array_of({x.shape.n(), weight.shape.n()}),
             [&](double, std::int64_t n, std::int64_t o, std::int64_t, std::int64_t) {
               double sum = bias.values[static_cast<std::size_t>(o)];
               for (std::int64_t i = 0; i < x.shape.c(); ++i) sum += x.at(n, i) * weight.at(o, i);
               return sum;
             });
}

void add_linear_cases(std::vector<OpCase>& cases) {
  const auto add = [&](const std::string& name, std::int64_t n, std::int64_t in, std::int64_t out) {
    OpCase made;
    made.name = "linear_" + name;
    made.inputs = {{{n, in}}, {{out, in}}, {{out}}};
    made.run = [](Tensors in) { return std::vector{ops::linear(in[0], in[1], in[2])}; };
    made.reference = [](Arrays in) { return std::vector{naive_linear(in[0], in[1], in[2])}; };
    made.exact_on_integers = true;
    cases.push_back(made);
  };
  add("one_element", 1, 1, 1);
  add("batch_1", 1, 7, 5);
  add("primes", 3, 17, 13);
  add("one_output", 67, 5, 1);
  add("one_input_feature", 5, 1, 3);
  add("many_rows", 131, 33, 29);
}

void add_bad_conv2d_and_linear(std::vector<BadCall>& calls) {
  add_bad<ShapeError>(calls, "conv2d_rank_of_x", "[conv2d] input 0 is (2, 3), expected (N, 3, H, W)", [] {
    ops::conv2d(leaf({2, 3}), leaf({4, 3, 3, 3}));
  });
  add_bad<ShapeError>(calls, "conv2d_rank_of_weight", "[conv2d] input 1 is (4, 3), expected (K, C, R, S)", [] {
    ops::conv2d(leaf({2, 3, 5, 5}), leaf({4, 3}));
  });
  add_bad<ShapeError>(calls, "conv2d_channels", "[conv2d] input 0 is (2, 3, 5, 5), expected (N, 2, H, W)", [] {
    ops::conv2d(leaf({2, 3, 5, 5}), leaf({4, 2, 3, 3}));
  });
  add_bad<ShapeError>(calls, "conv2d_kernel_too_large", "[conv2d] weight (4, 3, 6, 3) is larger than the padded input",
                      [] {
                        ops::conv2d(leaf({2, 3, 5, 5}), leaf({4, 3, 6, 3}));
                      });
  add_bad<ValueError>(calls, "conv2d_stride_0", "[conv2d] stride is 0", [] {
    ops::conv2d(leaf({2, 3, 5, 5}), leaf({4, 3, 3, 3}), {0, {}});
  });
  add_bad<ValueError>(calls, "conv2d_no_columns", "[conv2d] a bound of no bytes on columns, expected at least 1", [] {
    ops::conv2d(leaf({2, 3, 5, 5}), leaf({4, 3, 3, 3}), {.products = {.column_bytes = 0}});
  });
  add_bad<ValueError>(calls, "conv2d_negative_padding", "[conv2d] padding is negative", [] {
    ops::conv2d(leaf({2, 3, 5, 5}), leaf({4, 3, 3, 3}), {1, {1, -1, 1, 1}});
  });
  add_bad<ShapeError>(calls, "linear_rank_of_x", "[linear] input 0 is (2, 3, 1, 1), expected (N, 3)", [] {
    ops::linear(leaf({2, 3, 1, 1}), leaf({4, 3}), leaf({4}));
  });
  add_bad<ShapeError>(calls, "linear_features", "[linear] input 0 is (2, 3), expected (N, 5)", [] {
    ops::linear(leaf({2, 3}), leaf({4, 5}), leaf({4}));
  });
  add_bad<ShapeError>(calls, "linear_bias", "input 1 is (3), expected (4)", [] {
    ops::linear(leaf({2, 3}), leaf({4, 3}), leaf({3}));
  });
}

}  // namespace

void add_convolution_cases(std::vector<OpCase>& cases) {
  add_conv2d_cases(cases);
  add_linear_cases(cases);
}

void add_bad_convolutions(std::vector<BadCall>& calls) { add_bad_conv2d_and_linear(calls); }

}  // namespace palimpsest::test

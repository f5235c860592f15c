// Cases of pooling and upsampling.

#include <limits>

#include <palimpsest/ops/pool.hpp>
#include "tests/support/op_case_support.hpp"

namespace palimpsest::test {
namespace {

enum class Pool { Average, Maximum };

double naive_window(const Array& x, Pool pool, std::int64_t kernel, std::int64_t n, std::int64_t c, std::int64_t top,
                    std::int64_t left) {
  double sum = 0;
  double largest = -std::numeric_limits<double>::infinity();
  for (std::int64_t h = std::max<std::int64_t>(top, 0); h < std::min(top + kernel, x.shape.h()); ++h) {
    for (std::int64_t w = std::max<std::int64_t>(left, 0); w < std::min(left + kernel, x.shape.w()); ++w) {
      sum += x.at(n, c, h, w);
      largest = std::max(largest, x.at(n, c, h, w));
    }
  }
  return pool == Pool::Maximum ? largest : sum / static_cast<double>(kernel * kernel);
}

Array naive_pool(const Array& x, Pool pool, std::int64_t kernel, std::int64_t stride, const ops::Padding& padding) {
  const std::int64_t height = (x.shape.h() + padding.top + padding.bottom - kernel) / stride + 1;
  const std::int64_t width = (x.shape.w() + padding.left + padding.right - kernel) / stride + 1;
  return map(array_of({x.shape.n(), x.shape.c(), height, width}),
             [&](double, std::int64_t n, std::int64_t c, std::int64_t h, std::int64_t w) {
               return naive_window(x, pool, kernel, n, c, h * stride - padding.top, w * stride - padding.left);
             });
}

void add_avg_pool2d_cases(std::vector<OpCase>& cases) {
  const auto add = [&](const std::string& name, const Shape& shape, std::int64_t kernel, std::int64_t stride) {
    OpCase made;
    made.name = "avg_pool2d_" + name;
    made.inputs = {{shape}};
    made.run = [=](Tensors in) { return std::vector{ops::avg_pool2d(in[0], kernel, stride)}; };
    made.reference = [=](Arrays in) { return std::vector{naive_pool(in[0], Pool::Average, kernel, stride, {})}; };
    cases.push_back(made);
  };
  add("one_element", {1, 1, 1, 1}, 1, 1);
  add("2_2", {2, 3, 4, 6}, 2, 2);
  add("2_2_does_not_divide", {2, 3, 5, 7}, 2, 2);
  add("3_1_overlapping", {1, 5, 5, 4}, 3, 1);
  add("3_2_overlapping", {2, 1, 7, 8}, 3, 2);
  add("2_3_with_gaps", {1, 3, 8, 7}, 2, 3);
  add("whole_image", {2, 17, 5, 5}, 5, 1);
  add("large", {5, 17, 28, 31}, 2, 2);
}

void add_max_pool2d_cases(std::vector<OpCase>& cases) {
  const auto add = [&](const std::string& name, const Shape& shape, std::int64_t kernel, std::int64_t stride,
                       const ops::Padding& padding) {
    OpCase made;
    made.name = "max_pool2d_" + name;
    made.inputs = {{shape, spaced}};
    made.run = [=](Tensors in) { return std::vector{ops::max_pool2d(in[0], kernel, stride, padding)}; };
    made.reference = [=](Arrays in) { return std::vector{naive_pool(in[0], Pool::Maximum, kernel, stride, padding)}; };
    made.exact_on_integers = true;
    cases.push_back(made);
  };
  add("one_element", {1, 1, 1, 1}, 1, 1, {});
  add("one_element_padded", {1, 1, 1, 1}, 3, 2, ops::Padding::all(1));
  add("3_2_1", {2, 3, 7, 5}, 3, 2, ops::Padding::all(1));
  add("3_2_1_even", {1, 5, 8, 6}, 3, 2, ops::Padding::all(1));
  add("2_2_does_not_divide", {2, 3, 5, 7}, 2, 2, {});
  add("2_1_padded", {1, 3, 4, 3}, 2, 1, ops::Padding::all(1));
  add("3_1_overlapping", {1, 7, 5, 4}, 3, 1, {});
  add("2_3_with_gaps", {1, 3, 8, 7}, 2, 3, {});
  add("4_1_2_larger_than_image", {1, 2, 2, 1}, 4, 1, ops::Padding::all(2));
  add("same_even", {2, 5, 8, 6}, 3, 2, {0, 0, 1, 1});
  add("same_one_element", {1, 1, 1, 1}, 2, 2, {0, 1, 1, 0});
  add("four_sides", {2, 3, 7, 9}, 6, 2, {1, 3, 2, 0});
  add("large", {3, 17, 29, 31}, 3, 2, ops::Padding::all(1));
}

void add_global_avg_pool_cases(std::vector<OpCase>& cases) {
  const auto add = [&](const std::string& name, const Shape& shape) {
    OpCase made;
    made.name = "global_avg_pool_" + name;
    made.inputs = {{shape}};
    made.run = [](Tensors in) { return std::vector{ops::global_avg_pool(in[0])}; };
    made.reference = [](Arrays in) {
      const Shape& x = in[0].shape;
      Array mean = array_of({x.n(), x.c()});
      map(in[0], [&](double value, std::int64_t n, std::int64_t c, std::int64_t, std::int64_t) {
        return mean.at(n, c) += value / static_cast<double>(x.h() * x.w());
      });
      return std::vector{mean};
    };
    cases.push_back(made);
  };
  add("one_element", {1, 1, 1, 1});
  add("one_pixel", {3, 17, 1, 1});
  add("image", {2, 3, 5, 7});
  add("large", {5, 67, 13, 11});
}

void add_upsample_cases(std::vector<OpCase>& cases) {
  const auto add = [&](const std::string& name, const Shape& shape, std::int64_t factor) {
    OpCase made;
    made.name = "upsample_nearest2d_" + name;
    made.inputs = {{shape}};
    made.run = [=](Tensors in) { return std::vector{ops::upsample_nearest2d(in[0], factor)}; };
    made.reference = [=](Arrays in) {
      const Shape& x = in[0].shape;
      return std::vector{map(array_of({x.n(), x.c(), x.h() * factor, x.w() * factor}),
                             [&](double, std::int64_t n, std::int64_t c, std::int64_t h, std::int64_t w) {
                               return in[0].at(n, c, h / factor, w / factor);
                             })};
    };
    made.exact_on_integers = true;
    cases.push_back(made);
  };
  add("by_one", {2, 3, 5, 7}, 1);
  add("one_element", {1, 1, 1, 1}, 3);
  add("image", {2, 5, 3, 4}, 2);
  add("one_channel", {3, 1, 4, 5}, 3);
  add("large", {3, 17, 19, 23}, 2);
}

void add_bad_windows(std::vector<BadCall>& calls) {
  add_bad<ValueError>(calls, "avg_pool2d_kernel_0", "[avg_pool2d] kernel 0", [] {
    ops::avg_pool2d(leaf({2, 3, 5, 5}), 0, 1);
  });
  add_bad<ValueError>(calls, "avg_pool2d_stride_0", "[avg_pool2d] kernel 2, stride 0", [] {
    ops::avg_pool2d(leaf({2, 3, 5, 5}), 2, 0);
  });
  add_bad<ShapeError>(calls, "avg_pool2d_window_too_large", "[avg_pool2d] input 0 is (2, 3, 5, 4), expected at least 5",
                      [] {
                        ops::avg_pool2d(leaf({2, 3, 5, 4}), 5, 1);
                      });
  add_bad<ShapeError>(calls, "avg_pool2d_rank", "[avg_pool2d] input 0 is (2, 3), expected (N, C, H, W)", [] {
    ops::avg_pool2d(leaf({2, 3}), 1, 1);
  });
  add_bad<ValueError>(calls, "max_pool2d_padding_too_large", "[max_pool2d] kernel 3, stride 1, padding 0, 0, 0, 2", [] {
    ops::max_pool2d(leaf({2, 3, 5, 5}), 3, 1, {0, 0, 0, 2});
  });
  add_bad<ValueError>(calls, "max_pool2d_negative_padding", "[max_pool2d] kernel 3, stride 1, padding 0, -1, 0, 0", [] {
    ops::max_pool2d(leaf({2, 3, 5, 5}), 3, 1, {0, -1, 0, 0});
  });
  add_bad<ShapeError>(calls, "max_pool2d_window_too_large", "[max_pool2d] input 0 is (2, 3, 1, 2)", [] {
    ops::max_pool2d(leaf({2, 3, 1, 2}), 4, 1, ops::Padding::all(1));
  });
  add_bad<ShapeError>(calls, "global_avg_pool_rank", "[global_avg_pool] input 0 is (2, 3), expected (N, C, H, W)", [] {
    ops::global_avg_pool(leaf({2, 3}));
  });
  add_bad<ValueError>(calls, "upsample_factor_0", "[upsample_nearest2d] factor is 0, expected at least 1", [] {
    ops::upsample_nearest2d(leaf({2, 3, 4, 5}), 0);
  });
  add_bad<ShapeError>(calls, "upsample_rank", "[upsample_nearest2d] input 0 is (2, 3), expected (N, C, H, W)", [] {
    ops::upsample_nearest2d(leaf({2, 3}), 2);
  });
}

}  // namespace

void add_pool_cases(std::vector<OpCase>& cases) {
  add_avg_pool2d_cases(cases);
  add_max_pool2d_cases(cases);
  add_global_avg_pool_cases(cases);
  add_upsample_cases(cases);
}

void add_bad_pools(std::vector<BadCall>& calls) { add_bad_windows(calls); }

}  // namespace palimpsest::test

// Cases of sums and of ops that move channels about.

#include <memory>

#include <palimpsest/core/generator.hpp>
#include <palimpsest/ops/add.hpp>
#include <palimpsest/ops/bias.hpp>
#include <palimpsest/ops/concat.hpp>
#include <palimpsest/ops/dropout.hpp>
#include <palimpsest/ops/pad_channels.hpp>
#include "tests/support/op_case_support.hpp"

namespace palimpsest::test {
namespace {

void add_elementwise_cases(std::vector<OpCase>& cases) {
  const auto add = [&](const std::string& suffix, const Shape& shape) {
    OpCase sum;
    sum.name = "add_" + suffix;
    sum.inputs = {{shape}, {shape}};
    sum.run = [](Tensors in) { return std::vector{ops::add(in[0], in[1])}; };
    sum.reference = [](Arrays in) { return std::vector{sum_of(in[0], in[1])}; };
    sum.exact_on_integers = true;
    cases.push_back(sum);
  };
  add("scalar", {});
  add("one_element", {1, 1, 1, 1});
  add("vector", {13});
  add("rank_3", {2, 3, 5});
  add("image", {2, 3, 5, 7});
  add("large", {5, 17, 29, 31});

  OpCase twice;
  twice.name = "add_tensor_to_itself";
  twice.inputs = {{{2, 3, 5, 7}}};
  twice.run = [](Tensors in) { return std::vector{ops::add(in[0], in[0])}; };
  twice.reference = [](Arrays in) { return std::vector{sum_of(in[0], in[0])}; };
  twice.exact_on_integers = true;
  cases.push_back(twice);
}

void add_bias_cases(std::vector<OpCase>& cases) {
  const auto add = [&](const std::string& name, const Shape& shape) {
    OpCase made;
    made.name = "add_bias_" + name;
    made.inputs = {{shape}, {{shape.c()}}};
    made.run = [](Tensors in) { return std::vector{ops::add_bias(in[0], in[1])}; };
    made.reference = [](Arrays in) {
      const auto plus_bias = [&](double value, std::int64_t, std::int64_t c, std::int64_t, std::int64_t) {
        return value + in[1].values[static_cast<std::size_t>(c)];
      };
      return std::vector{map(in[0], plus_bias)};
    };
    made.exact_on_integers = true;
    cases.push_back(made);
  };
  add("one_element", {1, 1});
  add("matrix", {5, 13});
  add("image", {2, 3, 5, 7});
  add("one_channel", {3, 1, 4, 5});
  add("large", {5, 17, 29, 31});
}

Array naive_pad_channels(const Array& x, std::int64_t before, std::int64_t after) {
  return map(array_of(x.shape.with_channels(before + x.shape.c() + after)),
             [&](double, std::int64_t n, std::int64_t c, std::int64_t h, std::int64_t w) {
               return c >= before && c < before + x.shape.c() ? x.at(n, c - before, h, w) : 0;
             });
}

void add_pad_channels_cases(std::vector<OpCase>& cases) {
  const auto add = [&](const std::string& name, const Shape& shape, std::int64_t before, std::int64_t after) {
    OpCase made;
    made.name = "pad_channels_" + name;
    made.inputs = {{shape}};
    made.run = [=](Tensors in) { return std::vector{ops::pad_channels(in[0], before, after)}; };
    made.reference = [=](Arrays in) { return std::vector{naive_pad_channels(in[0], before, after)}; };
    made.exact_on_integers = true;
    cases.push_back(made);
  };
  add("one_element", {1, 1, 1, 1}, 1, 1);
  add("by_nothing", {2, 3, 5, 7}, 0, 0);
  add("before", {2, 3, 5, 7}, 4, 0);
  add("after", {2, 3, 5, 7}, 0, 5);
  add("unevenly", {1, 7, 3, 2}, 2, 5);
  add("matrix", {5, 3}, 1, 2);
  add("large", {5, 17, 29, 31}, 8, 9);
}

/// The channels [first, first + channels) of x.
Array naive_slice(const Array& x, std::int64_t first, std::int64_t channels) {
  return map(array_of(x.shape.with_channels(channels)), [&](double, std::int64_t n, std::int64_t c, std::int64_t h,
                                                            std::int64_t w) { return x.at(n, first + c, h, w); });
}

Array naive_concat(Arrays parts) {
  std::int64_t channels = 0;
  for (const Array& part : parts) channels += part.shape.c();
  Array whole = array_of(parts[0].shape.with_channels(channels));
  std::int64_t first = 0;
  for (const Array& part : parts) {
    const Array padded = naive_pad_channels(part, first, channels - first - part.shape.c());
    whole = sum_of(whole, padded);
    first += part.shape.c();
  }
  return whole;
}

OpCase concat_case(const std::string& name, const Shape& shape, std::span<const std::int64_t> channels) {
  OpCase made;
  made.name = "concat_" + name;
  for (const std::int64_t part : channels) made.inputs.push_back({shape.with_channels(part)});
  made.run = [](Tensors in) { return std::vector{ops::concat(in)}; };
  made.reference = [](Arrays in) { return std::vector{naive_concat(in)}; };
  made.exact_on_integers = true;
  return made;
}

/// 1, 2, 3, 1, 2, 3, ...
std::vector<std::int64_t> uneven_channels(std::int64_t parts) {
  std::vector<std::int64_t> channels;
  for (std::int64_t i = 0; i < parts; ++i) channels.push_back(i % 3 + 1);
  return channels;
}

void add_concat_cases(std::vector<OpCase>& cases) {
  for (const std::int64_t parts : {2, 3, 17, 63, 64, 65, 70}) {
    cases.push_back(concat_case(concat_text(parts, "_inputs"), {2, 1, 2, 3}, uneven_channels(parts)));
  }
  cases.push_back(concat_case("one_element_each", {1, 1, 1, 1}, std::vector<std::int64_t>{1, 1}));
  cases.push_back(concat_case("matrices", {5, 1}, std::vector<std::int64_t>{3, 1, 7}));
  cases.push_back(concat_case("large", {5, 1, 29, 31}, std::vector<std::int64_t>{13, 12, 5}));

  OpCase some_wanted = concat_case("gradient_of_the_middle_alone", {2, 1, 3, 5}, std::vector<std::int64_t>{2, 3, 5});
  some_wanted.inputs[0].gradient = some_wanted.inputs[2].gradient = false;
  cases.push_back(some_wanted);

  OpCase twice = concat_case("tensor_with_itself", {2, 3, 5, 7}, std::vector<std::int64_t>{3});
  twice.run = [](Tensors in) { return std::vector{ops::concat(std::vector{in[0], in[0]})}; };
  twice.reference = [](Arrays in) { return std::vector{naive_concat(std::vector{in[0], in[0]})}; };
  cases.push_back(twice);

  OpCase interleaved = concat_case("one_tensor_at_both_ends", {2, 1, 3, 5}, std::vector<std::int64_t>{3, 2});
  interleaved.run = [](Tensors in) { return std::vector{ops::concat(std::vector{in[0], in[1], in[0]})}; };
  interleaved.reference = [](Arrays in) { return std::vector{naive_concat(std::vector{in[0], in[1], in[0]})}; };
  cases.push_back(interleaved);
}

OpCase split_case(const std::string& name, const Shape& shape, const std::vector<std::int64_t>& channels) {
  OpCase made;
  made.name = "split_" + name;
  made.inputs = {{shape}};
  made.run = [=](Tensors in) { return ops::split(in[0], channels); };
  made.reference = [=](Arrays in) {
    std::vector<Array> parts;
    std::int64_t first = 0;
    for (const std::int64_t part : channels) {
      parts.push_back(naive_slice(in[0], first, part));
      first += part;
    }
    return parts;
  };
  made.exact_on_integers = true;
  return made;
}

void add_split_cases(std::vector<OpCase>& cases) {
  cases.push_back(split_case("one_element", {1, 1, 1, 1}, {1}));
  cases.push_back(split_case("halves", {2, 6, 3, 5}, {3, 3}));
  cases.push_back(split_case("unevenly", {1, 10, 3, 2}, {1, 7, 2}));
  cases.push_back(split_case("matrix", {5, 7}, {3, 4}));
  cases.push_back(split_case("70_parts", {1, 139, 2, 1}, uneven_channels(70)));
  cases.push_back(split_case("large", {5, 24, 29, 31}, {11, 13}));

  OpCase unused = split_case("with_an_unused_part", {2, 6, 3, 5}, {1, 2, 3});
  unused.run = [](Tensors in) {
    const std::vector<std::int64_t> channels = {1, 2, 3};
    const std::vector<Tensor> parts = ops::split(in[0], channels);
    return std::vector{parts[0], parts[2]};
  };
  unused.reference = [](Arrays in) { return std::vector{naive_slice(in[0], 0, 1), naive_slice(in[0], 3, 3)}; };
  cases.push_back(unused);
}

void add_bad_elementwise(std::vector<BadCall>& calls) {
  add_bad<ShapeError>(calls, "add_shapes", "[add] input 1 is (2, 4), expected (2, 3)", [] {
    ops::add(leaf({2, 3}), leaf({2, 4}));
  });
  add_bad<ShapeError>(calls, "add_does_not_broadcast", "[add] input 1 is (1), expected (2, 3)", [] {
    ops::add(leaf({2, 3}), leaf({1}));
  });
  add_bad<DtypeError>(calls, "add_integers", "[add] input 0 is int32, expected float32 or float64", [] {
    ops::add(int32_zeros({2, 3}), int32_zeros({2, 3}));
  });
  add_bad<ShapeError>(calls, "add_bias_rank", "[add_bias] input 0 is (2, 3, 4), expected (N, C, H, W) or (N, C)", [] {
    ops::add_bias(leaf({2, 3, 4}), leaf({3}));
  });
  add_bad<ShapeError>(calls, "add_bias_size", "[add_bias] input 1 is (4), expected (3)", [] {
    ops::add_bias(leaf({2, 3}), leaf({4}));
  });
  add_bad<ValueError>(calls, "pad_channels_negative", "[pad_channels] -1 and 0 channels, expected none negative", [] {
    ops::pad_channels(leaf({2, 3}), -1, 0);
  });
  add_bad<ShapeError>(calls, "pad_channels_rank", "[pad_channels] input 0 is (3), expected",
                      [] { ops::pad_channels(leaf({3}), 1, 0); });
  add_bad<ValueError>(calls, "dropout_of_all", "[dropout] probability is 1, expected at least 0 and below 1", [] {
    ops::dropout(leaf({2, 3}), 1, std::make_shared<Generator>());
  });
  add_bad<ValueError>(calls, "dropout_negative", "[dropout] probability is -0.5", [] {
    ops::dropout(leaf({2, 3}), -0.5, std::make_shared<Generator>());
  });
  add_bad<ValueError>(calls, "dropout_nan", "[dropout] probability is nan", [] {
    ops::dropout(leaf({2, 3}), std::nan(""), std::make_shared<Generator>());
  });
  add_bad<ValueError>(calls, "dropout_without_generator", "[dropout] needs a generator", [] {
    ops::dropout(leaf({2, 3}), 0.5, nullptr);
  });
}

void add_bad_concat_and_split(std::vector<BadCall>& calls) {
  add_bad<ValueError>(calls, "concat_of_nothing", "[concat] needs at least one input", [] { ops::concat({}); });
  add_bad<ShapeError>(calls, "concat_sizes", "[concat] input 1 is (8, 16, 4, 4), expected (8, *, 8, 8)", [] {
    ops::concat(std::vector{leaf({8, 3, 8, 8}), leaf({8, 16, 4, 4})});
  });
  add_bad<ShapeError>(calls, "concat_ranks", "[concat] input 1 is (8, 3), expected (8, *, 1, 1)", [] {
    ops::concat(std::vector{leaf({8, 3, 1, 1}), leaf({8, 3})});
  });
  add_bad<ShapeError>(calls, "concat_rank_1", "[concat] input 0 is (8), expected (N, C, H, W) or (N, C)", [] {
    ops::concat(std::vector{leaf({8}), leaf({8})});
  });
  add_bad<ValueError>(calls, "split_into_nothing", "[split] needs at least one part", [] {
    ops::split(leaf({2, 3}), {});
  });
  add_bad<ShapeError>(calls, "split_sum", "[split] input 0 is (2, 3), expected 4 channels to part", [] {
    ops::split(leaf({2, 3}), std::vector<std::int64_t>{1, 3});
  });
  add_bad<ShapeError>(calls, "split_empty_part", "[split] a part of 0 channels, expected at least 1", [] {
    ops::split(leaf({2, 3}), std::vector<std::int64_t>{0, 3});
  });
  add_bad<ShapeError>(calls, "split_rank_1", "[split] input 0 is (3)",
                      [] { ops::split(leaf({3}), std::vector<std::int64_t>{1}); });
}

}  // namespace

void add_channel_cases(std::vector<OpCase>& cases) {
  add_elementwise_cases(cases);
  add_bias_cases(cases);
  add_pad_channels_cases(cases);
  add_concat_cases(cases);
  add_split_cases(cases);
}

void add_bad_channels(std::vector<BadCall>& calls) {
  add_bad_elementwise(calls);
  add_bad_concat_and_split(calls);
}

}  // namespace palimpsest::test

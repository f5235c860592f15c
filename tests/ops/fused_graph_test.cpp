// Graphs whose convolutions take over the normalisation and the concat before them: gradients are those of separate
// ops, and the same bits under every policy. A feature's gradient comes from every layer that reads it, in parts, of
// which the last to run backward adds what all owe.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include <palimpsest/ops/activation.hpp>
#include <palimpsest/ops/linear.hpp>
#include "tests/support/fused_layers.hpp"
#include "tests/support/op_support.hpp"
#include "tests/support/policies.hpp"
#include "tests/support/random_graph.hpp"

namespace palimpsest::test {
namespace {

struct Graph {
  std::string name;
  /// The ops inside one block; results that count are given to use(). Those of other blocks are for `after`.
  std::function<std::vector<Tensor>(Layers&)> run;
  /// How many convolutions take over what is before them; -1: every layer().
  int fused = -1;
};

std::ostream& operator<<(std::ostream& out, const Graph& graph) { return out << graph.name; }

using Tensors = std::vector<Tensor>;

void add_graphs_of_one_layer(std::vector<Graph>& graphs) {
  graphs.push_back({"one_part", [](Layers& l) { return Tensors{l.layer({l.feature(5)}, 4)}; }});
  graphs.push_back({"parts", [](Layers& l) {
                      return Tensors{l.layer({l.feature(3), l.feature(4), l.feature(1)}, 6)};
                    }});
  graphs.push_back({"larger_kernel", [](Layers& l) { return Tensors{l.layer({l.feature(3), l.feature(5)}, 6, 3)}; }});
  graphs.push_back({"seventy_parts", [](Layers& l) {
                      Tensors parts;
                      for (int i = 0; i < 70; ++i) parts.push_back(l.feature(1 + i % 2));
                      return Tensors{l.layer(parts, 3), l.layer({parts[3], parts[69]}, 3)};
                    }});
  graphs.push_back({"leaves", [](Layers& l) {
                      const Tensor x = l.leaf(l.image(3));
                      const Tensor y = l.leaf(l.image(4));
                      return Tensors{l.layer({x, y}, 4), l.layer({y, x, l.feature(2)}, 2, 3)};
                    }});
  graphs.push_back({"leaves_without_gradient", [](Layers& l) {
                      const Tensor x = l.data(l.image(3));
                      const Tensor y = l.feature(4);
                      return Tensors{l.layer({x}, 4), l.layer({x, y, x}, 5), l.layer({x, x}, 3), l.layer({y, x}, 2)};
                    }});
  graphs.push_back({"parameters_without_gradient",
                    [](Layers& l) {
                      const Tensor x = l.feature(3);
                      const Tensor gamma = l.data({3});
                      const Tensor beta = l.leaf({3});
                      const Tensor none = l.conv(l.norm(x, gamma, l.data({3})), l.data({4, 3, 1, 1}));
                      return Tensors{none, l.conv(l.norm(x, gamma, beta), l.data({4, 3, 3, 3}))};
                    },
                    2});
  graphs.push_back({"parameters_of_several_layers",
                    [](Layers& l) {
                      const Tensor gamma = l.leaf({3});
                      const Tensor beta = l.leaf({3});
                      const Tensor weight = l.leaf({3, 3, 1, 1});
                      Tensor x = l.feature(3);
                      for (int i = 0; i < 3; ++i) x = l.conv(l.norm(std::move(x), gamma, beta), weight);
                      return Tensors{x};
                    },
                    3});
  graphs.push_back({"parameters_that_ops_made",
                    [](Layers& l) {
                      const auto made = [&](const Shape& shape) {
                        const Tensor x = l.leaf(shape);
                        return ops::add(x, x);
                      };
                      const Tensor weight = made({4, 5, 1, 1});
                      Tensor y = l.norm(l.joined({l.feature(2), l.feature(3)}), made({5}), made({5}));
                      return Tensors{l.conv(std::move(y), weight)};
                    },
                    1});
  graphs.push_back({"an_op_in_between",
                    [](Layers& l) {
                      Tensor y = l.norm(l.joined({l.feature(2), l.feature(3)}));
                      const Tensor x = l.leaf({4, 5, 1, 1});
                      return Tensors{l.conv(std::move(y), ops::add(x, x))};
                    },
                    0});
}

/// Three layers that read one feature, of which those in `used` get a gradient.
Graph graph_of_readers(unsigned used) {
  return {concat_text("readers_", used), [used](Layers& l) {
            const Tensor x = l.feature(4);
            const Tensor z = l.feature(3);
            const Tensors results = {l.layer({x, z}, 3), l.layer({x}, 2), l.layer({z, x}, 5, 3)};
            Tensors chosen;
            for (unsigned i = 0; i < 3; ++i) {
              if ((used >> i & 1) != 0) chosen.push_back(results[i]);
            }
            return chosen;
          }};
}

/// The same feature read by all kinds of ops before, between and behind two layers.
Graph graph_of_others(const std::string& name, bool first, bool second) {
  return {"other_readers" + name, [=](Layers& l) {
            const Tensor x = l.feature(4);
            const Tensor z = l.feature(4);
            Tensors results = {ops::add(x, z), l.norm(x, false)};
            const Tensor early = l.layer({x, z}, 3);
            results.push_back(ops::relu(x));
            results.push_back(l.joined({z, x}));
            results.push_back(l.conv(l.joined({x, l.feature(2), z}), 3, 3));
            results.push_back(l.norm(l.joined({x, z})));
            const Tensor late = l.layer({z, x}, 3);
            results.push_back(l.conv(l.norm(x, false), 2));
            results.push_back(ops::add(z, x));
            if (first) results.push_back(early);
            if (second) results.push_back(late);
            return results;
          }};
}

/// A feature that is there several times is several parts of one value.
void add_graphs_of_repeated_parts(std::vector<Graph>& graphs) {
  graphs.push_back({"twice", [](Layers& l) {
                      const Tensor x = l.feature(4);
                      return Tensors{l.layer({x, x}, 3)};
                    }});
  graphs.push_back({"twice_and_elsewhere", [](Layers& l) {
                      const Tensor x = l.feature(4);
                      const Tensor z = l.feature(2);
                      return Tensors{l.layer({x, z}, 3), l.layer({x, z, x, z}, 3), l.layer({z, x}, 2, 3)};
                    }});
  graphs.push_back({"leaf_twice", [](Layers& l) {
                      const Tensor x = l.leaf(l.image(4));
                      return Tensors{l.layer({x, l.feature(1), x}, 3), l.layer({x, x}, 3, 3)};
                    }});
  graphs.push_back({"twice_and_wide", [](Layers& l) {
                      const Tensor x = l.feature(700);  // the gradient pass takes such a width in several tasks
                      return Tensors{l.layer({x, x}, 3)};
                    }});
  graphs.push_back({"twice_without_gradient", [](Layers& l) {
                      const Tensor x = l.feature(4);
                      const Tensor unused = l.layer({x, x}, 3);
                      return Tensors{l.layer({x}, 3)};
                    }});
  graphs.push_back({"twice_without_gradient_in_between", [](Layers& l) {
                      const Tensor x = l.feature(4);
                      const Tensor z = l.feature(2);
                      const Tensor first = l.layer({x, z}, 3);
                      const Tensor unused = l.layer({x, z, x}, 3);
                      return Tensors{first, l.layer({z, x}, 3)};
                    }});
}

void add_graphs_of_blocks(std::vector<Graph>& graphs) {
  for (const std::int64_t kernel : {1, 3}) {
    graphs.push_back({concat_text("dense_", kernel), [=](Layers& l) {
                        Tensors features{l.feature(6)};
                        for (int i = 0; i < 4; ++i) {
                          const Tensor narrow = kernel == 3 ? l.layer(features, 4) : Tensor();
                          features.push_back(l.layer(kernel == 3 ? Tensors{narrow} : features, 3, kernel));
                        }
                        return Tensors{l.joined(features)};
                      }});
  }
  graphs.push_back({"concat_enters_a_block", [](Layers& l) {
                      const Tensor x = l.feature(3);
                      const Tensor joined = l.joined({x, l.feature(2)});
                      Tensors results = l.block({joined}, [&](Tensors in) { return Tensors{l.layer(in, 4)}; });
                      results.push_back(l.layer({x}, 2));
                      return results;
                    }});
  graphs.push_back({"concat_leaves_a_block",
                    [](Layers& l) {
                      const auto join = [&](Tensors in) {
                        in.push_back(l.layer(in, 4));
                        return Tensors{l.joined(in)};
                      };
                      Tensors joined = l.block({l.feature(3)}, join);
                      return Tensors{l.conv(l.norm(std::move(joined[0])), 3)};
                    },
                    2});
  graphs.push_back({"normalised_enters_a_block",
                    [](Layers& l) {
                      Tensor y = l.norm(l.joined({l.feature(3), l.feature(2)}));
                      Tensors in;
                      in.push_back(std::move(y));
                      return l.block(std::move(in), [&](Tensors all) { return Tensors{l.conv(all[0], 4)}; });
                    },
                    0});
  graphs.push_back({"normalised_leaves_a_block",
                    [](Layers& l) {
                      const auto normalise = [&](Tensors in) { return Tensors{l.norm(l.joined(in))}; };
                      Tensors out = l.block({l.feature(3), l.feature(2)}, normalise);
                      return Tensors{l.conv(std::move(out[0]), 4, 3)};
                    },
                    0});
}

void add_graphs_of_separate_ops(std::vector<Graph>& graphs) {
  graphs.push_back({"normalised_for_two",
                    [](Layers& l) {
                      Tensor y = l.norm(l.joined({l.feature(3), l.feature(2)}));
                      const Tensor first = l.conv(y, 4);
                      return Tensors{first, l.conv(std::move(y), 4, 3)};
                    },
                    0});
  graphs.push_back({"normalised_without_relu",
                    [](Layers& l) {
                      return Tensors{l.conv(l.norm(l.joined({l.feature(3), l.feature(2)}), false), 4)};
                    },
                    0});
  graphs.push_back({"matrices",
                    [](Layers& l) {
                      const Tensor x = l.leaf({7, 3});
                      const Tensor y = l.norm(l.joined({ops::add(x, x), l.leaf({7, 2}), x}));
                      return Tensors{ops::linear(y, l.leaf({4, 8}), l.leaf({4}))};
                    },
                    0});
  // The kernels take no strided column: see kernels::norm_conv2d_fits().
  graphs.push_back({"strided_columns",
                    [](Layers& l) {
                      Tensor y = l.norm(l.joined({l.leaf({37, 4, 9, 1}), l.leaf({37, 3, 9, 1})}));
                      const Tensor weight = l.leaf({5, 7, 3, 1});
                      return Tensors{ops::conv2d(std::move(y), weight, {.stride = 2, .padding = {1, 0, 1, 0}})};
                    },
                    0});
  graphs.push_back({"strided",
                    [](Layers& l) {
                      const auto strided = [&](std::int64_t kernel) {
                        Tensor y = l.norm(l.joined({l.leaf({37, 4, 9, 3}), l.leaf({37, 3, 9, 3})}));
                        const Tensor weight = l.leaf({5, 7, kernel, kernel});
                        return ops::conv2d(std::move(y), weight,
                                           {.stride = 2, .padding = ops::Padding::all(kernel / 2)});
                      };
                      return Tensors{strided(1), strided(3)};
                    },
                    2});
  graphs.push_back({"concat_of_concats", [](Layers& l) {
                      const Tensor inner = l.joined({l.feature(3), l.feature(2)});
                      return Tensors{l.layer({inner, l.feature(1)}, 4)};
                    }});
}

std::vector<Graph> all_graphs() {
  std::vector<Graph> graphs;
  add_graphs_of_one_layer(graphs);
  for (unsigned used = 1; used < 8; ++used) graphs.push_back(graph_of_readers(used));
  graphs.push_back(graph_of_others("_and_both_layers", true, true));
  graphs.push_back(graph_of_others("_and_the_first_layer", true, false));
  graphs.push_back(graph_of_others("_and_the_second_layer", false, true));
  graphs.push_back(graph_of_others("", false, false));
  add_graphs_of_repeated_parts(graphs);
  add_graphs_of_blocks(graphs);
  add_graphs_of_separate_ops(graphs);
  return graphs;
}

/// One step of a graph in a block. Returns what it leaves behind.
std::vector<Tensor> step(const Graph& graph, Dtype dtype, bool separate, const PolicyPtr& policy) {
  Layers l(dtype, separate, policy);
  const Tensor start = l.leaf({1, 1});
  const Tensors results = l.block({ops::add(start, start)}, [&](const Tensors&) { return graph.run(l); });
  for (const Tensor& result : results) l.use(result);
  const Tensor loss = l.loss();  // of all results: until here they may be computations side by side
  EXPECT_EQ(recorded(fused_name), separate ? 0 : graph.fused < 0 ? l.layers() : graph.fused);
  loss.backward();
  l.let_go();
  return l.outcome();
}

class FusedGraphTest : public TapeTest, public ::testing::WithParamInterface<Graph> {};

INSTANTIATE_TEST_SUITE_P(Graphs, FusedGraphTest, ::testing::ValuesIn(all_graphs()), case_name<Graph>);

TEST_P(FusedGraphTest, GradientsAreThoseOfSeparateOps) {
  const auto separate = values_of<double>(step(GetParam(), Dtype::Float64, true, memory::store_all()));
  const auto fused = values_of<double>(step(GetParam(), Dtype::Float64, false, memory::store_all()));
  expect_close(fused, separate, 1e-12);
}

template <class T>
void expect_bits_of_store_all(const Graph& graph) {
  const auto expected = values_of<T>(step(graph, dtype_of<T>, false, memory::store_all()));
  std::vector<PolicyPtr> policies = all_policies();
  for (std::uint64_t salt = 0; salt < 3; ++salt) policies.push_back(chaos(salt));
  for (const PolicyPtr& policy : policies) {
    SCOPED_TRACE(policy->name());
    expect_same_bits(values_of<T>(step(graph, dtype_of<T>, false, policy)), expected, "result");
  }
}

TEST_P(FusedGraphTest, EveryPolicyGivesTheBitsOfStoreAll) {
  expect_bits_of_store_all<float>(GetParam());
  expect_bits_of_store_all<double>(GetParam());
}

TEST_P(FusedGraphTest, GivesTheSameBitsForAnyNumberOfThreads) {
  const auto expected = values_of<float>(step(GetParam(), Dtype::Float32, false, memory::store_all()));
  for (const int threads : {2, 3}) {
    set_thread_count(threads);
    expect_same_bits(values_of<float>(step(GetParam(), Dtype::Float32, false, memory::store_all())), expected,
                     "result");
  }
}

}  // namespace
}  // namespace palimpsest::test

#pragma once

#include <memory>
#include <utility>

#include <palimpsest/nn/models/densenet.hpp>

#include "examples/harness/options.hpp"

namespace palimpsest::harness {

/// Makes a DenseNet-BC of growth 4 for a data set.
inline MakeModel small_densenet(std::int64_t depth) {
  return [depth](const DataFacts& data, nn::Init init) {
    nn::DenseNetOptions spec = nn::DenseNetOptions::cifar(depth, 4);
    spec.image_channels = data.channels;
    return std::make_unique<nn::DenseNet>(spec, std::move(init));
  };
}

}  // namespace palimpsest::harness

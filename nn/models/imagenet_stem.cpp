#include <palimpsest/nn/models/imagenet_stem.hpp>

#include <palimpsest/ops/pool.hpp>

namespace palimpsest::nn {

Tensor ImageNetStem::forward(Tensor images) { return ops::max_pool2d(norm_(conv_(std::move(images))), 3, 2, pooling_); }

}  // namespace palimpsest::nn

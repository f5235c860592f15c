#pragma once

// Tensors that are one along their channels, for the ops that read or write them part by part.

#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include <palimpsest/ops/check.hpp>
#include <palimpsest/ops/kernels/concat.hpp>

namespace palimpsest::ops {

/// whole = the parts, joined along the channels.
inline void gather(std::string_view op, std::span<const View> parts, const View& whole) {
  run_kernels(op, whole.device, whole.dtype, [&]<class T>(T) {
    std::vector<const T*> pointers(parts.size());
    std::vector<std::int64_t> channels(parts.size());
    for (std::size_t i = 0; i < parts.size(); ++i) {
      pointers[i] = parts[i].as<T>();
      channels[i] = parts[i].shape.c();
    }
    PALIMPSEST_RUN(whole.device, concat_gather<T>(whole.shape.pixels(), static_cast<std::int64_t>(parts.size()),
                                                  pointers.data(), channels.data(), whole.as<T>()));
  });
}

/// The parts = (or, where a part accumulates, +=) their channels of `whole`. Null parts are passed over.
inline void scatter(std::string_view op, const View& whole, std::span<const GradientTarget> parts) {
  run_kernels(op, whole.device, whole.dtype, [&]<class T>(T) {
    std::vector<T*> pointers(parts.size());
    std::vector<std::int64_t> channels(parts.size());
    const auto accumulate = std::make_unique<bool[]>(parts.size());  // the kernel wants plain bools
    for (std::size_t i = 0; i < parts.size(); ++i) {
      pointers[i] = parts[i].view.as<T>();
      channels[i] = parts[i].view.shape.c();
      accumulate[i] = parts[i].accumulate;
    }
    PALIMPSEST_RUN(whole.device, concat_scatter<T>(whole.shape.pixels(), static_cast<std::int64_t>(parts.size()),
                                                   whole.as<T>(), pointers.data(), channels.data(), accumulate.get()));
  });
}

}  // namespace palimpsest::ops

#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <ostream>

#include <palimpsest/core/error.hpp>

namespace palimpsest {

/// Sizes of up to four dimensions. The logical order of an image batch is (N, C, H, W) whatever the memory layout,
/// which is channels-last: element (n, c, h, w) lies at ((n * H + h) * W + w) * C + c. Tensors of other ranks are
/// row-major.
class Shape {
 public:
  static constexpr int max_rank = 4;

  Shape() = default;
  /// Throws ShapeError for more than four dimensions, one that is not positive, or more than 2^56 elements.
  Shape(std::initializer_list<std::int64_t> sizes) {
    if (sizes.size() > max_rank) throw ShapeError(concat_text("a shape has at most 4 dimensions, got ", sizes.size()));
    for (const std::int64_t size : sizes) {
      sizes_[rank_++] = size;
      if (size < 1) throw ShapeError(concat_text("every dimension must be positive, got ", *this));
    }
    check_count();
  }

  int rank() const { return rank_; }
  std::int64_t operator[](int dimension) const { return sizes_[dimension]; }

  /// Number of elements; 1 for a scalar (rank 0).
  std::int64_t count() const {
    std::int64_t product = 1;
    for (int d = 0; d < rank_; ++d) product *= sizes_[d];
    return product;
  }

  // The dimensions of an image batch, or of anything shorter that starts like one: (N, C) has height and width 1.
  std::int64_t n() const { return rank_ > 0 ? sizes_[0] : 1; }
  std::int64_t c() const { return rank_ > 1 ? sizes_[1] : 1; }
  std::int64_t h() const { return rank_ > 2 ? sizes_[2] : 1; }
  std::int64_t w() const { return rank_ > 3 ? sizes_[3] : 1; }
  /// N * H * W: how many channel vectors there are, one behind the other in memory.
  std::int64_t pixels() const { return n() * h() * w(); }

  /// The same shape with another number of channels. Throws ShapeError for more than 2^56 elements.
  Shape with_channels(std::int64_t channels) const {
    Shape shape = *this;
    shape.sizes_[1] = channels;
    shape.check_count();
    return shape;
  }

  friend bool operator==(const Shape&, const Shape&) = default;

  friend std::ostream& operator<<(std::ostream& out, const Shape& shape) {
    out << '(';
    for (int d = 0; d < shape.rank_; ++d) out << (d > 0 ? ", " : "") << shape.sizes_[d];
    return out << ')';
  }

 private:
  /// So that bytes can be computed without overflow anywhere.
  void check_count() const {
    constexpr std::int64_t most = std::int64_t{1} << 56;
    std::int64_t product = 1;
    for (int d = 0; d < rank_; ++d) {
      if (sizes_[d] > most / product) throw ShapeError(concat_text("a shape of more than 2^56 elements: ", *this));
      product *= sizes_[d];
      if (product == 0) return;
    }
  }

  std::array<std::int64_t, max_rank> sizes_{};
  int rank_ = 0;
};

}  // namespace palimpsest

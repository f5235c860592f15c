#pragma once

#include <cstdint>
#include <vector>

#include <palimpsest/ops/couple.hpp>

namespace palimpsest::ops {

/// Grids that follow the streams of a model, one for each of its stages: buffers of a module, updated in place like the
/// statistics of a normalisation, so that a checkpoint has them.
///
/// Every stage begins with 16 fraction bits. While training steps are recorded its couplings note the largest magnitude
/// m of their sums. The next call in training mode reads that. The first time, the stage gets the finest grid whose
/// range is at least 4 m: 22 - e bits (51 - e in float64), where 2^e is the smallest power of two above m, but at least
/// 0 and at most 23 (52). Afterwards the grid stays as it is until an m has left its range; then it is chosen so again,
/// which makes it coarser. A magnitude that is infinite or no number changes nothing. The sums are the same under every
/// policy, so the grids are, too.
struct StageGrids {
  Tensor bits;     ///< (stages) int32: fraction bits; -1 before they are chosen
  Tensor largest;  ///< (stages), of the streams' type: the m of what was recorded since it was read last

  static StageGrids make(std::int64_t stages, Dtype dtype, Device device);
};

/// A tensor on the first of several grids, and all of them.
struct OnStageGrids {
  Tensor x;
  std::vector<Grid> grids;
};

/// Chooses the grids anew if `training`, and rounds x to that of the first stage as round_to_grid() does. Should the
/// step fail the buffers are put back. On CUDA the host waits until it has read them. On a meta device, which has no
/// numbers, the grids are as if not chosen. Throws DtypeError, DeviceError, ShapeError for buffers that do not fit x or
/// each other.
OnStageGrids round_to_stage_grids(Tensor x, const StageGrids& grids, bool training);

}  // namespace palimpsest::ops

// Checkpoints of small models, and the folders that they are kept in.

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include <palimpsest/autograd/gradcheck.hpp>
#include <palimpsest/nn/layers.hpp>
#include <palimpsest/nn/sgd.hpp>
#include <palimpsest/storage/weights.hpp>
#include <palimpsest/train/checkpoint_reader.hpp>
#include <palimpsest/train/checkpoints.hpp>
#include "tests/support/temporary_folder.hpp"

namespace palimpsest::train {
namespace {

namespace fs = std::filesystem;

TEST(Checkpoint, AnotherModelLeavesEverythingAsItWas) {
  const testing::TemporaryFolder folder;
  nn::Init init(1);
  nn::Linear small(init, 3, 2);
  nn::Linear large(init, 3, 4);
  nn::Sgd small_sgd(small.parameters(), {});
  nn::Sgd large_sgd(large.parameters(), {});
  stage_checkpoint(folder / "checkpoint-00000005.safetensors", {small, small_sgd}, 5).commit();
  const std::string before = large.state_digest();
  EXPECT_THROW(read_checkpoint(folder / "checkpoint-00000005.safetensors", {large, large_sgd}), DataError);
  EXPECT_EQ(large.state_digest(), before);
  EXPECT_TRUE(large_sgd.state().empty());
}

TEST(Checkpoint, AFolderThatCannotBeWrittenIsAnErrorBeforeTheFirstStep) {
  const testing::TemporaryFolder folder;
  std::ofstream(folder / "file") << "text";
  EXPECT_THROW(Checkpoints({.folder = folder / "file"}), Error);
  EXPECT_THROW(Checkpoints({.folder = folder / "file/run"}), Error);
  EXPECT_THROW(Checkpoints({.folder = folder / "run", .keep = 0}), ValueError);
  EXPECT_THROW(Checkpoints({.folder = folder / "run", .every = "soon"}), ValueError);
}

/// A small model with its optimiser.
struct Small {
  nn::Init init{1};
  nn::Linear model{init, 3, 2};
  nn::Sgd sgd{model.parameters(), {}};
  RunState state{model, sgd};
};

/// Writes a checkpoint of it after so many steps.
void write_small(const std::string& file, std::int64_t steps, storage::Metadata metadata = {}) {
  const Small small;
  std::vector<storage::TensorToStore> tensors = storage::tensors_to_store(storage::state_of(small.model));
  tensors.push_back({"random/counters", storage::ElementType::I64, {0}, [](const storage::PutBytes&) {}});
  metadata.emplace("checkpoint_version", "1");
  metadata.emplace("steps", std::to_string(steps));
  storage::write_safetensors(file, std::move(tensors), metadata);
}

TEST(Checkpoint, AFileOfALaterVersionIsLeftAlone) {
  const testing::TemporaryFolder folder;
  const Small small;
  Checkpoints checkpoints({.folder = folder / "run"});
  const std::string file = folder / "run/checkpoint-00000007.safetensors";
  write_small(file, 7, {{"checkpoint_version", "2"}});
  EXPECT_THROW(checkpoints.resume(small.state), LaterVersion);
  EXPECT_TRUE(fs::exists(file));
}

TEST(Checkpoint, AFileThatIsOfAnotherStepThanItsNameIsDamaged) {
  const testing::TemporaryFolder folder;
  const Small small;
  Checkpoints checkpoints({.folder = folder / "run"});
  write_small(folder / "run/checkpoint-00000004.safetensors", 4);
  write_small(folder / "run/checkpoint-00000999.safetensors", 3);
  std::vector<std::string> warnings;
  checkpoints.set_warn([&](const std::string& what) { warnings.push_back(what); });
  EXPECT_EQ(checkpoints.resume(small.state), 4);
  ASSERT_EQ(warnings.size(), 1U);
  EXPECT_NE(warnings[0].find("after 3 steps, expected 999"), std::string::npos) << warnings[0];
  EXPECT_THROW(checkpoints.save(small.state, 3), StateError) << "the state is of more steps";
}

/// An optimiser with a state of its own from the beginning.
class Adagrad : public nn::Optimiser {
 public:
  explicit Adagrad(std::string name) : name_(std::move(name)) {}
  void zero_grad() override {}
  void step() override {}
  double learning_rate() const override { return 0; }
  void set_learning_rate(double) override {}
  std::vector<nn::NamedTensor> state() const override { return {{name_, sum_}}; }

 private:
  std::string name_;
  Tensor sum_ = Tensor::from_vector<float>({2}, {5, 6});
};

TEST(Checkpoint, AnotherOptimiserLeavesEverythingAsItWas) {
  const testing::TemporaryFolder folder;
  Small small;
  Adagrad sum("sum");
  Adagrad other("other");
  const std::string file = folder / "checkpoint-00000001.safetensors";
  stage_checkpoint(file, {small.model, sum}, 1).commit();
  EXPECT_THROW(read_checkpoint(file, {small.model, other}), DataError);
  EXPECT_EQ(other.state()[0].tensor.to_vector<float>()[0], 5);
  EXPECT_THROW(read_checkpoint(file, small.state), DataError) << "descent has no such state";
  EXPECT_EQ(read_checkpoint(file, {small.model, sum}), 1);
}

TEST(Checkpoint, AFolderThatIsMadeAgainIsStillOneRuns) {
  const testing::TemporaryFolder folder;
  const Small small;
  Checkpoints checkpoints({.folder = folder / "run"});
  fs::remove_all(folder / "run");
  EXPECT_TRUE(checkpoints.save(small.state, 1));
  EXPECT_THROW(Checkpoints({.folder = folder / "run"}), StateError);
}

TEST(Checkpoint, ALoopByHandGoesOnWhereItWas) {
  const testing::TemporaryFolder folder;
  const auto train_until = [&](std::int64_t end, const std::string& kept) {
    nn::Init init(1);
    nn::Linear model(init, 3, 1);
    nn::Dropout dropout(init, 0.5);
    nn::Sgd sgd(model.parameters(), {});
    Checkpoints checkpoints({.folder = kept, .every = "2steps"});
    const RunState state{model, sgd, {init.dropout_generator()}};
    for (std::int64_t step = checkpoints.resume(state); step < end; ++step) {
      sgd.zero_grad();
      const Tensor x = Tensor::from_vector<float>({2, 3}, {1, 2, 3, 4, 5, static_cast<float>(step)});
      weighted_sum(model(dropout(x)), Tensor::from_vector<float>({2, 1}, {1, 2})).backward();
      sgd.step();
      checkpoints.after_step(state, step + 1);
    }
    return model.state_digest();
  };
  const std::string undisturbed = train_until(9, "");
  train_until(5, folder / "run");  // the fifth step is lost
  EXPECT_EQ(train_until(9, folder / "run"), undisturbed);
}

TEST(Checkpoint, IntervalsAreReadOrRefused) {
  using Unit = CheckpointInterval::Unit;
  const auto is = [](const std::string& text, std::int64_t count, Unit unit) {
    const CheckpointInterval interval = parse_interval(text);
    EXPECT_EQ(interval.count, count) << text;
    EXPECT_EQ(interval.unit, unit) << text;
  };
  is("500steps", 500, Unit::Steps);
  is("1step", 1, Unit::Steps);
  is("90s", 90, Unit::Seconds);
  is("10min", 600, Unit::Seconds);
  is("2h", 7200, Unit::Seconds);
  is("3epochs", 3, Unit::Epochs);
  for (const char* const text :
       {"", "10", "min", "0steps", "-1s", "1.5h", "10 min", "10mins", "9999999999s", "3000000h"}) {
    EXPECT_THROW(parse_interval(text), ValueError) << text;
  }
}

}  // namespace
}  // namespace palimpsest::train

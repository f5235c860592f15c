// The time that a training run waits for a checkpoint, and then the disk, for models of several sizes.
//
// usage: checkpoint_cost FOLDER

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <iomanip>
#include <iostream>
#include <vector>

#include <palimpsest/nn/models/densenet.hpp>
#include <palimpsest/nn/models/revnet.hpp>
#include <palimpsest/nn/sgd.hpp>
#include <palimpsest/train/checkpoint_file.hpp>

namespace palimpsest {
namespace {

double milliseconds(std::chrono::steady_clock::duration time) {
  return std::chrono::duration<double, std::milli>(time).count();
}

double median(std::vector<double> times) {
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

/// A line of the table: the medians of seven checkpoints after 10,000 steps.
void measure(const char* name, nn::Module& model, const std::string& file) {
  nn::Sgd sgd(model.parameters(), {});
  std::vector<nn::NamedTensor> velocities;
  for (const auto& [parameter, tensor] : model.parameters()) {
    velocities.push_back({parameter + ".velocity", Tensor::zeros(tensor.shape())});
  }
  sgd.set_state(velocities);
  train::RunRecord record;
  record.steps.resize(10'000);
  const train::RunState state{model, sgd, {}, &record};
  std::vector<double> waiting, disk;
  for (int i = 0; i < 7; ++i) {
    const auto start = std::chrono::steady_clock::now();
    PendingFile pending = train::stage_checkpoint(file, state, 10'000);
    const auto staged = std::chrono::steady_clock::now();
    pending.commit();
    waiting.push_back(milliseconds(staged - start));
    disk.push_back(milliseconds(std::chrono::steady_clock::now() - staged));
  }
  constexpr double minute = 60'000;
  std::cout << std::fixed << std::setprecision(1) << "| " << name << " | "
            << static_cast<double>(std::filesystem::file_size(file)) / 1e6 << " | " << median(waiting) << " | "
            << median(disk) << " | " << std::setprecision(2) << 100 * median(waiting) / minute << " % |" << std::endl;
}

}  // namespace
}  // namespace palimpsest

int main(int argc, char** argv) {
  using namespace palimpsest;
  if (argc != 2) {
    std::cerr << "usage: checkpoint_cost FOLDER" << std::endl;
    return 2;
  }
  const std::string file = (std::filesystem::path(argv[1]) / "checkpoint_cost.safetensors").string();
  std::cout << "| model | MB | training waits, ms | the disk, ms | of a minute |\n|---|---:|---:|---:|---:|"
            << std::endl;
  nn::RevNet revnet(nn::RevNet::cifar(110), nn::Init(1));
  measure("RevNet-110", revnet, file);
  nn::DenseNet small(nn::DenseNetOptions::cifar(100, 12), nn::Init(1));
  measure("DenseNet-BC(100,12)", small, file);
  nn::DenseNet large(nn::DenseNetOptions::cifar(190, 40), nn::Init(1));
  measure("DenseNet-BC(190,40)", large, file);
  nn::DenseNet largest(nn::DenseNetOptions::imagenet(264, 48), nn::Init(1));
  measure("DenseNet-264, k = 48", largest, file);
  std::filesystem::remove(file);
}

// Measures what a device does in a second, for the predicted times of the other examples.
//
//   calibrate_rates --out rates.txt
//   cifar_densenet --memory budget=500MiB --rates rates.txt

#include <CLI/CLI.hpp>
#include <iostream>

#include <palimpsest/core/device.hpp>
#include <palimpsest/core/parallel.hpp>
#include <palimpsest/core/philox.hpp>
#include <palimpsest/core/whole_file.hpp>
#include <palimpsest/memory/offload.hpp>
#include <palimpsest/memory/planner/calibration.hpp>
#include <palimpsest/nn/models/densenet.hpp>
#include <palimpsest/nn/models/revnet.hpp>
#include <palimpsest/nn/sgd.hpp>
#include <palimpsest/ops/cross_entropy.hpp>
#include <palimpsest/train/images.hpp>
#include <palimpsest/train/training.hpp>
#include "examples/flags/command_line.hpp"
#include "examples/flags/example.hpp"

using namespace palimpsest;

namespace {

constexpr std::string_view program = "calibrate_rates";

struct Flags {
  std::string out;
  std::string device = "cpu";
  std::string offload_dir;
  std::int64_t batch_size = 64;
  int rounds = 8;
  int threads = thread_count();
};

/// False if --help was asked for. Throws flags::UsageError.
bool parse(int argc, char** argv, Flags& flags) {
  CLI::App app(
      "Measures a device's rates with training steps of a small DenseNet and a small RevNet, under every policy.\n"
      "Other programs should rest meanwhile.",
      std::string(program));
  app.add_option("--out", flags.out, "the table's file, for --rates; by default standard output")->type_name("FILE");
  app.add_option("--device", flags.device, "cpu or cuda")->check(CLI::IsMember({"cpu", "cuda"}))->capture_default_str();
  app.add_option("--threads", flags.threads, "threads to compute with on the cpu; all cores by default")
      ->check(flags::whole_numbers(1, 256))
      ->capture_default_str();
  app.add_option("--offload-dir", flags.offload_dir, "where the offload policy puts its file on the cpu")
      ->type_name("DIR");
  app.add_option("--batch-size", flags.batch_size, "images of a step")
      ->check(flags::whole_numbers(1, 65536))
      ->capture_default_str();
  app.add_option("--rounds", flags.rounds, "steps under each policy")
      ->check(flags::whole_numbers(1, 1000))
      ->capture_default_str();
  return flags::parse(app, argc, argv);
}

/// Adds what steps of this model on random images show.
void measure(memory::Calibration& calibration,
             const std::function<std::unique_ptr<nn::Classifier>(nn::Init)>& make_model, const Flags& flags,
             Device device) {
  constexpr std::int64_t side = 32;
  Random random(1);
  std::vector<float> pixels(static_cast<std::size_t>(flags.batch_size * 3 * side * side));
  for (float& pixel : pixels) pixel = static_cast<float>(random.normal());
  const std::vector<Tensor> batch = {Tensor::from_vector({flags.batch_size, 3, side, side}, pixels, device, Tag::Data),
                                     Tensor::zeros({flags.batch_size}, Dtype::Int32, device, Tag::Data)};
  const train::Task task{
      .name = "calibration",
      .make_model = make_model,
      .batch = train::image_batch(3, side, side),
      .loss = train::with_model<nn::Classifier>([](nn::Classifier& model, std::span<const Tensor> batch) {
        return ops::cross_entropy(model(batch[0]), batch[1]);
      }),
      // So small a rate that no number of steps takes the model anywhere.
      .make_optimiser = [](auto parameters) {
        return std::make_unique<nn::Sgd>(std::move(parameters), nn::SgdOptions{.learning_rate = 1e-6, .momentum = 0.9});
      }};
  train::Training training(task, nn::Init(0, device));
  const auto step = [&](const PolicyPtr& policy) {
    training.model().set_memory(policy);
    training.step(batch);
  };
  calibration.measure(step, flags.rounds, memory::offload({.directory = flags.offload_dir}));
}

void calibrate(const Flags& flags) {
  const WholeFile file(flags.out);
  const Device device = flags::choose_device(flags.device);
  set_thread_count(flags.threads);
  memory::Calibration calibration(device);
  const auto densenet = [](nn::Init init) {
    return std::make_unique<nn::DenseNet>(nn::DenseNetOptions::cifar(40, 12), std::move(init));
  };
  const auto revnet = [](nn::Init init) {
    return std::make_unique<nn::RevNet>(nn::RevNet::cifar(38), std::move(init));
  };
  measure(calibration, densenet, flags, device);
  measure(calibration, revnet, flags, device);
  const std::string where =
      device == Device::Cuda ? cuda_device_name() : concat_text("cpu, ", flags.threads, " threads");
  const std::string table = calibration.rates().text(concat_text(
      "rates of ", where, ", from steps of DenseNet-BC(40,12) and RevNet-38, batches of ", flags.batch_size));
  if (file) {
    file.write(table);
  } else {
    std::cout << table;
  }
}

}  // namespace

int main(int argc, char** argv) {
  return palimpsest::flags::run_program(program, [&] {
    Flags flags;
    if (parse(argc, argv, flags)) calibrate(flags);
    return 0;
  });
}

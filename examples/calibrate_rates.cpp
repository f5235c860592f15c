// Measures what a device does in a second, for the predicted times of the other examples.
//
//   calibrate_rates --out rates.txt
//   cifar_densenet --memory budget=500MiB --rates rates.txt

#include <CLI/CLI.hpp>
#include <iostream>

#include <palimpsest/core/device.hpp>
#include <palimpsest/core/parallel.hpp>
#include <palimpsest/core/philox.hpp>
#include <palimpsest/memory/offload.hpp>
#include <palimpsest/memory/planner/calibration.hpp>
#include <palimpsest/nn/models/densenet.hpp>
#include <palimpsest/nn/models/revnet.hpp>
#include "examples/harness/command_line.hpp"
#include "examples/harness/example.hpp"
#include "examples/harness/report_file.hpp"
#include "examples/harness/training_step.hpp"

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

/// False if --help was asked for. Throws harness::UsageError.
bool parse(int argc, char** argv, Flags& flags) {
  CLI::App app(
      "Measures a device's rates with training steps of a small DenseNet and a small RevNet, under every policy.\n"
      "Other programs should rest meanwhile.",
      std::string(program));
  app.add_option("--out", flags.out, "the table's file, for --rates; by default standard output")->type_name("FILE");
  app.add_option("--device", flags.device, "cpu or cuda")->check(CLI::IsMember({"cpu", "cuda"}))->capture_default_str();
  app.add_option("--threads", flags.threads, "threads to compute with on the cpu; all cores by default")
      ->check(harness::whole_numbers(1, 256))
      ->capture_default_str();
  app.add_option("--offload-dir", flags.offload_dir, "where the offload policy puts its file on the cpu")
      ->type_name("DIR");
  app.add_option("--batch-size", flags.batch_size, "images of a step")
      ->check(harness::whole_numbers(1, 65536))
      ->capture_default_str();
  app.add_option("--rounds", flags.rounds, "steps under each policy")
      ->check(harness::whole_numbers(1, 1000))
      ->capture_default_str();
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp&) {
    std::cout << app.help();
    return false;
  } catch (const CLI::ParseError& error) {
    throw harness::UsageError(concat_text(error.what(), " (--help lists the flags)"));
  }
  return true;
}

/// Adds what steps of this model on random images show.
void measure(memory::Calibration& calibration, nn::Classifier& model, const Flags& flags, Device device) {
  constexpr std::int64_t side = 32;
  Random random(1);
  std::vector<float> pixels(static_cast<std::size_t>(flags.batch_size * 3 * side * side));
  for (float& pixel : pixels) pixel = static_cast<float>(random.normal());
  const harness::Samples samples = {Tensor::from_vector({flags.batch_size, 3, side, side}, pixels, device, Tag::Data),
                                    Tensor::zeros({flags.batch_size}, Dtype::Int32, device, Tag::Data)};
  // So small a rate that no number of steps takes the model anywhere.
  nn::Sgd sgd(model.parameters(), {.learning_rate = 1e-6, .momentum = 0.9});
  calibration.measure(
      [&](const PolicyPtr& policy) {
        model.set_memory(policy);
        harness::train_step(model, sgd, samples);
      },
      flags.rounds);
}

void calibrate(const Flags& flags) {
  const harness::ReportFile file(flags.out);
  const Device device = harness::choose_device(flags.device);
  set_thread_count(flags.threads);
  if (!flags.offload_dir.empty()) memory::set_offload_directory(flags.offload_dir);
  memory::Calibration calibration(device);
  {
    nn::DenseNet model(nn::DenseNetOptions::cifar(40, 12), nn::Init(0, device));
    measure(calibration, model, flags, device);
  }
  {
    nn::RevNet model(nn::RevNet::cifar(38), nn::Init(0, device));
    measure(calibration, model, flags, device);
  }
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
  try {
    Flags flags;
    if (parse(argc, argv, flags)) calibrate(flags);
    return 0;
  } catch (const harness::UsageError& error) {
    std::cerr << program << ": " << error.what() << std::endl;
    return 2;
  } catch (const std::exception& error) {
    std::cerr << program << ": " << error.what() << std::endl;
    return 1;
  }
}

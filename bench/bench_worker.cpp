// One model under one memory policy, stepped on command, so that a driver can interleave several of these with
// PyTorch's.
//
//   bench_worker --model densenet --depth 100 --growth 12 --batch-size 64 --memory shared --threads 2
//   bench_worker --model revnet --depth 110 --batch-size 100 --memory budget=200MiB
//   bench_worker --model resnet --depth 50 --image-size 224 --classes 1000 --batch-size 16
//
// With images of more than 32x32 pixels the models are ImageNet's.
//
// Each line `step N` on standard input runs N training steps on one fixed random batch and answers with a line of JSON:
// {"ms":[...],"loss":...}; on CUDA the milliseconds are the device's own, between events. `quit`, or the end of the
// input, answers {"vm_hwm_bytes":...,"peak_bytes":{...},"predicted_bytes":...,"predicted_ms":...,...}: predictions are
// of a step under the same policy on a meta device, by the table of --rates.
//
// On the CPU a budget's plan may offload, and then to that folder, where --offload-dir names one.

#include <chrono>
#include <cstdlib>
#include <exception>
#include <iostream>
#include <map>
#include <memory>
#include <string>

#include <palimpsest/autograd/verify.hpp>
#include <palimpsest/core/allocator.hpp>
#include <palimpsest/core/device.hpp>
#include <palimpsest/core/parallel.hpp>
#include <palimpsest/memory/offload.hpp>
#include <palimpsest/nn/models/densenet.hpp>
#include <palimpsest/nn/models/imagenet_resnet.hpp>
#include <palimpsest/nn/models/resnet.hpp>
#include <palimpsest/nn/models/revnet.hpp>
#include <palimpsest/nn/sgd.hpp>
#include <palimpsest/ops/cross_entropy.hpp>
#include <palimpsest/train/images.hpp>
#include <palimpsest/train/rehearsal.hpp>

namespace {

using namespace palimpsest;
using Clock = std::chrono::steady_clock;

struct Options {
  std::map<std::string, std::string> text = {
      {"model", "densenet"}, {"depth", "100"},  {"growth", "12"},  {"batch-size", "64"}, {"memory", "store-all"},
      {"threads", "2"},      {"channels", "3"}, {"classes", "10"}, {"device", "cpu"},    {"precision", "fp32"},
      {"grid", ""},          {"verify", "off"}, {"rates", ""},     {"offload-dir", ""},  {"image-size", "32"}};

  Options(int argc, char** argv) {
    for (int i = 1; i < argc; ++i) {
      const std::string flag = argv[i];
      const auto option = flag.starts_with("--") ? text.find(flag.substr(2)) : text.end();
      if (option == text.end() || i + 1 == argc) throw ValueError(concat_text("unknown or incomplete option ", flag));
      option->second = argv[++i];
    }
  }

  const std::string& operator[](const std::string& name) const { return text.at(name); }
  std::int64_t number(const std::string& name) const { return std::stoll(text.at(name)); }
  bool imagenet() const { return number("image-size") > 32; }
};

Device device_of(const std::string& name) {
  for (const Device device : {Device::Cpu, Device::Cuda, Device::MetaCpu, Device::MetaCuda}) {
    if (name == to_string(device)) return device;
  }
  throw ValueError("--device takes cpu, cuda, meta-cpu or meta-cuda");
}

ops::Precision precision_of(const std::string& name) {
  if (name == "fp32") return ops::Precision::Float32;
  if (name == "tf32") return ops::Precision::Tf32;
  throw ValueError("--precision takes fp32 or tf32");
}

/// Milliseconds between two points: on CUDA by the device's clock, elsewhere by the host's.
class Stopwatch {
 public:
  explicit Stopwatch(Device device) {
    if (device == Device::Cuda) timer_ = make_device_timer();
  }

  void start() {
    if (timer_ != nullptr) timer_->start();
    start_ = Clock::now();
  }
  double stop() {
    if (timer_ == nullptr) return std::chrono::duration<double, std::milli>(Clock::now() - start_).count();
    timer_->stop();
    return timer_->milliseconds();
  }

 private:
  std::unique_ptr<DeviceTimer> timer_;
  Clock::time_point start_;
};

std::unique_ptr<nn::Classifier> make_model(const Options& options, nn::Init init) {
  if (options["model"] == "densenet") {
    const std::int64_t depth = options.number("depth");
    nn::DenseNetOptions spec = options.imagenet() ? nn::DenseNetOptions::imagenet(depth)
                                                  : nn::DenseNetOptions::cifar(depth, options.number("growth"));
    spec.image_channels = options.number("channels");
    spec.classes = options.number("classes");
    return std::make_unique<nn::DenseNet>(spec, std::move(init));
  }
  const bool reversible = options["model"] == "revnet";
  if (!reversible && options["model"] != "resnet") throw ValueError("--model takes densenet, revnet or resnet");
  if (options.imagenet() && !reversible) {
    nn::ImageNetResNetOptions spec = nn::ImageNetResNetOptions::of_depth(options.number("depth"));
    spec.image_channels = options.number("channels");
    spec.classes = options.number("classes");
    return std::make_unique<nn::ImageNetResNet>(spec, std::move(init));
  }
  nn::ResidualOptions spec = options.imagenet()
                                 ? nn::RevNet::imagenet(options.number("depth"))
                                 : (reversible ? nn::RevNet::cifar : nn::ResNet::cifar)(options.number("depth"), false);
  spec.image_channels = options.number("channels");
  spec.classes = options.number("classes");
  if (!options["grid"].empty()) spec.grid = static_cast<int>(options.number("grid"));
  if (reversible) return std::make_unique<nn::RevNet>(spec, std::move(init));
  return std::make_unique<nn::ResNet>(spec, std::move(init));
}

/// A model that learns from one random batch.
train::Task task_of(const Options& options) {
  const std::int64_t channels = options.number("channels");
  const auto sgd = [nesterov = options["model"] == "densenet"](auto parameters) {
    return std::make_unique<nn::Sgd>(std::move(parameters),
                                     nn::SgdOptions{.learning_rate = 0.1, .momentum = 0.9, .nesterov = nesterov});
  };
  const auto loss = [](nn::Classifier& model, std::span<const Tensor> batch) {
    return ops::cross_entropy(model(batch[0]), batch[1]);
  };
  return {.name = options["model"],
          .make_model = [&options](nn::Init init) { return make_model(options, std::move(init)); },
          .batch = train::image_batch(channels, options.number("image-size"), options.number("image-size")),
          .loss = train::with_model<nn::Classifier>(loss),
          .make_optimiser = sgd,
          .training = {.name = "noise", .samples = options.number("batch-size")}};
}

std::vector<Tensor> noise(const Options& options, Device device) {
  const std::int64_t batch = options.number("batch-size");
  const std::int64_t side = options.number("image-size");
  Random random(2);
  std::vector<float> pixels(static_cast<std::size_t>(batch * options.number("channels") * side * side));
  for (float& pixel : pixels) pixel = static_cast<float>(random.normal());
  std::vector<std::int32_t> labels(static_cast<std::size_t>(batch));
  for (auto& label : labels)
    label = static_cast<std::int32_t>(random.below(static_cast<std::uint64_t>(options.number("classes"))));
  return {Tensor::from_vector({batch, options.number("channels"), side, side}, pixels, device, Tag::Data),
          Tensor::from_vector({batch}, labels, device, Tag::Data)};
}

train::Options run_options(const Options& options, Device device) {
  return {.device = device,
          .memory = options["memory"],
          .rates = options["rates"],
          .offload_dir = options["offload-dir"],
          .verify = parse_verify(options["verify"]),
          .batch_size = options.number("batch-size"),
          .seed = 1,
          .products = {.precision = precision_of(options["precision"])}};
}

/// The predicted needs of a step under these policies.
memory::StepForecast forecast_of(const train::Task& task, const train::Options& options,
                                 const train::MemoryChoice& choice) {
  train::Rehearsal rehearsal(task, options);
  choice.apply(rehearsal.model());
  return memory::forecast(rehearsal.step_under(), nullptr, train::rates_for(options));
}

class Worker {
 public:
  Worker(const Options& options, const train::Options& how, const train::Task& task, const train::MemoryChoice& choice,
         const memory::StepForecast& forecast)
      : device_(how.device),
        stopwatch_(how.device),
        forecast_(forecast),
        verify_(how.verify),
        training_(task, nn::Init(how.seed, how.device, Dtype::Float32, how.products)),
        batch_(noise(options, how.device)) {
    choice.apply(training_.model());
    if (choice.budget != 0) allocator(how.device).set_limit(choice.budget);
  }

  void steps(std::int64_t count) {
    std::cout << "{\"ms\":[";
    for (std::int64_t i = 0; i < count; ++i) {
      stopwatch_.start();
      const Tensor loss = training_.step(batch_);
      std::cout << (i > 0 ? "," : "") << stopwatch_.stop();
      if (!is_meta(device_)) loss_ = loss.item();
    }
    std::cout << "],\"loss\":" << loss_ << "}" << std::endl;
  }

  void summary() {
    const MemoryStats stats = allocator(device_).stats();
    std::cout << "{\"vm_hwm_bytes\":" << train::peak_resident_bytes() << ",\"peak_bytes\":{\"total\":" << stats.peak
              << ",\"reserved\":" << stats.peak_reserved;
    for (int tag = 0; tag < tag_count; ++tag) {
      std::cout << ",\"" << to_string(static_cast<Tag>(tag))
                << "\":" << stats.peak_by_tag[static_cast<std::size_t>(tag)];
    }
    std::cout << "},\"system_calls\":" << stats.system_calls
              << ",\"parameters\":" << training_.model().parameter_count() << ",\"predicted_bytes\":" << forecast_.peak
              << ",\"predicted_ms\":" << forecast_.seconds * 1e3
              << ",\"offloaded_peak_bytes\":" << memory::offload_stats(device_).peak;
    if (device_ == Device::Cuda) {
      const DeviceMemory memory = cuda_device_memory();
      std::cout << ",\"device_bytes\":" << memory.total - memory.free;
    }
    if (!is_meta(device_)) std::cout << ",\"state_digest\":\"" << training_.model().state_digest() << '"';
    std::cout << "}" << std::endl;
  }

 private:
  Device device_;
  Stopwatch stopwatch_;
  memory::StepForecast forecast_;
  VerifyScope verify_;
  train::Training training_;
  std::vector<Tensor> batch_;
  double loss_ = 0;
};

}  // namespace

int main(int argc, char** argv) {
  try {
    const Options options(argc, argv);
    set_thread_count(static_cast<int>(options.number("threads")));
    const Device device = device_of(options["device"]);
    const train::Task task = task_of(options);
    const train::Options how = run_options(options, device);
    const train::MemoryChoice choice = train::choose_memory(task, how);
    const memory::StepForecast forecast = forecast_of(task, how, choice);
    allocator(device).reset_peak();  // on a meta device, of the rehearsals
    Worker worker(options, how, task, choice, forecast);
    std::string command;
    while (std::cin >> command && command != "quit") {
      std::int64_t count = 0;
      if (command != "step" || !(std::cin >> count) || count < 1) throw ValueError("expected 'step N' or 'quit'");
      worker.steps(count);
    }
    worker.summary();
    return EXIT_SUCCESS;
  } catch (const std::exception& error) {
    std::cerr << "bench_worker: " << error.what() << '\n';
    return EXIT_FAILURE;
  }
}

// A model, data and a loss of one's own, with all that the library has for them, from its installed headers alone: a
// U-Net (Ronneberger et al. 2015) that finds discs, squares and crosses in images that the program draws, pixel by
// pixel.
//
// usage: own_model [--memory TEXT] [--verify off|sampled|all] [--batch-size N] [--images N] [--epochs N]
//                  [--device cpu|cuda] [--plan yes] [--report FILE] [--page FILE] [--snapshot FILE] [--trace FILE]

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdlib>
#include <exception>
#include <iostream>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <palimpsest/core/philox.hpp>
#include <palimpsest/nn/layers.hpp>
#include <palimpsest/nn/model.hpp>
#include <palimpsest/nn/models/revnet.hpp>
#include <palimpsest/nn/sgd.hpp>
#include <palimpsest/ops/concat.hpp>
#include <palimpsest/ops/couple.hpp>
#include <palimpsest/ops/cross_entropy.hpp>
#include <palimpsest/ops/pool.hpp>
#include <palimpsest/reports/plan_table.hpp>
#include <palimpsest/reports/run.hpp>

using namespace palimpsest;

namespace {

constexpr std::int64_t size = 96;    // of an image's side
constexpr std::int64_t classes = 4;  // background, disc, square, cross
constexpr int grid = 16;             // fractional bits of the streams in the middle, so that their reversal is exact

/// Two times convolution-BN-ReLU: (N, in, H, W) -> (N, out, H, W).
struct Stage : nn::Block<Tensor(Tensor)> {
  Stage(nn::Init& init, std::int64_t in, std::int64_t out)
      : conv1(init, in, out, {.padding = ops::Padding::all(1)}),
        norm1(init, out, {.relu = true}),
        conv2(init, out, out, {.padding = ops::Padding::all(1)}),
        norm2(init, out, {.relu = true}) {
    add_module("conv1", conv1);
    add_module("norm1", norm1);
    add_module("conv2", conv2);
    add_module("norm2", norm2);
  }

  Tensor forward(Tensor x) override { return norm2(conv2(norm1(conv1(std::move(x))))); }

  nn::Conv2d conv1;
  nn::BatchNorm2d norm1;
  nn::Conv2d conv2;
  nn::BatchNorm2d norm2;
};

/// Images (N, 3, 96, 96) -> scores of the classes for each pixel, (N, 4, 96, 96).
struct UNet : nn::Model<Tensor(Tensor)> {
  explicit UNet(nn::Init init)
      : down1(init, 3, 12),
        down2(init, 12, 24),
        down3(init, 24, 48),
        middle(init, {24, 24, 1}, false, true, grid),
        up2(init, 48 + 24, 24),
        up1(init, 24 + 12, 12),
        head(init, 12, classes, {.kernel = 1, .bias = true}) {
    add_module("down1", down1);
    add_module("down2", down2);
    add_module("down3", down3);
    add_module("middle", middle);
    add_module("up2", up2);
    add_module("up1", up1);
    add_module("head", head);
  }

  Tensor forward(Tensor images) override {
    const Tensor fine = down1(std::move(images));
    const Tensor half = down2(ops::max_pool2d(fine, 2, 2));
    Tensor x = ops::round_to_grid(down3(ops::max_pool2d(half, 2, 2)), grid);
    std::vector<Tensor> halves = ops::split(std::move(x), std::array<std::int64_t, 2>{24, 24});
    const nn::Streams streams = middle({std::move(halves[0]), std::move(halves[1])});
    x = ops::upsample_nearest2d(ops::concat(std::array{streams.a, streams.b}), 2);
    x = up2(ops::concat(std::array{std::move(x), half}));
    x = up1(ops::concat(std::array{ops::upsample_nearest2d(x, 2), fine}));
    return head(std::move(x));
  }

  Stage down1, down2, down3;
  nn::RevNetUnit middle;  // can be reversed
  Stage up2, up1;
  nn::Conv2d head;
};

/// A shape of class `kind` around (x, y) covers the pixel that is (dx, dy) away from there.
bool covers(std::int64_t kind, std::int64_t radius, std::int64_t dx, std::int64_t dy) {
  const std::int64_t far = std::max(std::abs(dx), std::abs(dy));
  if (kind == 1) return dx * dx + dy * dy <= radius * radius;
  if (kind == 2) return far <= radius;
  return far <= radius && std::min(std::abs(dx), std::abs(dy)) <= radius / 3;
}

/// Draws image number `number`, channels-last, and the classes of its pixels: three shapes in colours of their own.
void draw(std::uint64_t number, float* pixels, std::int32_t* labels) {
  Random random(number);
  for (std::int64_t i = 0; i < size * size * 3; ++i) pixels[i] = static_cast<float>(random.uniform() - 0.5);
  std::fill_n(labels, size * size, 0);
  for (int shape = 0; shape < 3; ++shape) {
    const auto below = [&](std::int64_t bound) {
      return static_cast<std::int64_t>(random.below(static_cast<std::uint64_t>(bound)));
    };
    const std::int64_t kind = 1 + below(3), radius = 8 + below(9), y0 = below(size), x0 = below(size);
    const std::array<double, 3> colour = {random.normal(), random.normal(), random.normal()};
    for (std::int64_t i = 0; i < size * size; ++i) {
      if (!covers(kind, radius, i % size - x0, i / size - y0)) continue;
      labels[i] = static_cast<std::int32_t>(kind);
      for (std::size_t c = 0; c < 3; ++c) {
        pixels[i * 3 + static_cast<std::int64_t>(c)] = static_cast<float>(colour[c] + random.uniform() - 0.5);
      }
    }
  }
}

/// `samples` images in an epoch, new ones in every epoch, from number `base` on.
train::Data drawn(std::string name, std::int64_t samples, std::int64_t base) {
  return train::made_data(
      std::move(name), samples, [=](std::int64_t epoch, std::int64_t first, std::int64_t count, Device device) {
        std::vector<float> pixels(static_cast<std::size_t>(count * size * size * 3));
        std::vector<std::int32_t> labels(static_cast<std::size_t>(count * size * size));
        for (std::int64_t i = 0; i < count; ++i) {
          draw(static_cast<std::uint64_t>(base + epoch * samples + first + i), pixels.data() + i * size * size * 3,
               labels.data() + i * size * size);
        }
        return std::vector<Tensor>{Tensor::from_layout({count, 3, size, size}, pixels.data(), device, Tag::Data),
                                   Tensor::from_layout({count, size, size}, labels.data(), device, Tag::Data)};
      });
}

using Batch = std::span<const Tensor>;

train::Task shapes(std::int64_t images) {
  return {.name = "UNet",
          .make_model = [](nn::Init init) { return std::make_unique<UNet>(std::move(init)); },
          .batch = [](std::int64_t n) -> std::vector<TensorSpec> {
            return {{{n, 3, size, size}}, {{n, size, size}, Dtype::Int32}};
          },
          .loss = train::with_model<UNet>(
              [](UNet& net, Batch batch) { return ops::cross_entropy(net(batch[0]), batch[1]); }),
          .make_optimiser =
              [](std::vector<nn::NamedTensor> parameters) {
                return std::make_unique<nn::Sgd>(std::move(parameters), nn::SgdOptions{.learning_rate = 0.1});
              },
          .schedule = [](std::int64_t steps) { return nn::Schedule::cosine(0.1, steps).with_warmup(5); },
          .training = drawn("drawn shapes", images, 1'000'000),
          .evaluation = drawn("drawn shapes", std::max<std::int64_t>(images / 8, 1), 0),
          .score = train::with_model<UNet>([](UNet& net, Batch batch) {
            const auto right = static_cast<double>(ops::count_correct(net(batch[0]), batch[1]));
            return train::Score{right, batch[1].shape().count()};
          }),
          .metric = "pixel accuracy",
          .unit = "images"};
}

using Flags = std::map<std::string, std::string>;

const char* const usage =
    "own_model: trains a U-Net on shapes that it draws\n"
    "  --memory POLICY  --verify off|sampled|all  --device cpu|cuda  --plan yes\n"
    "  --batch-size N  --images N  --epochs N\n"
    "  --report FILE  --page FILE  --snapshot FILE  --trace FILE\n";

/// "--name value" for each name; throws ValueError for others.
Flags read_flags(int argc, char** argv) {
  Flags flags = {{"--memory", "store-all"},
                 {"--verify", "off"},
                 {"--batch-size", "8"},
                 {"--images", "400"},
                 {"--epochs", "4"},
                 {"--device", "cpu"},
                 {"--plan", ""},
                 {"--report", ""},
                 {"--page", ""},
                 {"--snapshot", ""},
                 {"--trace", ""}};
  for (int i = 1; i < argc; i += 2) {
    const auto flag = flags.find(argv[i]);
    if (flag == flags.end()) throw ValueError(concat_text("unknown flag ", argv[i]));
    if (i + 1 == argc) throw ValueError(concat_text(argv[i], " needs a value"));
    flag->second = argv[i + 1];
  }
  return flags;
}

/// A whole number; throws ValueError, naming the flag, for anything else.
std::int64_t whole(const Flags& flags, const std::string& name) {
  const std::string& text = flags.at(name);
  std::int64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error == std::errc() && end == text.data() + text.size()) return number;
  throw ValueError(concat_text(name, " is '", text, "', expected a whole number"));
}

Device device(const Flags& flags) {
  const std::string& name = flags.at("--device");
  if (name == "cpu") return Device::Cpu;
  if (name == "cuda") return Device::Cuda;
  throw ValueError(concat_text("--device is '", name, "', expected cpu or cuda"));
}

int run(int argc, char** argv) {
  if (argc == 2 && std::string(argv[1]) == "--help") return std::cout << usage, 0;
  auto flags = read_flags(argc, argv);
  const train::Task task = shapes(whole(flags, "--images"));
  // [run]
  const train::Options options{.device = device(flags),
                               .memory = flags["--memory"],
                               .verify = parse_verify(flags["--verify"]),
                               .batch_size = whole(flags, "--batch-size"),
                               .epochs = whole(flags, "--epochs"),
                               .names = {.program = "own_model", .memory = "--memory "}};
  if (!flags["--plan"].empty()) reports::print_plan(std::cout, task, options);
  reports::Run run(task, options,
                   {.report = flags["--report"],
                    .page = flags["--page"],
                    .snapshot = flags["--snapshot"],
                    .trace = flags["--trace"]});
  std::cout << run.announcement() << std::flush;  // the peak, before anything runs
  if (run.train(std::cout)) return 0;
  return run.record().interrupted ? 128 + run.record().signal : 1;
  // [run]
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const ValueError& error) {
    std::cerr << "own_model: " << error.what() << '\n';
    return 2;
  } catch (const std::exception& error) {
    std::cerr << "own_model: " << error.what() << '\n';
    return 1;
  }
}

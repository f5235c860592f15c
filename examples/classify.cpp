// Says what is in a picture: the likeliest classes of a network that imagenet has trained, or that torchvision has.
//
//   classify --weights mine.safetensors photo.jpg another.png

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <iomanip>
#include <iostream>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>
#include <string_view>

#include <palimpsest/datasets/image_folder.hpp>
#include <palimpsest/datasets/image_transform.hpp>
#include <palimpsest/datasets/printable.hpp>
#include <palimpsest/storage/weights.hpp>
#include <palimpsest/train/images.hpp>
#include "examples/flags/architectures.hpp"
#include "examples/flags/command_line.hpp"
#include "examples/flags/example.hpp"

using namespace palimpsest;

namespace {

struct Options {
  std::string weights;
  std::string arch;
  flags::NetForm form = {.classes = 0};
  std::string classes;  // file
  std::int64_t image_size = 0;
  std::int64_t crops = 1;
  int top = 5;
  bool json = false;
  std::string device = "auto";
  int threads = thread_count();
  std::vector<std::string> pictures;
};

/// Throws UsageError. False if the arguments asked for help.
bool parse(CLI::App& app, Options& options, int argc, const char* const* argv) {
  app.add_option("pictures", options.pictures, "JPEG and PNG files")->required()->type_name("FILE");
  app.add_option("--weights", options.weights, "the network's weights (safetensors)")->required()->type_name("FILE");
  app.add_option("--arch", options.arch,
                 "the network, where the weights do not say: " + join(flags::architecture_flags()))
      ->check(flags::one_of(flags::architecture_flags()));
  flags::add_form_flags(options.form,
                        [&](const std::string& flag, auto& variable, const char* type, const std::string& what) {
                          return app.add_option(flag, variable, what)->type_name(type);
                        });
  app.add_option("--classes", options.classes, "names of the classes, a line each, where the weights do not say")
      ->type_name("FILE");
  app.add_option("--image-size", options.image_size,
                 "height and width of images, where the weights do not say (else 224)")
      ->check(flags::whole_numbers(8, 4096))
      ->type_name("N");
  app.add_option("--crops", options.crops, "1: the middle of a picture; 10: also its corners, and all mirrored")
      ->check(CLI::IsMember({1, 10}))
      ->capture_default_str();
  app.add_option("--top", options.top, "classes that are told of each picture")
      ->check(flags::whole_numbers(1, 1'000'000))
      ->type_name("N")
      ->capture_default_str();
  app.add_flag("--json", options.json, "print JSON");
  app.add_option("--device", options.device, "auto, cpu or cuda")
      ->check(flags::one_of({"auto", "cpu", "cuda"}))
      ->capture_default_str();
  app.add_option("--threads", options.threads, "threads to compute with on the cpu")
      ->check(flags::whole_numbers(1, 256));
  return flags::parse(app, argc, argv);
}

/// The lines of a file, without what Windows puts around them: a mark in front, carriage returns at the ends.
std::vector<std::string> lines_of(const std::string& file) {
  if (std::filesystem::is_directory(file)) throw DataError(file + ": is a folder, expected a file of names");
  std::ifstream in(file, std::ios::binary);
  std::vector<std::string> lines;
  for (std::string line; std::getline(in, line);) {
    constexpr std::string_view mark = "\xEF\xBB\xBF";
    if (lines.empty() && line.starts_with(mark)) line.erase(0, mark.size());
    if (line.ends_with('\r')) line.pop_back();
    lines.push_back(line);
  }
  if (!in.eof()) throw DataError(file + ": cannot be read");
  return lines;
}

/// The names of classes in a file, a line each. Empty lines at its end are none. Throws DataError.
std::vector<std::string> read_names(const std::string& file) {
  std::vector<std::string> names = lines_of(file);
  while (!names.empty() && names.back().empty()) names.pop_back();
  if (names.empty()) throw DataError(file + ": has no names of classes");
  std::map<std::string_view, std::size_t> line_of;
  for (std::size_t line = 1; const std::string& name : names) {
    const auto fail = [&](const auto&... why) { throw DataError(concat_text(file, ": line ", line, why...)); };
    if (name.empty()) fail(" is empty, expected the name of a class");
    if (!datasets::is_printable(name)) fail(" is no printable UTF-8: ", datasets::printable(name));
    const auto [first, is_new] = line_of.emplace(name, line);
    if (!is_new) fail(" is the name of line ", first->second, ", too: ", name);
    ++line;
  }
  return names;
}

/// The network, and what it takes and gives.
class Network {
 public:
  explicit Network(const Options& options) : crops_(options.crops), device_(flags::choose_device(options.device)) {
    storage::SafetensorsReader file(options.weights);
    const flags::KnownFacts known(file.metadata());
    flags::NetForm form = options.form;
    const flags::Architecture& architecture = known.architecture(options.arch, form);
    size_ = options.image_size != 0 ? options.image_size : known.image_size().value_or(224);
    form.classes = known.classes_of(file);
    names_ = options.classes.empty() ? known.class_names() : read_names(options.classes);
    if (!names_.empty() && static_cast<std::int64_t>(names_.size()) != form.classes) {
      const std::string& file_of_names = options.classes.empty() ? options.weights : options.classes;
      throw DataError(
          concat_text(file_of_names, ": ", names_.size(), " names of classes, and the network has ", form.classes));
    }
    model_ = architecture.make(form, nn::Init(0, device_));
    model_->train(false);
    storage::load_weights(file, storage::state_of(*model_));
  }

  struct Likely {
    std::string name;
    double probability;
  };

  /// The likeliest classes of a picture, the likeliest first.
  std::vector<Likely> classify(const std::string& file, int top) const {
    if (std::filesystem::is_directory(file)) throw DataError(file + ": is a folder, expected a JPEG or PNG file");
    const std::vector<double> probabilities = softmax(scores(datasets::read_picture(file)));
    std::vector<std::size_t> order(probabilities.size());
    std::iota(order.begin(), order.end(), 0);
    const auto count = std::min(order.size(), static_cast<std::size_t>(top));
    std::partial_sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(count), order.end(),
                      [&](std::size_t a, std::size_t b) {
                        return std::pair(-probabilities[a], a) < std::pair(-probabilities[b], b);
                      });
    std::vector<Likely> likely;
    for (std::size_t i = 0; i < count; ++i) likely.push_back({name(order[i]), probabilities[order[i]]});
    return likely;
  }

 private:
  std::int64_t crops_;
  Device device_;
  std::int64_t size_ = 0;
  std::vector<std::string> names_;
  std::unique_ptr<nn::Classifier> model_;

  std::string name(std::size_t index) const { return names_.empty() ? concat_text("class ", index) : names_[index]; }

  /// The means of the crops' scores.
  std::vector<double> scores(const datasets::Picture& picture) const {
    const datasets::PictureTransform how{.size = size_, .crops = crops_};
    const datasets::ImageForm form = how.form();
    std::vector<std::uint8_t> pixels(static_cast<std::size_t>(form.size()));
    Random none(0);
    datasets::apply(how, picture, none, pixels.data());
    const datasets::ImageTransform normalise(form, datasets::imagenet_normalisation(), 0, {});
    std::vector<float> values(pixels.size());
    normalise.apply(pixels.data(), none, values.data());
    const NoGrad no_grad;
    const Tensor image =
        Tensor::from_layout({1, form.channels, form.height, form.width}, values.data(), device_, Tag::Data);
    const std::vector<float> scores = train::crop_scores(*model_, image, crops_).to_vector<float>();
    return {scores.begin(), scores.end()};
  }

  static std::vector<double> softmax(std::vector<double> scores) {
    const double largest = *std::max_element(scores.begin(), scores.end());
    double sum = 0;
    for (double& score : scores) sum += score = std::exp(score - largest);
    for (double& score : scores) score /= sum;
    return scores;
  }
};

/// For people: no name, of a file or of a class, does anything to a terminal.
void print(const std::string& file, const std::vector<Network::Likely>& likely) {
  std::cout << datasets::printable(file) << '\n';
  for (const auto& [name, probability] : likely) {
    std::cout << std::setw(8) << std::fixed << std::setprecision(1) << 100 * probability << " %  "
              << datasets::printable(name) << '\n';
  }
  std::cout << std::flush;
}

nlohmann::ordered_json json_of(const std::string& file, const std::vector<Network::Likely>& likely) {
  nlohmann::ordered_json classes = nlohmann::ordered_json::array();
  for (const auto& [name, probability] : likely) classes.push_back({{"class", name}, {"probability", probability}});
  return {{"file", file}, {"classes", std::move(classes)}};
}

/// Goes on behind pictures that cannot be read. Returns the exit status.
int classify(const Options& options) {
  set_thread_count(options.threads);
  const Network network = flags::blame_flags([&] { return Network(options); });
  nlohmann::ordered_json all = nlohmann::ordered_json::array();
  bool whole = true;
  for (const std::string& file : options.pictures) {
    try {
      const std::vector<Network::Likely> likely = network.classify(file, options.top);
      options.json ? all.push_back(json_of(file, likely)) : print(file, likely);
    } catch (const DataError& error) {
      std::cerr << "classify: " << datasets::printable(error.what()) << std::endl;
      if (options.json) all.push_back({{"file", file}, {"error", error.what()}});
      whole = false;
    }
  }
  if (options.json) {
    // A file may be called anything; what is no UTF-8 of its name is replaced.
    std::cout << all.dump(1, ' ', false, nlohmann::json::error_handler_t::replace) << std::endl;
  }
  return whole ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  return palimpsest::flags::run_program("classify", [&] {
    CLI::App app("Says what is in pictures: the likeliest classes.", "classify");
    Options options;
    return parse(app, options, argc, argv) ? classify(options) : 0;
  });
}

// Weights of modules in files: what is written is what Python expects, what is read is what was written, and a file
// that does not fit, or is damaged, changes nothing.

#include <palimpsest/storage/weights.hpp>

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <set>

#include <palimpsest/core/allocator.hpp>
#include <palimpsest/core/error.hpp>
#include <palimpsest/nn/models/densenet.hpp>
#include <palimpsest/nn/models/imagenet_resnet.hpp>
#include <palimpsest/storage/torchvision_names.hpp>
#include "tests/support/temporary_folder.hpp"
#include "tests/support/test_device.hpp"

namespace palimpsest::storage {
namespace {

using NamedTensors = std::vector<nn::NamedTensor>;

nn::DenseNetOptions small_spec() {
  return {.layers = {2, 1}, .growth_rate = 4, .stem_channels = 8, .imagenet_stem = true, .classes = 5};
}

class WeightsTest : public testing::InTemporaryFolder {
 protected:
  static nn::DenseNet densenet(std::uint64_t seed, Dtype dtype = Dtype::Float32) {
    return nn::DenseNet(small_spec(), nn::Init(seed, test::device(), dtype));
  }
  template <class T>
  static Tensor tensor(const Shape& shape, const std::vector<T>& values) {
    return Tensor::from_vector<T>(shape, values, test::device());
  }
  /// The bytes of a tensor in a file.
  static std::vector<std::byte> bytes_of(const std::string& file, const std::string& name) {
    SafetensorsReader reader(file);
    for (const StoredTensor& stored : reader.tensors()) {
      if (stored.name != name) continue;
      std::vector<std::byte> bytes(stored.bytes);
      reader.read(stored, 0, bytes);
      return bytes;
    }
    ADD_FAILURE() << name << " is not there";
    return {};
  }
  template <class Run>
  static std::string message_of(const Run& run) {
    try {
      run();
    } catch (const Error& error) {
      EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos) << error.what();
      return error.what();
    }
    return "";
  }
};

TEST_F(WeightsTest, AModelComesBackBitForBit) {
  for (const Dtype dtype : {Dtype::Float32, Dtype::Float64}) {
    for (const Names names : {Names::Own, Names::Torchvision}) {
      const nn::DenseNet saved = densenet(1, dtype);
      save_weights(path("w"), saved, {{"model", "small"}}, names);
      const nn::DenseNet loaded = densenet(2, dtype);
      ASSERT_NE(loaded.state_digest(), saved.state_digest());
      const LoadReport report = load_weights(path("w"), loaded);
      EXPECT_EQ(loaded.state_digest(), saved.state_digest());
      EXPECT_EQ(report.taken.size(), state_of(saved).size());
      EXPECT_TRUE(report.left.empty() && report.unused.empty());
    }
  }
  EXPECT_EQ(files(), 1);
  const SafetensorsReader reader(path("w"));
  EXPECT_EQ(reader.metadata(), (Metadata{{"format", "pt"}, {"model", "small"}}));
}

TEST_F(WeightsTest, ElementsAreInLogicalOrder) {
  std::vector<float> numbers(2 * 3 * 2 * 5);
  for (std::size_t i = 0; i < numbers.size(); ++i) numbers[i] = static_cast<float>(i);
  save_weights(path("w"), NamedTensors{{"conv", tensor(Shape{2, 3, 2, 5}, numbers)}});
  const std::vector<std::byte> bytes = bytes_of(path("w"), "conv");
  ASSERT_EQ(bytes.size(), numbers.size() * sizeof(float));
  EXPECT_EQ(std::memcmp(bytes.data(), numbers.data(), bytes.size()), 0);
}

/// Tensors of several pieces, whose ends fall into the middle of rows and images, in pieces of at most 1 MiB, without a
/// byte of the device's memory.
TEST_F(WeightsTest, LargeTensorsGoInPieces) {
  for (const Shape& shape : {Shape{3, 7, 211, 97}, Shape{90001, 7, 1, 1}, Shape{700001}, Shape{3, 233333}}) {
    std::vector<float> numbers(static_cast<std::size_t>(shape.count()));
    for (std::size_t i = 0; i < numbers.size(); ++i) numbers[i] = static_cast<float>(i % 65521);
    const Tensor saved = tensor(shape, numbers);
    const Tensor loaded = Tensor::zeros(shape, Dtype::Float32, test::device());
    Allocator& memory = allocator(test::device());
    memory.reset_peak();
    const std::size_t before = memory.stats().peak;
    std::size_t largest = 0;
    tensors_to_store({{"a", saved}}).front().write([&](std::span<const std::byte> piece) {
      largest = std::max(largest, piece.size());
    });
    EXPECT_EQ(largest, piece_bytes);
    save_weights(path("w"), NamedTensors{{"a", saved}});
    load_weights(path("w"), NamedTensors{{"a", loaded}});
    EXPECT_EQ(memory.stats().peak, before);
    EXPECT_EQ(loaded.to_vector<float>(), numbers) << shape;
    const std::vector<std::byte> bytes = bytes_of(path("w"), "a");
    EXPECT_EQ(std::memcmp(bytes.data(), numbers.data(), bytes.size()), 0) << shape;
  }
}

std::string stored(const std::string& name, const std::string& type, const std::string& shape, std::size_t begin,
                   std::size_t end) {
  return concat_text('"', name, R"(":{"dtype":")", type, R"(","shape":)", shape, R"(,"data_offsets":[)", begin, ',',
                     end, "]}");
}

template <class T>
std::string bits_of(std::initializer_list<T> values) {
  return {reinterpret_cast<const char*>(std::data(values)), values.size() * sizeof(T)};
}

std::string file_of(const std::string& entries, const std::string& data) {
  const std::string header = "{" + entries + "}";
  return bits_of<std::uint64_t>({header.size()}) + header + data;
}

TEST_F(WeightsTest, OtherElementTypesAreWidenedAndRounded) {
  const auto loaded = [&]<class T>(const std::string& type, const std::string& data, T) {
    const std::size_t count = data.size() / (type == "F64" ? 8 : type == "F32" ? 4 : 2);
    write("w", file_of(stored("a", type, concat_text('[', count, ']'), 0, data.size()), data));
    const Tensor to = Tensor::zeros({static_cast<std::int64_t>(count)}, dtype_of<T>, test::device());
    load_weights(path("w"), NamedTensors{{"a", to}});
    return to.to_vector<T>();
  };
  constexpr float infinity = std::numeric_limits<float>::infinity();
  // binary16: 1, -2, the largest, the smallest normal, the smallest and the largest subnormal, minus zero, infinities
  const auto halves =
      bits_of<std::uint16_t>({0x3C00, 0xC000, 0x7BFF, 0x0400, 0x0001, 0x03FF, 0x8000, 0x7C00, 0xFC00, 0x3555, 0x8001});
  const std::vector<float> widened = {1,    -2,       65504,     0x1p-14F,    0x1p-24F, 0x3FFp-24F,
                                      -0.F, infinity, -infinity, 0x1.554p-2F, -0x1p-24F};
  EXPECT_EQ(loaded("F16", halves, 0.F), widened);
  EXPECT_TRUE(std::signbit(loaded("F16", halves, 0.F)[6]));
  EXPECT_EQ(loaded("F16", halves, 0.)[5], 0x3FFp-24);
  EXPECT_TRUE(std::isnan(loaded("F16", bits_of<std::uint16_t>({0x7E00}), 0.F)[0]));
  EXPECT_EQ(loaded("BF16", bits_of<std::uint16_t>({0x3F80, 0xC040, 0x0001, 0x7F80}), 0.F),
            (std::vector<float>{1, -3, 0x1p-133F, infinity}));
  EXPECT_EQ(loaded("F64", bits_of<double>({0.1, -1e300, 1e300, 1e-60}), 0.F),
            (std::vector<float>{0.1F, -infinity, infinity, 0}));
  EXPECT_EQ(loaded("F32", bits_of<float>({0.1F}), 0.), (std::vector<double>{0.1F}));
}

TEST_F(WeightsTest, BitsOfNumbersThatAreNoneStay) {
  const std::string nans = bits_of<std::uint32_t>({0x7FA00001, 0xFFC12345, 0x80000000});
  write("w", file_of(stored("a", "F32", "[3]", 0, 12), nans));
  const NamedTensors tensors = {{"a", Tensor::zeros({3}, Dtype::Float32, test::device())}};
  load_weights(path("w"), tensors);
  save_weights(path("again"), tensors);
  const std::vector<std::byte> bytes = bytes_of(path("again"), "a");
  EXPECT_EQ(std::memcmp(bytes.data(), nans.data(), 12), 0);
}

TEST_F(WeightsTest, AllThatDoesNotFitIsOneErrorAndChangesNothing) {
  save_weights(path("w"), NamedTensors{{"kept", tensor<float>({2}, {1, 2})},
                                       {"wide", tensor<float>({3}, {1, 2, 3})},
                                       {"whole", tensor<std::int32_t>({2}, {1, 2})},
                                       {"extra1", tensor<float>({1}, {1})},
                                       {"extra2", tensor<float>({1}, {1})}});
  const NamedTensors tensors = {{"kept", tensor<float>({2}, {7, 8})},
                                {"wide", tensor<float>({2, 2}, {7, 7, 7, 7})},
                                {"whole", tensor<float>({2}, {7, 7})},
                                {"absent1", tensor<float>({1}, {7})},
                                {"absent2", tensor<float>({1}, {7})}};
  const std::string said = message_of([&] { load_weights(path("w"), tensors); });
  EXPECT_EQ(said,
            path("w") +
                " does not fit the model; 2 missing: absent1, absent2; 2 unexpected: \"extra1\", \"extra2\"; 2 of "
                "another form: wide is F32 (3), expected F32 (2, 2), whole is I32 (2), expected F32 (2)");
  EXPECT_EQ(tensors[0].tensor.to_vector<float>(), (std::vector<float>{7, 8}));
  EXPECT_THROW(load_weights(path("w"), tensors), DataError);
}

TEST_F(WeightsTest, AnotherNetworkIsAMessageOfAFewNames) {
  save_weights(path("w"), densenet(1));
  const nn::ImageNetResNet other(nn::ImageNetResNetOptions{}, nn::Init(1, meta_of(test::device())));
  const std::string said = message_of([&] { load_weights(path("w"), other, {.names = Names::Own}); });
  EXPECT_LT(said.size(), 1000U) << said;
  for (const char* const words : {" missing: ", " unexpected: ", " more"}) {
    EXPECT_NE(said.find(words), std::string::npos) << words << " in " << said;
  }
}

TEST_F(WeightsTest, SaysInWhichPartAloneTheFormsDiffer) {
  const auto part = [&](const NamedTensors& tensors) {
    try {
      load_weights(path("w"), tensors);
    } catch (const MisfitError& error) {
      return error.module();
    }
    return std::string("nowhere");
  };
  const Tensor small = tensor<float>({1}, {1}), large = tensor<float>({2}, {1, 2});
  save_weights(path("w"), NamedTensors{{"a.b.weight", small}, {"a.b.bias", small}, {"a.c.weight", small}});
  EXPECT_EQ(part({{"a.b.weight", small}, {"a.b.bias", small}, {"a.c.weight", small}}), "nowhere");
  EXPECT_EQ(part({{"a.b.weight", large}, {"a.b.bias", large}, {"a.c.weight", small}}), "a.b");
  EXPECT_EQ(part({{"a.b.weight", large}, {"a.b.bias", small}, {"a.c.weight", large}}), "");
  EXPECT_EQ(part({{"a.b.weight", large}, {"a.b.bias", small}, {"a.d.weight", small}}), "");
}

TEST_F(WeightsTest, PatternsExclude) {
  const nn::DenseNet saved = densenet(1);
  save_weights(path("w"), saved, {}, Names::Torchvision);
  nn::DenseNetOptions other = small_spec();
  other.classes = 7;
  const nn::DenseNet loaded(other, nn::Init(2, test::device()));
  EXPECT_NE(message_of([&] { load_weights(path("w"), loaded); }).find("2 of another form: classifier.weight is F32"),
            std::string::npos);
  const LoadReport report = load_weights(path("w"), loaded, {.except = {"classifier.*"}});
  EXPECT_EQ(report.describe(),
            "44 tensors taken, 2 left as they are (classifier.weight, classifier.bias), 2 of the file "
            "not used (classifier.weight, classifier.bias)");
  EXPECT_EQ(message_of([&] {
              load_weights(path("w"), loaded, {.except = {"classifier.*", "clasifier*"}});
            }),
            "'clasifier*' matches no tensor of the model or of the file");
  // By the file's names, too, and where only one of the two has the tensor.
  save_weights(path("two"), NamedTensors{{"a", tensor<float>({1}, {1})}, {"extra", tensor<float>({1}, {1})}});
  const NamedTensors into = {{"a", tensor<float>({1}, {7})}, {"b", tensor<float>({1}, {7})}};
  EXPECT_EQ(load_weights(path("two"), into, {.except = {"ext?a", "b"}}).describe(),
            "1 tensor taken, 1 left as they are (b), 1 of the file not used (extra)");
  EXPECT_EQ(into[0].tensor.to_vector<float>(), (std::vector<float>{1}));
  EXPECT_EQ(into[1].tensor.to_vector<float>(), (std::vector<float>{7}));
}

TEST_F(WeightsTest, OnAMetaDeviceOnlyFormsAreCompared) {
  save_weights(path("w"), densenet(1));
  const nn::DenseNet meta(small_spec(), nn::Init(0, test::meta_device()));
  EXPECT_EQ(load_weights(path("w"), meta).taken.size(), 46U);
  EXPECT_THROW(load_weights(path("w"), meta, {.names = Names::Torchvision}), DataError);
  EXPECT_THROW(save_weights(path("meta"), meta), DeviceError);
  EXPECT_EQ(files(), 1);
}

/// No bit of a file can be another without being found, and its place named; nothing has changed then. One bit of each
/// byte: all of them take a quarter of a minute.
TEST_F(WeightsTest, AFlippedBitIsFoundInEveryByte) {
  const NamedTensors saved = {{"conv", tensor<float>({1, 2, 1, 2}, {1, 2, 3, 4})},
                              {"count", tensor<std::int32_t>({2}, {5, 6})}};
  save_weights(path("w"), saved, {{"note", "of an experiment"}});
  const std::string whole = content("w");
  const NamedTensors loaded = {{"conv", tensor<float>({1, 2, 1, 2}, {0, 0, 0, 0})},
                               {"count", tensor<std::int32_t>({2}, {0, 0})}};
  const std::size_t data = whole.size() - 24;
  for (std::size_t byte = 0; byte < whole.size(); ++byte) {
    const std::size_t bit = 8 * byte + byte % 8;
    std::string damaged = whole;
    damaged[byte] = static_cast<char>(damaged[byte] ^ 1 << bit % 8);
    write("damaged", damaged);
    const std::string said = message_of([&] { load_weights(path("damaged"), loaded); });
    const std::string_view part = byte < data        ? "header"
                                  : byte < data + 16 ? "tensor \"conv\" is damaged"
                                                     : "tensor \"count\" is damaged";
    ASSERT_TRUE(said.starts_with(path("damaged") + ": ")) << "bit " << bit << ": " << said;
    ASSERT_NE(said.find(part), std::string::npos) << "bit " << bit << ": " << said;
  }
  EXPECT_EQ(loaded[0].tensor.to_vector<float>(), std::vector<float>(4));
  load_weights(path("w"), loaded);
  EXPECT_EQ(loaded[0].tensor.to_vector<float>(), (std::vector<float>{1, 2, 3, 4}));
}

TEST_F(WeightsTest, TheFileIsStagedAndThenCommitted) {
  Tensor numbers = tensor<float>({2}, {1, 2});
  write("w", "old");
  const WholeFile file(path("w"));
  PendingFile pending = stage_weights(file, {{"a", numbers}});
  numbers.assign(tensor<float>({2}, {3, 4}));  // too late for the file
  EXPECT_EQ(content("w"), "old");
  pending.commit();
  const NamedTensors loaded = {{"a", tensor<float>({2}, {0, 0})}};
  load_weights(path("w"), loaded);
  EXPECT_EQ(loaded[0].tensor.to_vector<float>(), (std::vector<float>{1, 2}));
  EXPECT_EQ(files(), 1);
}

/// docs/library.md quotes this.
TEST_F(WeightsTest, TheGuidesLines) {
  const nn::DenseNet net = densenet(1), other = densenet(2);
  const std::string file = path("net.safetensors");
  storage::save_weights(file, net);
  storage::load_weights(file, other, {.except = {"classifier.*"}});
  EXPECT_EQ(files(), 1);
  EXPECT_NE(other.state_digest(), net.state_digest());
  storage::load_weights(file, other);
  EXPECT_EQ(other.state_digest(), net.state_digest());
}

TEST(TorchvisionNames, OfADenseNet) {
  const nn::DenseNet model(nn::DenseNetOptions::imagenet(121), nn::Init(0, Device::MetaCpu));
  const std::vector<std::string> names = torchvision_names(state_of(model)).value();
  EXPECT_EQ(names.size(), 606U);
  const std::set<std::string> all(names.begin(), names.end());
  EXPECT_EQ(all.size(), 606U);
  for (const char* name :
       {"features.conv0.weight", "features.norm0.running_var", "features.denseblock4.denselayer16.norm2.bias",
        "features.denseblock1.denselayer1.conv1.weight", "features.transition3.conv.weight",
        "features.transition1.norm.running_mean", "features.norm5.weight", "classifier.weight"}) {
    EXPECT_TRUE(all.contains(name)) << name;
  }
}

TEST(TorchvisionNames, OfAResNet) {
  const nn::ImageNetResNet model(nn::ImageNetResNetOptions::of_depth(50), nn::Init(0, Device::MetaCpu));
  const std::vector<std::string> names = torchvision_names(state_of(model)).value();
  const std::set<std::string> all(names.begin(), names.end());
  EXPECT_EQ(all.size(), 267U);
  for (const char* name :
       {"conv1.weight", "bn1.running_mean", "layer1.0.downsample.0.weight", "layer1.0.downsample.1.running_var",
        "layer4.2.conv3.weight", "layer3.5.bn2.bias", "fc.weight", "fc.bias"}) {
    EXPECT_TRUE(all.contains(name)) << name;
  }
  EXPECT_FALSE(all.contains("layer1.1.downsample.0.weight"));
}

TEST(TorchvisionNames, OfNothingElse) {
  EXPECT_EQ(torchvision_names(NamedTensors{{"conv.weight", {}}}), std::nullopt);
  EXPECT_EQ(modern_spelling("features.denseblock1.denselayer2.norm.1.weight"),
            "features.denseblock1.denselayer2.norm1.weight");
  EXPECT_EQ(modern_spelling("features.denseblock1.denselayer2.conv.2.weight"),
            "features.denseblock1.denselayer2.conv2.weight");
  EXPECT_EQ(modern_spelling("features.transition1.norm.1.weight"), "features.transition1.norm.1.weight");
}

/// A file of 2017 has dots in its names, and one of today counters that nothing depends on.
TEST_F(WeightsTest, OldSpellingsAndCountersAreUnderstood) {
  const nn::DenseNet saved = densenet(1);
  NamedTensors old = state_of(saved);
  const std::vector<std::string> names = torchvision_names(old).value();
  for (std::size_t i = 0; i < old.size(); ++i) {
    old[i].name = names[i];
    const std::size_t layer = names[i].find(".denselayer");
    if (layer == std::string::npos) continue;
    const std::size_t number = names[i].find_first_of("12", names[i].find('.', layer + 1));
    old[i].name.insert(number, ".");
  }
  old.push_back({"features.norm0.num_batches_tracked", Tensor::zeros({}, Dtype::Int32, test::device())});
  save_weights(path("old"), old);
  const nn::DenseNet loaded = densenet(2);
  EXPECT_EQ(load_weights(path("old"), loaded).describe(), "46 tensors taken");
  EXPECT_EQ(loaded.state_digest(), saved.state_digest());
  old.push_back({names[8], Tensor::zeros({}, Dtype::Float32, test::device())});
  save_weights(path("both"), old);
  EXPECT_NE(message_of([&] { load_weights(path("both"), loaded); }).find("two spellings of "), std::string::npos);
}

TEST_F(WeightsTest, OtherModelsHaveNoTorchvisionNames) {
  const NamedTensors tensors = {{"a", tensor<float>({1}, {1})}};
  EXPECT_THROW(save_weights(path("w"), tensors, {}, Names::Torchvision), ValueError);
  EXPECT_EQ(files(), 0);
  save_weights(path("w"), tensors);
  EXPECT_THROW(load_weights(path("w"), tensors, {.names = Names::Torchvision}), ValueError);
}

}  // namespace
}  // namespace palimpsest::storage

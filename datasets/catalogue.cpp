#include <palimpsest/datasets/catalogue.hpp>

#include <array>
#include <string>

#include <palimpsest/core/error.hpp>
#include <palimpsest/datasets/cifar.hpp>
#include <palimpsest/datasets/idx.hpp>
#include <palimpsest/datasets/synthetic.hpp>

namespace palimpsest::datasets {
namespace {

constexpr std::array<std::string_view, 4> known_names = {"fashion-mnist", "cifar10", "cifar100", "synthetic"};

[[noreturn]] void refuse(std::string_view name) {
  std::string list;
  for (const std::string_view known : known_names) list += (list.empty() ? "" : ", ") + std::string(known);
  throw ValueError(concat_text("unknown data set '", name, "', expected one of ", list));
}

}  // namespace

std::span<const std::string_view> names() { return known_names; }

ImageSet open(std::string_view name, const std::filesystem::path& folder, Split split) {
  if (name == "fashion-mnist") return read_fashion_mnist(folder, split);
  if (name == "cifar10") return read_cifar10(folder, split);
  if (name == "cifar100") return read_cifar100(folder, split);
  if (name == "synthetic") return synthetic({.count = split == Split::Train ? 4096 : 1024}, split);
  refuse(name);
}

Normalisation default_normalisation(std::string_view name) {
  if (name == "fashion-mnist") return fashion_mnist_normalisation();
  if (name == "cifar10") return cifar10_normalisation();
  if (name == "cifar100") return cifar100_normalisation();
  if (name == "synthetic") return {{128.0F, 128.0F, 128.0F}, {44.0F, 44.0F, 44.0F}};
  refuse(name);
}

}  // namespace palimpsest::datasets

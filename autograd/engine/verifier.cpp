// Comparing, and telling a difference.

#include <palimpsest/autograd/engine/verifier.hpp>

#include <algorithm>
#include <utility>

#include <palimpsest/core/device.hpp>
#include <palimpsest/core/kernel.hpp>

namespace palimpsest {
namespace {

bool verified_on_device(Device device) { return kernel_device(device) == Device::Cuda; }

/// "[conv2d] in dense1.layer2".
std::string name_of(const Node& node) {
  const bool named = node.block != nullptr && !node.block->name.empty();
  return concat_text("[", node.op->name(), "]", named ? " in " + node.block->name : "");
}

/// "[conv2d] in dense1.layer2: output 0 (8, 12, 4, 4)".
std::string name_of(const Value& value) {
  return concat_text(name_of(*value.producer()), ": output ", value.output(), " ", value.shape());
}

std::string shapes_of(const std::vector<ValuePtr>& values) {
  std::string text;
  for (const ValuePtr& value : values) text += concat_text(text.empty() ? "" : ", ", value->shape());
  return text;
}

}  // namespace

DeviceFingerprints::DeviceFingerprints(Device device)
    : device_(device), own_(device, sizeof(Fingerprint) + sizeof(std::uint64_t), Tag::Activation) {
  zero_bytes(own_.data(), device_, own_.bytes());
}

Fingerprint* DeviceFingerprints::at(std::size_t number) const {
  return pages_[number / page_fingerprints].as<Fingerprint>() + number % page_fingerprints;
}

std::size_t DeviceFingerprints::take(const View& bytes, Sample sample) {
  if (taken_ == pages_.size() * page_fingerprints) {
    const Buffer& page = pages_.emplace_back(device_, page_fingerprints * sizeof(Fingerprint), Tag::Activation);
    zero_bytes(page.data(), device_, page.bytes());
  }
  const std::size_t number = taken_++;
  if constexpr (compiled_for_cuda) {
    if (device_ == Device::Cuda && sample.pieces(bytes.bytes()) > 0)
      cuda::add_fingerprint(bytes.data, bytes.bytes(), sample, at(number));
  }
  return number;
}

void DeviceFingerprints::compare(const View& bytes, Sample sample, std::size_t with, std::uint64_t check) {
  if constexpr (compiled_for_cuda) {
    if (device_ != Device::Cuda) return;
    auto* const found = own_.as<Fingerprint>();
    cuda::add_fingerprint(bytes.data, bytes.bytes(), sample, found);
    cuda::compare_fingerprints(at(with), found, check, reinterpret_cast<std::uint64_t*>(found + 1));
  }
}

std::uint64_t DeviceFingerprints::verdict() const {
  std::uint64_t check = 0;
  copy_bytes(&check, Device::Cpu, own_.as<Fingerprint>() + 1, device_, sizeof check);
  return check;
}

std::unique_ptr<Verifier> Verifier::begin(bool counts) {
  VerifyScope* const scope = VerifyScope::current();
  if (scope == nullptr || scope->verify() == Verify::Off) return nullptr;
  return std::unique_ptr<Verifier>(new Verifier(scope->verify(), counts ? scope->begin_step() : scope->last_step()));
}

void Verifier::absorb(Verifier& other) {
  marks_.merge(other.marks_);
  inexact_.merge(other.inexact_);
  for (std::unique_ptr<OnDevice>& device : other.devices_) devices_.push_back(std::move(device));
}

void Verifier::forget(const Nodes& nodes) {
  for (const Node& node : nodes) {
    for (const ValuePtr& output : node.outputs) {
      marks_.erase(output.get());
      inexact_.erase(output.get());
    }
  }
  std::erase_if(marks_, [](const auto& mark) { return mark.second.of.expired(); });
  compared_.clear();
  for (const std::unique_ptr<OnDevice>& device : devices_) device->checks.clear();
}

Sample Verifier::sample_of(const Value& value) const {
  if (verify_ == Verify::All) return {};
  const std::uint64_t place = value.producer() != nullptr ? value.producer()->index + value.output() : 0;
  return {(step_ + place) % verify_period, verify_period};
}

Sample Verifier::sample_of(const Node& node) const {
  const bool looked_at = verify_ == Verify::All || (step_ + node.index) % verify_period == 0;
  return {.first = looked_at ? 0 : UINT64_MAX};
}

Verifier::OnDevice& Verifier::on(Device device) {
  for (const std::unique_ptr<OnDevice>& known : devices_) {
    if (known->device == device) return *known;
  }
  return *devices_.emplace_back(new OnDevice{device, DeviceFingerprints(device), {}});
}

Verifier::Mark Verifier::take(const View& bytes, Sample sample) {
  Mark mark{.sample = sample};
  if (verified_on_device(bytes.device)) {
    // For any sample: memory must not depend on the step.
    mark.where = &on(bytes.device);
    mark.number = mark.where->fingerprints.take(bytes, sample);
  } else if (bytes.device == Device::Cpu && sample.pieces(bytes.bytes()) > 0) {
    mark.bytes = fingerprint(bytes.data, bytes.bytes(), sample);
  }
  return mark;
}

void Verifier::remember(const Value& value) {
  if (!value.present() || inexact_.contains(&value)) return;
  if (!value.leaf() && value.version() != 0) return;
  const auto known = marks_.find(&value);
  if (known != marks_.end() && known->second.version == value.version()) return;
  Mark mark = take(value.view(), sample_of(value));
  mark.version = value.version();
  mark.of = value.weak_from_this();
  marks_.insert_or_assign(&value, mark);
}

void Verifier::leaves(const Value& value) {
  const Node* const producer = value.producer();
  if (producer != nullptr && (value.recipe() != nullptr || producer->policy != nullptr)) remember(value);
}

const Verifier::Mark* Verifier::mark_of(const Value& value) const {
  const auto known = marks_.find(&value);
  const bool comparable =
      known != marks_.end() && known->second.version == value.version() && !inexact_.contains(&value);
  return comparable ? &known->second : nullptr;
}

void Verifier::compare(const View& bytes, const Mark& mark, Check check) {
  if (is_meta(bytes.device) || mark.sample.pieces(bytes.bytes()) == 0) return;
  if (bytes.device == Device::Cpu) {
    if (fingerprint(bytes.data, bytes.bytes(), mark.sample) != mark.bytes) throw VerificationError(describe(check));
    return;
  }
  mark.where->checks.push_back(std::move(check));
  mark.where->fingerprints.compare(bytes, mark.sample, mark.number, mark.where->checks.size());
}

void Verifier::check_sources(const Value& value, std::span<Value* const> sources) {
  for (const Value* source : sources) {
    const Mark* const mark = mark_of(*source);
    if (mark == nullptr || !compared_.insert(source).second) continue;
    compare(source->view(), *mark, {Check::Kind::Source, source, value.recipe()->via(value)});
  }
}

void Verifier::check_restored(const Value& value, std::span<Value* const> sources) {
  const auto is_inexact = [this](const Value* source) { return inexact_.contains(source); };
  if (!value.recipe()->exact(value) || std::any_of(sources.begin(), sources.end(), is_inexact)) {
    inexact_.insert(&value);
    return;
  }
  inexact_.erase(&value);
  const Mark* const mark = mark_of(value);
  if (mark == nullptr) return;
  compared_.insert(&value);
  const auto unknown =
      std::count_if(sources.begin(), sources.end(), [this](const Value* source) { return !marks_.contains(source); });
  compare(value.view(), *mark,
          {Check::Kind::Restored, &value, value.recipe()->via(value), std::string(value.recipe()->name()),
           sources.size(), static_cast<std::size_t>(unknown)});
}

void Verifier::conclude() const {
  for (const std::unique_ptr<OnDevice>& device : devices_) {
    const std::uint64_t found = device->fingerprints.verdict();
    if (found != 0) throw VerificationError(describe(device->checks[found - 1]));
  }
}

std::string Verifier::describe(const Check& check) const {
  const char* const part = verify_ == Verify::Sampled ? " (in the sample of this step)" : "";
  if (check.kind == Check::Kind::State) {
    return concat_text(name_of(*check.run), " on inputs ", shapes_of(check.run->inputs),
                       ": running it again has changed the model's state, which only its first run may");
  }
  const Value& value = *check.value;
  if (check.kind == Check::Kind::Source) {
    const std::string what = value.leaf() ? concat_text("a leaf ", value.shape()) : name_of(value);
    return concat_text(what, " is not any more what it was in forward", part, "; found when ", name_of(*check.run),
                       " on inputs ", shapes_of(check.run->inputs), " was about to read it again");
  }
  std::string text = concat_text(name_of(value), ", restored by ", check.recipe);
  if (check.run != nullptr && check.run != value.producer()) text += concat_text(" of ", name_of(*check.run));
  text += concat_text(", is not what forward made", part, "; inputs ", shapes_of(value.producer()->inputs));
  if (check.unknown_sources > 0) {
    text += concat_text("; ", check.unknown_sources, " of the ", check.sources,
                        " tensors it was restored from could not be compared");
  }
  return text;
}

std::vector<Verifier::Mark> Verifier::state_before(const Node& node) {
  std::vector<Mark> marks;
  for (const View& view : node.op->state()) marks.push_back(take(view, sample_of(node)));
  return marks;
}

void Verifier::check_state(const Node& node, const std::vector<Mark>& before) {
  if (before.empty()) return;
  const std::vector<View> after = node.op->state();
  for (std::size_t i = 0; i < after.size(); ++i) {
    compare(after[i], before[i], {Check::Kind::State, nullptr, &node});
  }
}

}  // namespace palimpsest

#include "tests/support/user_policy.hpp"

#include <vector>

#include <palimpsest/core/device.hpp>
#include <palimpsest/memory/recipes.hpp>

namespace user {
namespace {

using namespace palimpsest;

class KeepEveryOther : public Policy {
 public:
  std::string_view name() const override { return "keep-every-other"; }

  RecipePtr decide(const Value& value, const Op&, const BlockInfo&) const override {
    return value.producer()->index % 2 == 0 ? nullptr : memory::replay();
  }
  bool keeps_optional(const Value& value, const Op&, const BlockInfo&) const override {
    return value.producer()->index % 2 == 0;
  }
};

/// Bytes outside the framework's allocator, counted against a budget.
class HostCopy {
 public:
  HostCopy(std::shared_ptr<std::size_t> budget, std::size_t bytes) : budget_(std::move(budget)) {
    if (bytes > *budget_) throw OutOfMemory(concat_text("offload: ", format_mebibytes(bytes), " exceed the budget"));
    bytes_.resize(bytes);
    *budget_ -= bytes;
  }
  HostCopy(const HostCopy&) = delete;
  HostCopy& operator=(const HostCopy&) = delete;
  ~HostCopy() { *budget_ += bytes_.size(); }

  std::byte* data() { return bytes_.data(); }
  std::size_t size() const { return bytes_.size(); }

 private:
  std::shared_ptr<std::size_t> budget_;
  std::vector<std::byte> bytes_;
};

class Fetch : public Recipe {
 public:
  explicit Fetch(std::shared_ptr<std::size_t> budget) : budget_(std::move(budget)) {}

  std::string_view name() const override { return "fetch"; }

  // Restoring runs no node and reads no other value.
  const Node* via(const Value&) const override { return nullptr; }
  std::vector<Value*> sources(const Value&) const override { return {}; }

  void save(const View& bytes, const std::shared_ptr<Storage>&) override {
    const auto count = static_cast<std::size_t>(bytes.shape.count());
    copy_ = std::make_unique<HostCopy>(budget_, count * size_of(bytes.dtype));
    copy_bytes(copy_->data(), Device::Cpu, bytes.data, bytes.device, copy_->size());
  }

  void restore(Restoring& restoring) override {
    const View to = restoring.destination();
    copy_bytes(to.data, to.device, copy_->data(), Device::Cpu, copy_->size());
  }

 private:
  std::shared_ptr<std::size_t> budget_;
  std::unique_ptr<HostCopy> copy_;
};

class Offload : public Policy {
 public:
  explicit Offload(std::size_t budget) : budget_(std::make_shared<std::size_t>(budget)) {}

  std::string_view name() const override { return "offload"; }
  bool acts_on(const Op& op) const override { return op.cost() == Cost::Heavy; }

  RecipePtr decide(const Value&, const Op& op, const BlockInfo&) const override {
    if (op.cost() != Cost::Heavy) return memory::replay();
    return std::make_shared<Fetch>(budget_);
  }

 private:
  std::shared_ptr<std::size_t> budget_;
};

}  // namespace

PolicyPtr offload(std::size_t budget) { return std::make_shared<Offload>(budget); }
PolicyPtr keep_every_other() { return std::make_shared<KeepEveryOther>(); }

}  // namespace user

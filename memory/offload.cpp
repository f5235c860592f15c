// The recipe that moves bytes out of a device's memory and fetches them back.

#include <palimpsest/memory/offload.hpp>

#include <algorithm>
#include <exception>
#include <utility>

#include <palimpsest/autograd/value.hpp>
#include <palimpsest/memory/offload_store.hpp>
#include <palimpsest/memory/recipes.hpp>

namespace palimpsest::memory {

/// One value's bytes. The memory that this object holds on the device, and when, follows from the order of the calls
/// alone: memory that is being written from goes when the second value after it leaves, or back to the value if it is
/// wanted before that.
class Fetch : public Recipe {
 public:
  explicit Fetch(std::shared_ptr<const OffloadOptions> options) : options_(std::move(options)) {}
  ~Fetch() override {
    if (store_ == nullptr) return;
    const std::lock_guard<std::mutex> lock(store_->mutex());
    forget();
  }
  Fetch(const Fetch&) = delete;
  Fetch& operator=(const Fetch&) = delete;

  std::string_view name() const override { return "fetch"; }
  Way way() const override { return Way::Fetch; }
  const Node* via(const Value&) const override { return nullptr; }
  std::vector<Value*> sources(const Value&) const override { return {}; }

  void save(const View& bytes, const std::shared_ptr<Storage>& memory) override {
    if (store_ == nullptr) store_ = offload_store(bytes.device, *options_);
    const std::lock_guard<std::mutex> lock(store_->mutex());
    while (memory != nullptr && store_->leaving().size() >= most_leaving) store_->leaving().front()->leave();
    write(bytes);
    if (memory == nullptr) return settle();
    memory_ = memory;
    store_->leaving().push_back(this);
  }

  bool fetch_ahead(const Value& value) override {
    const std::lock_guard<std::mutex> lock(store_->mutex());
    if (failure_ != nullptr) return false;
    if (memory_ == nullptr) read(value);
    return true;
  }

  void restore(Restoring& restoring) override {
    const std::lock_guard<std::mutex> lock(store_->mutex());
    if (memory_ == nullptr && failure_ == nullptr) read(restoring.value());
    std::erase(store_->leaving(), this);
    const std::shared_ptr<Storage> memory = std::move(memory_);
    settle();
    restoring.take(memory);
  }

 private:
  /// Values on their way out at once.
  static constexpr std::size_t most_leaving = 2;

  void write(const View& bytes) {
    forget();  // a save that has failed
    place_ = store_->take(bytes.bytes());
    bytes_ = bytes.bytes();
    under_way_ = store_->write(place_, bytes.data, bytes_);
  }

  void read(const Value& value) {
    auto memory = std::make_shared<Storage>(value.device(), bytes_, Tag::Activation);
    under_way_ = store_->read(memory->data(), place_, bytes_);
    memory_ = std::move(memory);
  }

  /// The value has left, and its memory may go.
  void leave() {
    store_->leaving().pop_front();
    const std::shared_ptr<Storage> memory = std::move(memory_);
    settle();
  }

  /// Ends the move that is under way. A failure is for good: the place does not have the bytes.
  void settle() {
    const OffloadStore::Ticket ticket = std::exchange(under_way_, 0);
    try {
      if (ticket != 0) store_->finish(ticket);
    } catch (...) {
      failure_ = std::current_exception();
    }
    if (failure_ != nullptr) std::rethrow_exception(failure_);
  }

  void forget() noexcept {
    std::erase(store_->leaving(), this);
    try {
      settle();
    } catch (...) {
      // Nobody will read it.
    }
    memory_ = nullptr;
    failure_ = nullptr;
    if (place_ != nullptr) store_->give(std::exchange(place_, nullptr), bytes_);
  }

  std::shared_ptr<const OffloadOptions> options_;
  std::shared_ptr<OffloadStore> store_;
  void* place_ = nullptr;
  std::size_t bytes_ = 0;
  std::shared_ptr<Storage> memory_;     // that the bytes are moved from or to
  OffloadStore::Ticket under_way_ = 0;  // the move; 0: none
  std::exception_ptr failure_;
};

RecipePtr fetch(std::shared_ptr<const OffloadOptions> options) { return std::make_shared<Fetch>(std::move(options)); }

}  // namespace palimpsest::memory

#include <palimpsest/reports/step_owners.hpp>

#include <algorithm>
#include <map>
#include <sstream>

namespace palimpsest::reports {
namespace {

using memory::StepTrace;

const StepTrace::Allocation& allocation_of(const StepTrace& record, int number) { return record.allocation(number); }

}  // namespace

std::string block_label(const std::string& block) { return block.empty() ? "outside every block" : block; }

Owner owner_of(const StepTrace& record, int allocation) {
  const StepTrace::Allocation& held = allocation_of(record, allocation);
  if (held.value >= 0) {
    const int op = record.value(held.value).op;
    if (op >= 0) {
      const StepTrace::Op& made_by = record.op(op);
      return {block_label(made_by.block), made_by.name};
    }
  }
  if (held.run < 0) return {block_label(""), std::string(to_string(held.tag))};
  const StepTrace::Run& run = record.run(held.run);
  return {block_label(run.block), run.name};
}

std::string content_of(const StepTrace& record, int allocation) {
  const StepTrace::Allocation& held = allocation_of(record, allocation);
  if (held.value < 0) return std::string(to_string(held.tag));
  const StepTrace::Value& value = record.value(held.value);
  std::ostringstream text;
  text << (held.gradient ? "gradient of " : "");
  if (value.op >= 0) {
    text << "output " << value.output;
  } else {
    text << "a leaf";
  }
  text << ", " << value.shape << ' ' << value.dtype;
  return text.str();
}

std::vector<Owned> owners_after(const StepTrace& record, std::size_t event) {
  std::map<Owner, Owned> owners;
  const auto add = [&](const Owner& owner, std::size_t bytes) -> Owned& {
    Owned& owned = owners[owner];
    owned.owner = owner;
    owned.bytes += bytes;
    return owned;
  };
  const TagBytes older = record.older_after(event);
  for (std::size_t tag = 0; tag < older.size(); ++tag) {
    if (older[tag] > 0) add({"before the step", std::string(to_string(static_cast<Tag>(tag)))}, older[tag]);
  }
  for (const int allocation : record.live_after(event)) {
    add(owner_of(record, allocation), allocation_of(record, allocation).bytes).allocations.push_back(allocation);
  }
  std::vector<Owned> found;
  for (auto& [owner, owned] : owners) found.push_back(std::move(owned));
  const auto larger = [&](int a, int b) { return allocation_of(record, a).bytes > allocation_of(record, b).bytes; };
  for (Owned& owned : found) std::stable_sort(owned.allocations.begin(), owned.allocations.end(), larger);
  std::stable_sort(found.begin(), found.end(), [](const Owned& a, const Owned& b) { return a.bytes > b.bytes; });
  return found;
}

}  // namespace palimpsest::reports

#include <palimpsest/train/progress.hpp>

#include <sys/ioctl.h>
#include <unistd.h>

#include <cmath>
#include <cstdarg>
#include <cstdio>

#include <palimpsest/core/error.hpp>

namespace palimpsest::train {
namespace {

constexpr auto rewrite_interval = std::chrono::milliseconds(100);
constexpr std::size_t recent_steps = 20;

__attribute__((format(printf, 1, 2))) std::string formatted(const char* format, ...) {
  char text[256];
  std::va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  return text;
}

/// A line that wraps could not be taken away again.
std::size_t terminal_width() {
  winsize size{};
  const bool known = ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 1;
  return known ? size.ws_col - 1U : 79U;
}

}  // namespace

std::string format_metric(const Task& task, double value) {
  return task.metric_is_share ? formatted("%.2f %%", value * 100) : formatted("%.6g", value);
}

std::string format_duration(double seconds) {
  const auto total = std::llround(seconds);
  if (total < 60) return formatted("%lld s", total);
  if (total < 3600) return formatted("%lld:%02lld", total / 60, total % 60);
  return formatted("%lld:%02lld:%02lld", total / 3600, total / 60 % 60, total % 60);
}

Progress::Progress(const Task& task, const Options& options)
    : task_(task), length_(run_length(task, options)), quiet_(options.quiet), terminal_(isatty(STDERR_FILENO) != 0) {}

Progress::~Progress() { clear(); }

void Progress::step(std::int64_t epoch, const RunRecord& record, std::size_t live, std::size_t peak) {
  if (quiet_ || !terminal_) return;
  const auto done = static_cast<std::int64_t>(record.steps.size());
  const double rate = record.samples_per_second(recent_steps);
  const double left = static_cast<double>((length_.steps - done) * length_.batch_size);
  const auto mebibytes = [](std::size_t bytes) { return static_cast<double>(bytes) / (1 << 20); };
  rewrite(formatted("epoch %lld/%lld, step %lld/%lld: loss %.4f, %.1f %s/s, ETA %s, %.0f MiB (peak %.0f)",
                    static_cast<long long>(epoch) + 1, static_cast<long long>(length_.epochs),
                    static_cast<long long>(done), static_cast<long long>(length_.steps), record.steps.back().loss, rate,
                    task_.unit.c_str(), rate > 0 ? format_duration(left / rate).c_str() : "?", mebibytes(live),
                    mebibytes(peak)));
}

void Progress::evaluating(std::int64_t samples) {
  if (quiet_ || !terminal_) return;
  rewrite(formatted("evaluating: %lld of %lld %s", static_cast<long long>(samples),
                    static_cast<long long>(task_.evaluation.samples), task_.unit.c_str()));
}

void Progress::epoch(std::int64_t epoch, double loss, const RunRecord& record, std::ostream& out) {
  if (quiet_) return;
  clear();
  std::string line =
      formatted("epoch %lld/%lld: loss %.4f, %.1f %s/s", static_cast<long long>(epoch) + 1,
                static_cast<long long>(length_.epochs), loss, record.samples_per_second(), task_.unit.c_str());
  if (record.metric()) line += concat_text(", test ", task_.metric, " ", format_metric(task_, *record.metric()));
  out << line << std::endl;
}

void Progress::warn(const std::string& line) {
  clear();
  std::fprintf(stderr, "%s\n", line.c_str());
  std::fflush(stderr);
}

void Progress::rewrite(const std::string& line) {
  const Clock::time_point now = Clock::now();
  if (now - last_ < rewrite_interval) return;
  last_ = now;
  written_ = true;
  std::fprintf(stderr, "\r%s\033[K", line.substr(0, terminal_width()).c_str());
  std::fflush(stderr);
}

void Progress::clear() {
  if (written_) std::fputs("\r\033[K", stderr);
  written_ = false;
}

}  // namespace palimpsest::train

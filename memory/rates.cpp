#include "memory/rates.hpp"

#include <array>
#include <cmath>
#include <fstream>
#include <sstream>

#include "core/error.hpp"

namespace palimpsest::memory {
namespace {

struct Field {
  const char* name;
  double Rates::*number;
};

constexpr std::array<Field, 4> fields = {{{"operations_per_second", &Rates::operations_per_second},
                                          {"bytes_per_second", &Rates::bytes_per_second},
                                          {"seconds_per_run", &Rates::seconds_per_run},
                                          {"offload_bytes_per_second", &Rates::offload_bytes_per_second}}};

}  // namespace

Rates Rates::standard(Device device) {
  if (device == Device::Cuda) return {30e12, 3e12, 5e-6, 25e9};
  // Two cores of an AMD EPYC (Zen 4) with AVX-512, as examples/calibrate_rates finds them, rounded.
  return {190e9, 42e9, 2e-6, 8e9};
}

Rates Rates::load(const std::string& file, Device device) {
  std::ifstream in(file);
  if (!in) throw DataError(concat_text(file, ": cannot be read"));
  Rates rates = standard(device);
  std::string line;
  for (int number = 1; std::getline(in, line); ++number) {
    if (line.empty() || line[0] == '#') continue;
    std::istringstream words(line);
    std::string name;
    double value = 0;
    std::string rest;
    const bool read = static_cast<bool>(words >> name >> value) && !(words >> rest);
    bool known = false;
    for (const Field& field : fields) {
      if (name != field.name) continue;
      known = true;
      rates.*field.number = value;
    }
    if (!read || !known || !std::isfinite(value) || value <= 0) {
      throw DataError(
          concat_text(file, ", line ", number, ": '", line, "', expected a rate's name and a positive number"));
    }
  }
  return rates;
}

std::string Rates::text(const std::string& comment) const {
  std::ostringstream out;
  std::istringstream lines(comment);
  for (std::string line; std::getline(lines, line);) out << "# " << line << '\n';
  out.precision(6);
  for (const Field& field : fields) out << field.name << ' ' << this->*field.number << '\n';
  return out.str();
}

void Rates::save(const std::string& file, const std::string& comment) const {
  std::ofstream out(file);
  out << text(comment);
  if (!out.flush()) throw DataError(concat_text(file, ": cannot be written"));
}

}  // namespace palimpsest::memory

#include <palimpsest/memory/planner/rates.hpp>

#include <array>
#include <cmath>
#include <fstream>
#include <sstream>

#include <palimpsest/core/error.hpp>

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

bool possible(double rate) { return std::isfinite(rate) && rate > 0; }

}  // namespace

void Rates::check() const {
  for (const Field& field : fields) {
    if (possible(this->*field.number)) continue;
    throw ValueError(concat_text("rates: ", field.name, " is ", this->*field.number, ", expected a positive number"));
  }
}

Rates Rates::standard(Device device) {
  if (device == Device::Cuda) return {30e12, 3e12, 5e-6, 25e9};
  // Two cores of an AMD EPYC (Zen 4) with AVX-512, as examples/calibrate_rates finds them, rounded.
  return {210e9, 47e9, 1e-6, 7e9};
}

Rates Rates::load(const std::string& file, Device device) {
  std::ifstream in(file);
  if (!in) throw DataError(concat_text(file, ": cannot be read"));
  Rates rates = standard(device);
  std::array<int, fields.size()> given_in{};  // line, 0: none
  std::string line;
  int number = 1;
  for (; std::getline(in, line); ++number) {
    if (line.empty() || line[0] == '#') continue;
    std::istringstream words(line);
    std::string name;
    double value = 0;
    std::string rest;
    const bool read = static_cast<bool>(words >> name >> value) && !(words >> rest);
    std::size_t which = 0;
    while (which < fields.size() && name != fields[which].name) ++which;
    if (!read || which == fields.size() || !possible(value)) {
      throw DataError(
          concat_text(file, ", line ", number, ": '", line, "', expected a rate's name and a positive number"));
    }
    if (given_in[which] != 0) {
      throw DataError(concat_text(file, ", line ", number, ": '", line, "', line ", given_in[which],
                                  " gives the same rate, expected each once"));
    }
    given_in[which] = number;
    rates.*fields[which].number = value;
  }
  // A folder can be opened, and fails in the first read, which ends the loop like the end of a file.
  if (in.bad()) throw DataError(concat_text(file, ": cannot be read"));
  if (given_in == decltype(given_in){}) {
    throw DataError(concat_text(file, ", line ", number, ": the file ends without a rate, expected at least one"));
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

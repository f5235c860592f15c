// Pictures a second that one thread reads, decodes and makes images of, from a folder of classes.
//
//   loading_bench FOLDER SECONDS train|test
//
// Answers with one line of JSON: {"images":...,"seconds":...}. bench/loading.py runs it beside Pillow.

#include <chrono>
#include <exception>
#include <iostream>
#include <string>
#include <vector>

#include <palimpsest/core/error.hpp>
#include <palimpsest/datasets/image_folder.hpp>

using namespace palimpsest;

int main(int argc, char** argv) {
  try {
    if (argc != 4) throw ValueError("usage: loading_bench FOLDER SECONDS train|test");
    using Clock = std::chrono::steady_clock;
    const datasets::ImageFolder images(
        datasets::index_folder(argv[1], datasets::Split::Train),
        {.transform = {.size = 224, .augment = std::string(argv[3]) == "train"}, .broken = datasets::Broken::Replaced});
    std::vector<std::uint8_t> pixels(static_cast<std::size_t>(images.form().size()));
    const std::chrono::duration<double> limit(std::stod(argv[2]));
    const auto start = Clock::now();
    std::int64_t count = 0;
    std::chrono::duration<double> taken{};
    for (; taken < limit; taken = Clock::now() - start) {
      Random random(1, static_cast<std::uint64_t>(count));
      images.read(count++ % images.count(), random, pixels.data());
    }
    std::cout << "{\"images\":" << count << ",\"seconds\":" << taken.count() << "}" << std::endl;
    return 0;
  } catch (const std::exception& error) {
    std::cerr << "loading_bench: " << error.what() << std::endl;
    return 1;
  }
}

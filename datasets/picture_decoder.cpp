#include <palimpsest/datasets/picture_decoder.hpp>

#include <cstddef>
#include <cstdlib>

namespace palimpsest::datasets {

/// A bound on what the decoder asks for at a time, and why it got nothing.
struct DecoderMemory {
  std::size_t most = 0;
  bool asked_for_more = false;
  bool exhausted = false;

  void* give(void* memory) {
    exhausted = exhausted || memory == nullptr;
    return memory;
  }
  bool refuses(std::size_t bytes) {
    asked_for_more = asked_for_more || bytes > most;
    return bytes > most;
  }
};

static thread_local DecoderMemory decoder_memory;

/// A part of a damaged picture that never comes is black, not what the memory held before: the same file always gives
/// the same pixels.
static void* allocate(std::size_t bytes) {
  return decoder_memory.refuses(bytes) ? nullptr : decoder_memory.give(std::calloc(1, bytes));
}

static void* reallocate(void* pointer, std::size_t bytes) {
  return decoder_memory.refuses(bytes) ? nullptr : decoder_memory.give(std::realloc(pointer, bytes));
}

[[noreturn]] static void refuse_assertion();

}  // namespace palimpsest::datasets

#define STB_IMAGE_IMPLEMENTATION
#define STB_IMAGE_STATIC
#define STBI_ONLY_JPEG
#define STBI_ONLY_PNG
#define STBI_NO_STDIO
#define STBI_NO_LINEAR
#define STBI_NO_HDR
#define STBI_MAX_DIMENSIONS 65535
#define STBI_MALLOC(size) palimpsest::datasets::allocate(size)
#define STBI_REALLOC(pointer, size) palimpsest::datasets::reallocate(pointer, size)
#define STBI_FREE(pointer) std::free(pointer)
// A picture that the decoder finds impossible is an error, not the end of the process.
#define STBI_ASSERT(condition) (condition) ? static_cast<void>(0) : palimpsest::datasets::refuse_assertion()

#include <palimpsest/core/error.hpp>
#include <palimpsest/datasets/picture.hpp>

static void palimpsest::datasets::refuse_assertion() { throw DataError("a damaged picture"); }

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-function"
#include <stb_image.h>
#pragma GCC diagnostic pop

namespace palimpsest::datasets {

bool decodes_pictures() { return true; }

DecodedPixels decode_pixels(std::span<const std::uint8_t> bytes, const PictureFacts& facts) {
  // Four channels of two bytes, twice: the buffer of inflated bytes doubles when it is too small. JPEGs are whole
  // squares of 32x32 pixels.
  const std::int64_t samples = 16 * (facts.width + 32) * (facts.height + 32);
  decoder_memory = {.most = 2 * bytes.size() + static_cast<std::size_t>(samples) + 65536};
  stbi__g_failure_reason = nullptr;
  int width = 0;
  int height = 0;
  int channels = 0;
  stbi_uc* const pixels =
      stbi_load_from_memory(bytes.data(), static_cast<int>(bytes.size()), &width, &height, &channels, 0);
  if (pixels == nullptr) {
    const std::string size = concat_text("a picture of ", facts.width, "x", facts.height, " pixels");
    if (decoder_memory.exhausted) throw OutOfMemory(concat_text("no memory to decode ", size));
    if (decoder_memory.asked_for_more) throw DataError(concat_text("a damaged picture: it has more than ", size));
    const char* const why = stbi_failure_reason();
    throw DataError(concat_text("a damaged picture: ", why != nullptr ? why : "it cannot be decoded"));
  }
  return {height, width, channels, {pixels, stbi_image_free}};
}

}  // namespace palimpsest::datasets

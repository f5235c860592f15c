#include <palimpsest/datasets/picture_decoder.hpp>

#include <cstdlib>

#define STB_IMAGE_IMPLEMENTATION
#define STB_IMAGE_STATIC
#define STBI_ONLY_JPEG
#define STBI_ONLY_PNG
#define STBI_NO_STDIO
#define STBI_NO_LINEAR
#define STBI_NO_HDR
#define STBI_MAX_DIMENSIONS 65535
// A part of a damaged picture that never comes is black, not what the memory held before: the same file always gives
// the same pixels.
#define STBI_MALLOC(size) std::calloc(1, size)
#define STBI_REALLOC(pointer, size) std::realloc(pointer, size)
#define STBI_FREE(pointer) std::free(pointer)
// A picture that the decoder finds impossible is an error, not the end of the process.
#define STBI_ASSERT(condition) (condition) ? static_cast<void>(0) : palimpsest::datasets::refuse_assertion()

#include <palimpsest/core/error.hpp>
#include <palimpsest/datasets/picture.hpp>

namespace palimpsest::datasets {
[[noreturn]] static void refuse_assertion() { throw DataError("a damaged picture"); }
}  // namespace palimpsest::datasets

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-function"
#include <stb_image.h>
#pragma GCC diagnostic pop

namespace palimpsest::datasets {

bool decodes_pictures() { return true; }

DecodedPixels decode_pixels(std::span<const std::uint8_t> bytes) {
  int width = 0;
  int height = 0;
  int channels = 0;
  stbi_uc* const pixels =
      stbi_load_from_memory(bytes.data(), static_cast<int>(bytes.size()), &width, &height, &channels, 0);
  if (pixels == nullptr) {
    const char* const why = stbi_failure_reason();
    throw DataError(concat_text("a damaged picture: ", why != nullptr ? why : "it cannot be decoded"));
  }
  return {height, width, channels, {pixels, stbi_image_free}};
}

}  // namespace palimpsest::datasets

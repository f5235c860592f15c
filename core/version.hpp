#pragma once

/// The version of these headers. Until 1.0.0 every minor version may break programs.
#define PALIMPSEST_VERSION "0.1.0"
#define PALIMPSEST_VERSION_MAJOR 0
#define PALIMPSEST_VERSION_MINOR 1
#define PALIMPSEST_VERSION_PATCH 0

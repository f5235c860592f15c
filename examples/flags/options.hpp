#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <palimpsest/core/parallel.hpp>
#include <palimpsest/datasets/image_folder.hpp>
#include <palimpsest/reports/step_pictures.hpp>
#include <palimpsest/train/options.hpp>

namespace palimpsest::flags {

/// Both halves of a folder of pictures.
struct PictureFolder {
  datasets::FolderIndex training;
  datasets::FolderIndex test;
};

/// The values of the flags that all examples share. An example changes the defaults to those of its model's paper.
struct Options {
  std::string memory = "store-all";
  bool plan = false;   ///< print what every policy would take, and end
  std::string budget;  ///< for the plan: bytes, as memory::Budget reads them; empty: none
  std::string rates;   ///< file of memory::Rates; empty: the library's
  std::string device = "auto";
  std::string precision = "fp32";
  std::string verify = "off";
  std::string offload_dir;  ///< empty: the system's folder for temporary files

  std::string data = "fashion-mnist";
  std::string data_dir;        ///< empty: the data set's usual place
  bool takes_folders = false;  ///< `data` may be a folder of pictures, which `folder` is then the index of
  std::shared_ptr<const PictureFolder> folder = nullptr;
  bool skip_broken = false;  ///< pictures
  std::int64_t crops = 1;    ///< of a picture that is evaluated
  bool augment = true;
  std::int64_t train_limit = 0;  ///< use only the first images; 0: all
  std::int64_t test_limit = 0;
  std::int64_t image_size = 32;  ///< height and width of the models' input; smaller images are padded with zeros
  std::int64_t classes = 10;     ///< of synthetic images

  std::int64_t batch_size = 64;
  std::int64_t accumulate = 1;  ///< batches that a step's is divided into
  std::int64_t epochs = 300;
  std::int64_t max_steps = 0;  ///< 0: no limit but the epochs
  double learning_rate = 0.1;
  double momentum = 0.9;
  double weight_decay = 1e-4;
  std::string schedule = "step";
  std::int64_t warmup = 0;  ///< steps
  double label_smoothing = 0;
  std::vector<std::string> freeze;  ///< patterns of parameters that are not trained
  bool freeze_norm = false;         ///< nor are the running statistics of their normalisations updated
  std::uint64_t seed = 0;
  int threads = thread_count();

  bool evaluate = true;
  std::int64_t evaluate_every = 1;  ///< epochs
  bool evaluate_alone = false;      ///< train nothing
  std::string predictions;          ///< file, for evaluate_alone; empty: none
  std::string weights;              ///< file to begin with; empty: the seed's
  std::vector<std::string> weights_except;
  std::string save_weights;  ///< file for the end; empty: none
  train::CheckpointOptions checkpoints;
  std::string resume;  ///< folder; empty: the run is a new one
  reports::Files files;
  bool quiet = false;
};

/// The parts of a model's published training that have no flag.
struct TrainingDefaults {
  bool nesterov = false;
  bool decay_norm_and_bias = true;
  std::int64_t crop_padding = 4;                 ///< zeros on every side before a random crop
  bool subtract_mean_image = false;              ///< instead of normalising every channel
  std::vector<double> milestones = {0.5, 0.75};  ///< parts of a run after which the step schedule divides by 10
};

}  // namespace palimpsest::flags

// For weights_python_test.py: a model out of a file, its scores of images, and its weights in files again.
//
//   weights_worker MODEL WEIGHTS IMAGES FOLDER
//
// MODEL: densenet121 or resnet50. IMAGES has a tensor "images" (N, 3, H, W). FOLDER gets scores.safetensors with
// "scores" (N, classes), own.safetensors and torchvision.safetensors.

#include <iostream>
#include <memory>

#include <palimpsest/nn/models/densenet.hpp>
#include <palimpsest/nn/models/imagenet_resnet.hpp>
#include <palimpsest/storage/weights.hpp>

using namespace palimpsest;

namespace {

std::unique_ptr<nn::Classifier> make_model(const std::string& name) {
  if (name == "resnet50") {
    return std::make_unique<nn::ImageNetResNet>(nn::ImageNetResNetOptions::of_depth(50), nn::Init(1));
  }
  return std::make_unique<nn::DenseNet>(nn::DenseNetOptions::imagenet(121), nn::Init(1));
}

Tensor read_images(const std::string& file) {
  storage::SafetensorsReader reader(file);
  const std::vector<std::int64_t>& shape = reader.tensors().at(0).shape;
  const Tensor images = Tensor::zeros({shape.at(0), shape.at(1), shape.at(2), shape.at(3)});
  storage::load_weights(reader, {{"images", images}});
  return images;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 5) return 2;
  try {
    const std::string folder = argv[4];
    const std::unique_ptr<nn::Classifier> model = make_model(argv[1]);
    std::cout << storage::load_weights(argv[2], *model).describe() << std::endl;
    model->train(false);
    const NoGrad no_grad;
    const std::vector<nn::NamedTensor> scores = {{"scores", (*model)(read_images(argv[3]))}};
    storage::save_weights(folder + "/scores.safetensors", scores);
    storage::save_weights(folder + "/own.safetensors", *model);
    storage::save_weights(folder + "/torchvision.safetensors", *model, {}, storage::Names::Torchvision);
    return 0;
  } catch (const std::exception& error) {
    std::cerr << error.what() << std::endl;
    return 1;
  }
}

// An evaluation without training: what it measures, what it takes, what it writes.

#include <palimpsest/reports/evaluate.hpp>

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <sstream>

#include <palimpsest/core/error.hpp>
#include <palimpsest/datasets/synthetic.hpp>
#include <palimpsest/nn/models/densenet.hpp>
#include <palimpsest/storage/weights.hpp>
#include <palimpsest/train/images.hpp>
#include "tests/support/temporary_folder.hpp"
#include "tests/train/row_task.hpp"
#include "tests/train/small_tasks.hpp"

namespace palimpsest::reports {
namespace {

using Json = nlohmann::ordered_json;

class EvaluateTest : public testing::InTemporaryFolder {
 protected:
  /// A small classifier of images whose training data cannot be opened.
  static train::Task task() {
    train::Task task = test::small_densenet(10);
    const auto images = std::make_shared<datasets::ImageSet>(datasets::synthetic({.count = 40, .seed = 3}));
    task.evaluation = train::image_data("drawn", images, {.shuffle = false});
    task.score = nullptr;
    task.class_scores =
        train::with_model<nn::Classifier>([](nn::Classifier& model, test::Batch batch) { return model(batch[0]); });
    return task;
  }
  Json report() const { return Json::parse(content("report.json")); }

  std::ostringstream out_;
};

#ifdef PALIMPSEST_HAS_STORAGE
TEST_F(EvaluateTest, MeasuresWhatTheTrainedModelHas) {
  train::Task trained = task();
  trained.training = trained.evaluation;
  const train::Options options{.batch_size = 16, .epochs = 2, .save_weights = path("weights"), .quiet = true};
  train::Trainer trainer(trained, options, train::choose_memory(trained, options));
  trainer.run();
  const bool whole =
      evaluate(out_, task(), {.batch_size = 16, .seed = 7, .weights = path("weights")},
               {.report = path("report.json"), .predictions = path("predictions.csv")}, {{"learning_rate", 0.5}});
  EXPECT_TRUE(whole);
  EXPECT_EQ(report()["test_accuracy"], trainer.record().metric());
  EXPECT_EQ(report()["state_digest"], trainer.model().state_digest());
  EXPECT_EQ(report()["steps"], Json::array());
  EXPECT_EQ(report()["learning_rate"], 0.5);
  EXPECT_GE(report()["test_top5_accuracy"], report()["test_accuracy"]);
  EXPECT_NE(out_.str().find("test accuracy"), std::string::npos) << out_.str();
  EXPECT_NE(out_.str().find("label \\ taken for"), std::string::npos) << out_.str();
}
#endif

TEST_F(EvaluateTest, TellsWhatIsTakenForWhat) {
  evaluate(out_, task(), {.batch_size = 16}, {.report = path("report.json"), .predictions = path("predictions.csv")});
  const Json table = report()["confusion"];
  ASSERT_EQ(table.size(), 10U);
  std::map<std::pair<int, int>, int> counts;
  std::istringstream rows(content("predictions.csv"));
  std::string line;
  std::getline(rows, line);
  EXPECT_EQ(line, "sample,label,predicted,probability");
  const std::vector<std::int32_t> labels = datasets::synthetic({.count = 40, .seed = 3}).labels;
  int samples = 0;
  for (; std::getline(rows, line); ++samples) {
    int sample = 0, label = 0, predicted = 0;
    double probability = 0;
    ASSERT_EQ(std::sscanf(line.c_str(), "%d,%d,%d,%lf", &sample, &label, &predicted, &probability), 4) << line;
    EXPECT_EQ(sample, samples);
    EXPECT_EQ(label, labels[static_cast<std::size_t>(sample)]);
    EXPECT_TRUE(probability >= 0.1 && probability <= 1) << line;
    ++counts[{label, predicted}];
  }
  EXPECT_EQ(samples, 40);
  int right = 0;
  for (int label = 0; label < 10; ++label) {
    right += counts[{label, label}];
    for (int taken = 0; taken < 10; ++taken) EXPECT_EQ(table[label][taken], (counts[{label, taken}]));
  }
  EXPECT_EQ(report()["test_accuracy"], right / 40.0);
}

/// Synthetic images of which every tenth cannot be read.
class WithBrokenImages : public datasets::StoredImages {
 public:
  using datasets::StoredImages::StoredImages;
  std::int32_t label(std::int64_t index) const override {
    return index % 10 == 0 ? datasets::no_label : StoredImages::label(index);
  }
};

TEST_F(EvaluateTest, LeavesOutWhatCannotBeRead) {
  const datasets::ImageSet images = datasets::synthetic({.count = 40, .seed = 3});
  train::Task some = task();
  some.evaluation =
      train::image_data("drawn", std::make_shared<WithBrokenImages>(std::make_shared<const datasets::ImageSet>(images)),
                        {.shuffle = false});
  some.evaluation.left_out = [] { return std::vector<std::string>{"0", "10", "20", "30"}; };
  evaluate(out_, task(), {.batch_size = 16}, {.predictions = path("all.csv")});
  out_.str("");
  evaluate(out_, some, {.batch_size = 16}, {.report = path("report.json"), .predictions = path("predictions.csv")});
  std::istringstream all(content("all.csv"));
  std::string expected, line;
  int sample = -1, right = 0;
  for (; std::getline(all, line); ++sample) {
    if (sample >= 0 && sample % 10 == 0) continue;
    expected += line + '\n';
    int number = 0, label = 0, predicted = 0;
    if (std::sscanf(line.c_str(), "%d,%d,%d", &number, &label, &predicted) == 3) right += label == predicted ? 1 : 0;
  }
  EXPECT_EQ(content("predictions.csv"), expected);
  EXPECT_EQ(report()["test_accuracy"], right / 36.0);
  EXPECT_EQ(report()["evaluated"], 36);
  EXPECT_EQ(report()["not_evaluated"].size(), 4U);
  EXPECT_NE(out_.str().find("on drawn: 36 images evaluated"), std::string::npos) << out_.str();
  EXPECT_NE(out_.str().find("  not evaluated  4 of 40 images"), std::string::npos) << out_.str();
}

TEST_F(EvaluateTest, NamesTheFilesOfSamplesThatHaveSome) {
  train::Task named = task();
  named.evaluation.file_of = [](std::int64_t sample) {
    const std::vector<std::string> odd = {"plain name.png", "a,b.png", "\"c\".png", "d\ne.png"};
    return odd[static_cast<std::size_t>(sample % 4)];
  };
  evaluate(out_, named, {.batch_size = 16}, {.predictions = path("predictions.csv")});
  const std::string rows = content("predictions.csv");
  EXPECT_TRUE(rows.starts_with("sample,label,predicted,probability,file\n0,")) << rows;
  for (const char* const field : {",plain name.png\n", ",\"a,b.png\"\n", ",\"\"\"c\"\".png\"\n", ",\"d\ne.png\"\n"}) {
    EXPECT_NE(rows.find(field), std::string::npos) << field << " in\n" << rows;
  }
}

TEST_F(EvaluateTest, SaysThatNothingCouldBeRead) {
  train::Task none = task();
  auto images = datasets::synthetic({.count = 1, .seed = 3});
  none.evaluation = train::image_data(
      "drawn", std::make_shared<WithBrokenImages>(std::make_shared<const datasets::ImageSet>(images)), {});
  none.evaluation.left_out = [] { return std::vector<std::string>{"0.png: is empty"}; };
  try {
    evaluate(out_, none, {});
    FAIL() << "nothing was evaluated";
  } catch (const DataError& error) {
    EXPECT_NE(std::string(error.what()).find("none of the 1 images"), std::string::npos) << error.what();
    EXPECT_NE(std::string(error.what()).find("0.png: is empty"), std::string::npos) << error.what();
  }
}

TEST_F(EvaluateTest, TakesWhatWasForeseenToTheByte) {
  evaluate(out_, task(), {.batch_size = 16}, {.report = path("report.json")});
  const train::Forecast forecast = train::rehearse_evaluation_alone(task(), {.batch_size = 16});
  EXPECT_EQ(report()["evaluation_peak_bytes"]["total"], forecast.evaluation.total);
  EXPECT_EQ(report()["predicted_evaluation_peak_bytes"], forecast.evaluation.total);
  EXPECT_EQ(report()["peak_bytes"]["total"], 0);
  EXPECT_LT(forecast.evaluation.total, train::rehearse_evaluation(task(), {.batch_size = 16}))
      << "there is no gradient and no momentum";
}

TEST_F(EvaluateTest, RefusesEarlyAndWritesNothing) {
  int models = 0;
  train::Task counted = task();
  counted.make_model = [&, make = counted.make_model](nn::Init init) {
    ++models;
    return make(std::move(init));
  };
  EXPECT_THROW(evaluate(out_, counted, {.weights = path("nowhere")}), DataError);
  EXPECT_THROW(evaluate(out_, counted, {}, {.report = path("one"), .predictions = path("one")}), ValueError);
  EXPECT_THROW(evaluate(out_, counted, {}, {.predictions = path("nowhere/predictions")}), Error);
  counted.evaluation = {};
  EXPECT_THROW(evaluate(out_, counted, {}), ValueError);
  EXPECT_THROW(evaluate(out_, test::row_task(), {}, {.predictions = path("predictions.csv")}), ValueError);
  EXPECT_EQ(models, 0);
  EXPECT_EQ(files(), 0);
}

TEST_F(EvaluateTest, GivesAScoreToATaskOfAnyKind) {
  EXPECT_TRUE(evaluate(out_, test::row_task(), {.batch_size = 8}, {.report = path("report.json")}));
  EXPECT_TRUE(report()["test_mean"].is_number());
  EXPECT_FALSE(report().contains("confusion"));
}

TEST_F(EvaluateTest, SaysWhereMemoryDoesNotDo) {
  Allocator& memory = allocator(Device::Cpu);
  const std::size_t before = memory.limit();
  memory.set_limit(memory.stats().live + train::rehearse_evaluation_alone(task(), {.batch_size = 16}).evaluation.total -
                   1);
  EXPECT_THROW(evaluate(out_, task(), {.batch_size = 16}), OutOfMemory);
  memory.set_limit(before);
  EXPECT_EQ(out_.str(), "");
}

TEST_F(EvaluateTest, WantsOneWayToScore) {
  train::Task both = task();
  both.score = [](nn::Module&, test::Batch) { return train::Score{}; };
  EXPECT_THROW(evaluate(out_, both, {}), ValueError);
}

}  // namespace
}  // namespace palimpsest::reports

#include <palimpsest/core/whole_file.hpp>

#include <gtest/gtest.h>

#include <thread>
#include <utility>

#include <palimpsest/core/error.hpp>
#include "tests/support/temporary_folder.hpp"

namespace palimpsest {
namespace {

namespace fs = std::filesystem;

using WholeFileTest = testing::InTemporaryFolder;

TEST_F(WholeFileTest, ReplacesTheWholeFileAndLeavesNothingElse) {
  const WholeFile file(folder_ / "report.json");
  EXPECT_EQ(files(), 0);
  file.write("first, and longer");
  file.write("second");
  EXPECT_EQ(content("report.json"), "second");
  EXPECT_EQ(files(), 1);
}

TEST_F(WholeFileTest, KeepsWhatIsThereUntilTheFirstWrite) {
  std::ofstream(folder_ / "report.json") << "old";
  const WholeFile file(folder_ / "report.json");
  EXPECT_EQ(content("report.json"), "old");
}

TEST_F(WholeFileTest, FollowsALink) {
  fs::create_symlink(folder_ / "real.json", folder_ / "link.json");
  WholeFile(folder_ / "link.json").write("text");
  EXPECT_TRUE(fs::is_symlink(folder_ / "link.json"));
  EXPECT_EQ(content("real.json"), "text");
}

TEST_F(WholeFileTest, SaysAtOnceThatItCannotBeWritten) {
  EXPECT_THROW(WholeFile(folder_ / "missing" / "report.json"), Error);
  EXPECT_THROW(WholeFile(folder_.string()), Error);
  EXPECT_FALSE(WholeFile(""));
  WholeFile("").write("nowhere");
}

TEST_F(WholeFileTest, IsAsItWasUntilItIsCommitted) {
  std::ofstream(folder_ / "weights") << "old";
  const WholeFile file(folder_ / "weights");
  PendingFile pending = file.stage([](std::ostream& out) { out << "new"; });
  EXPECT_EQ(content("weights"), "old");
  EXPECT_EQ(content("weights.tmp"), "new");
  std::thread([moved = std::move(pending)]() mutable { moved.commit(); }).join();
  EXPECT_EQ(content("weights"), "new");
  EXPECT_EQ(files(), 1);
  {
    const PendingFile dropped = file.stage([](std::ostream& out) { out << "never"; });
  }
  EXPECT_EQ(content("weights"), "new");
  EXPECT_EQ(files(), 1);
  WholeFile("").stage([](std::ostream&) {}).commit();
}

TEST_F(WholeFileTest, TheBodyCanSeek) {
  WholeFile(folder_ / "weights").write([](std::ostream& out) { out << "??cd", out.seekp(0), out << "ab"; });
  EXPECT_EQ(content("weights"), "abcd");
}

/// Two at once would put their bytes into one temporary.
TEST_F(WholeFileTest, OneWriteAtATime) {
  const WholeFile file(folder_ / "weights");
  PendingFile pending = file.stage([](std::ostream& out) { out << "first"; });
  try {
    file.write("second");
    ADD_FAILURE() << "two writes at once";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("another write to it is under way"), std::string::npos) << error.what();
  }
  EXPECT_EQ(content("weights.tmp"), "first");
  pending.commit();
  file.write("second");
  EXPECT_EQ(content("weights"), "second");
}

/// A temporary left by a process that was killed is taken over, and none of it comes into the file.
TEST_F(WholeFileTest, TakesOverWhatAKilledProcessLeft) {
  std::ofstream(folder_ / "weights.tmp") << "left by a process that was killed";
  const WholeFile file(folder_ / "weights");
  EXPECT_EQ(files(), 0);
  std::ofstream(folder_ / "weights.tmp") << "left by a process that was killed";
  file.write("new");
  EXPECT_EQ(content("weights"), "new");
  EXPECT_EQ(files(), 1);
}

/// A link of the temporary's name leads nowhere that is written to.
TEST_F(WholeFileTest, DoesNotFollowALinkInThePlaceOfTheTemporary) {
  std::ofstream(folder_ / "other") << "mine";
  fs::create_symlink(folder_ / "other", folder_ / "weights.tmp");
  EXPECT_THROW(WholeFile(folder_ / "weights"), Error);
  EXPECT_EQ(content("other"), "mine");
}

TEST_F(WholeFileTest, AFailureLeavesTheFileAsItWas) {
  std::ofstream(folder_ / "weights") << "old";
  const WholeFile file(folder_ / "weights");
  EXPECT_THROW(file.write([](std::ostream& out) { out << "new", throw DataError("no more"); }), DataError);
  EXPECT_THROW(file.write([](std::ostream& out) { out << "new", out.setstate(std::ios::failbit); }), Error);
  EXPECT_EQ(content("weights"), "old");
  EXPECT_EQ(files(), 1);
}

}  // namespace
}  // namespace palimpsest

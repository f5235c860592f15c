// Puts the logs of several runs (--log-dir) on one page, to be compared.
//
//   compare_runs --output runs.html logs/shared logs/checkpoint

#include <CLI/CLI.hpp>
#include <exception>
#include <iostream>
#include <string>
#include <vector>

#include <palimpsest/core/whole_file.hpp>
#include <palimpsest/reports/run_page.hpp>

using namespace palimpsest;

int main(int argc, char** argv) {
  std::vector<std::string> folders;
  std::string output = "runs.html";
  CLI::App app("Puts the logs of several runs, folders of --log-dir, on one page.", "compare_runs");
  app.add_option("folders", folders, "the logs' folders")->required()->type_name("DIR");
  app.add_option("--output", output, "the page (HTML)")->type_name("FILE")->capture_default_str();
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  try {
    const WholeFile file(output);
    std::vector<reports::RunHistory> runs;
    for (const std::string& folder : folders) runs.push_back(reports::read_log(folder));
    file.write(reports::run_page(runs));
  } catch (const std::exception& error) {
    std::cerr << "compare_runs: " << error.what() << '\n';
    return 1;
  }
}

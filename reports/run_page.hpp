#pragma once

#include <string>
#include <vector>

#include <palimpsest/reports/run_history.hpp>

namespace palimpsest::reports {

/// The page's data in JSON: the facts, the summary and the columns of each run. A run of more than 10,000 steps has
/// points of as many steps each as it takes: of losses and rates the mean, of peaks the highest, else the last.
std::string run_page_data(const std::vector<RunHistory>& runs);

/// One page of HTML that needs nothing but a browser: loss, metric, learning rate, samples per second and memory over
/// the steps of one run, or of several for comparison. Throws ValueError without a run.
std::string run_page(const std::vector<RunHistory>& runs);

}  // namespace palimpsest::reports

// Line charts as SVG text.
#ifndef CONCLAVE_LAUNCH_SVG_PLOT_H_
#define CONCLAVE_LAUNCH_SVG_PLOT_H_

#include <string>
#include <vector>

namespace conclave {

struct PlotLine {
  std::string name;
  std::vector<double> x, y;  // points that are not finite, or not positive on a logarithmic axis, are left out
};

struct PlotOptions {
  std::string title, x_label, y_label;
  bool log_x = false, log_y = true;
};

// 860 x 520 units, a legend at the right, one colour and dash pattern a line. Names are escaped.
std::string RenderPlot(const PlotOptions& options, const std::vector<PlotLine>& lines);

}  // namespace conclave

#endif  // CONCLAVE_LAUNCH_SVG_PLOT_H_

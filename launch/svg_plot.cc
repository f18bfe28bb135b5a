#include "launch/svg_plot.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "absl/strings/str_format.h"
#include "base/status.h"

namespace conclave {
namespace {

constexpr double kLeft = 80, kRight = 600, kTop = 40, kBottom = 460;
constexpr std::array<const char*, 8> kColours = {"#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999933"};
constexpr std::array<const char*, 3> kDashes = {"none", "7 3", "2 3"};

std::string Escaped(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '&') out += "&amp;";
    else if (c == '<') out += "&lt;";
    else if (c == '>') out += "&gt;";
    else out += c;
  }
  return out;
}

// One direction of the chart: values to places.
struct PlotAxis {
  bool log = false;
  double low = std::numeric_limits<double>::infinity(), high = -low;
  double begin = 0, end = 1;

  bool Shows(double v) const { return std::isfinite(v) && (!log || v > 0); }
  double Scaled(double v) const { return log ? std::log10(v) : v; }
  void Widen(double v) {
    low = std::min(low, Scaled(v));
    high = std::max(high, Scaled(v));
  }
  void Close() {
    if (!(low <= high)) low = 0, high = 1;
    if (low == high) low -= 0.5, high += 0.5;
  }
  double Place(double v) const { return begin + (Scaled(v) - low) / (high - low) * (end - begin); }

  // Where ticks are: powers of ten, or multiples of 1, 2 or 5 times one.
  std::vector<double> Ticks() const {
    std::vector<double> ticks;
    double step = log ? std::max(1.0, std::ceil((high - low) / 8)) : std::pow(10, std::floor(std::log10((high - low) / 4)));
    if (!log) step *= (high - low) / step > 16 ? 5 : (high - low) / step > 8 ? 2 : 1;
    for (double t = std::ceil(low / step) * step; t <= high + 1e-9 * step; t += step) ticks.push_back(log ? std::pow(10, t) : t);
    return ticks;
  }
};

std::string Frame(const PlotOptions& options, const PlotAxis& x, const PlotAxis& y) {
  std::string svg = absl::StrFormat(
      "<rect x=\"%g\" y=\"%g\" width=\"%g\" height=\"%g\" fill=\"none\" stroke=\"#444\"/>\n"
      "<text x=\"%g\" y=\"24\" text-anchor=\"middle\" font-size=\"15\">%s</text>\n"
      "<text x=\"%g\" y=\"505\" text-anchor=\"middle\">%s</text>\n"
      "<text transform=\"translate(20 %g) rotate(-90)\" text-anchor=\"middle\">%s</text>\n",
      kLeft, kTop, kRight - kLeft, kBottom - kTop, (kLeft + kRight) / 2, Escaped(options.title), (kLeft + kRight) / 2,
      Escaped(options.x_label), (kTop + kBottom) / 2, Escaped(options.y_label));
  for (const double t : x.Ticks()) {
    absl::StrAppendFormat(&svg,
                          "<line x1=\"%.1f\" y1=\"%g\" x2=\"%.1f\" y2=\"%g\" stroke=\"#ddd\"/>"
                          "<text x=\"%.1f\" y=\"478\" text-anchor=\"middle\">%g</text>\n",
                          x.Place(t), kTop, x.Place(t), kBottom, x.Place(t), t);
  }
  for (const double t : y.Ticks()) {
    absl::StrAppendFormat(&svg,
                          "<line x1=\"%g\" y1=\"%.1f\" x2=\"%g\" y2=\"%.1f\" stroke=\"#ddd\"/>"
                          "<text x=\"%g\" y=\"%.1f\" text-anchor=\"end\">%g</text>\n",
                          kLeft, y.Place(t), kRight, y.Place(t), kLeft - 6, y.Place(t) + 4, t);
  }
  return svg;
}

}  // namespace

std::string RenderPlot(const PlotOptions& options, const std::vector<PlotLine>& lines) {
  PlotAxis x{.log = options.log_x, .begin = kLeft, .end = kRight}, y{.log = options.log_y, .begin = kBottom, .end = kTop};
  const auto shows = [&](const PlotLine& line, size_t i) { return x.Shows(line.x[i]) && y.Shows(line.y[i]); };
  for (const PlotLine& line : lines) {
    for (size_t i = 0; i < line.x.size(); ++i) {
      if (!shows(line, i)) continue;
      x.Widen(line.x[i]);
      y.Widen(line.y[i]);
    }
  }
  x.Close();
  y.Close();
  std::string svg =
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 860 520\" font-family=\"sans-serif\" font-size=\"12\">\n"
      "<rect width=\"860\" height=\"520\" fill=\"white\"/>\n" +
      Frame(options, x, y);
  for (size_t l = 0; l < lines.size(); ++l) {
    const char* colour = kColours[l % kColours.size()];
    const char* dash = kDashes[l / kColours.size() % kDashes.size()];
    absl::StrAppendFormat(&svg, "<polyline fill=\"none\" stroke=\"%s\" stroke-width=\"1.6\" stroke-dasharray=\"%s\" points=\"", colour,
                          dash);
    for (size_t i = 0; i < lines[l].x.size(); ++i) {
      if (shows(lines[l], i)) absl::StrAppendFormat(&svg, "%.1f,%.1f ", x.Place(lines[l].x[i]), y.Place(lines[l].y[i]));
    }
    const double row = kTop + 12 + 20 * static_cast<double>(l);
    absl::StrAppendFormat(&svg,
                          "\"/>\n<line x1=\"612\" y1=\"%g\" x2=\"640\" y2=\"%g\" stroke=\"%s\" stroke-width=\"2\" stroke-dasharray=\"%s\"/>"
                          "<text x=\"646\" y=\"%g\">%s</text>\n",
                          row, row, colour, dash, row + 4, Escaped(lines[l].name));
  }
  return svg + "</svg>\n";
}

}  // namespace conclave

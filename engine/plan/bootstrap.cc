#include "engine/plan/bootstrap.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>
#include <numeric>
#include <thread>
#include <utility>

#include "engine/core/parallel.h"
#include "engine/core/philox.h"

namespace lorad {
namespace {

// Random numbers of one draw, in order.
class DrawStream {
 public:
  DrawStream(uint64_t seed, uint32_t draw) : seed_(seed), draw_(draw) {}

  double Uniform() { return UniformFloat(Word()); }
  double Normal() {  // Box and Muller, one of the pair
    const double radius = std::sqrt(-2 * std::log1p(-Uniform()));
    return radius * std::cos(2 * std::numbers::pi * Uniform());
  }
  // sqrt(nu / chi^2_nu): what an unknown scale may be of the one estimated from nu residuals.
  double ScaleFactor(int nu) {
    double chi_square = 0;
    for (int i = 0; i < nu; ++i) {
      const double normal = Normal();
      chi_square += normal * normal;
    }
    return std::sqrt(nu / std::max(chi_square, 1e-6));
  }

 private:
  uint32_t Word() {
    if (used_ == 4) block_ = Philox4x32(seed_, counter_++, draw_, 0, 0), used_ = 0;
    return block_.words[used_++];
  }

  uint64_t seed_;
  uint32_t draw_;
  uint32_t counter_ = 0;
  PhiloxBlock block_ = {};
  int used_ = 4;
};

// The noise about a fit, as the draws repeat it.
struct Noise {
  std::vector<double> residuals;  // centred, scaled by sqrt(n / nu)
  double bandwidth = 0;
  int degrees_of_freedom = 0;

  double Draw(DrawStream& stream) const {
    const size_t index = static_cast<size_t>(stream.Uniform() * residuals.size());
    return residuals[std::min(index, residuals.size() - 1)] + bandwidth * stream.Normal();
  }
};

double StandardDeviation(const std::vector<double>& centred) {
  const double sum = std::inner_product(centred.begin(), centred.end(), centred.begin(), 0.0);
  return std::sqrt(sum / static_cast<double>(centred.size()));
}

Noise NoiseOf(const PowerLaw& fit, const PowerLawData& data, const std::vector<double>& fitted) {
  const size_t n = data.size();
  Noise noise;
  noise.degrees_of_freedom = static_cast<int>(n) - fit.form.num_parameters();
  for (size_t i = 0; i < n; ++i) noise.residuals.push_back(data.log_loss[i] - fitted[i]);
  const double mean = std::accumulate(noise.residuals.begin(), noise.residuals.end(), 0.0) / n;
  const double scale = std::sqrt(static_cast<double>(n) / noise.degrees_of_freedom);
  for (double& residual : noise.residuals) residual = (residual - mean) * scale;
  std::vector<double> sorted = noise.residuals;
  std::sort(sorted.begin(), sorted.end());
  const double quartiles = (sorted[n - 1 - n / 4] - sorted[n / 4]) / 1.349;
  const double deviation = StandardDeviation(noise.residuals);
  noise.bandwidth = 0.9 * (quartiles > 0 ? std::min(quartiles, deviation) : deviation) *
                    std::pow(static_cast<double>(n), -0.2);
  return noise;
}

// How many of `count` draws, and one more at infinity, make a share of `confidence` and a standard
// error more: what a quantile of so few draws may fall short by. In [1, count + 1].
size_t GuardedRank(double confidence, size_t count) {
  const double level =
      confidence + std::sqrt(confidence * (1 - confidence) / static_cast<double>(count));
  return std::clamp<size_t>(static_cast<size_t>(std::ceil(level * (count + 1))), 1, count + 1);
}

// The `rank`-th smallest of `sorted` and infinity, from 1.
double AtRank(const std::vector<double>& sorted, size_t rank) {
  return rank > sorted.size() ? std::numeric_limits<double>::infinity() : sorted[rank - 1];
}

double Distance(double drawn, double value) {
  return std::isfinite(drawn) ? std::abs(drawn - value) : std::numeric_limits<double>::infinity();
}

}  // namespace

Bootstrap::Bootstrap(const PowerLaw& fit, const PowerLawData& data, const BootstrapOptions& options)
    : fit_(fit),
      confidence_(options.confidence),
      laws_(options.draws),
      measurement_noise_(options.draws) {
  std::vector<double> fitted;
  for (size_t i = 0; i < data.size(); ++i) {
    fitted.push_back(fit.LogLoss(data.row(i, fit.form.num_terms)));
  }
  const Noise noise = NoiseOf(fit, data, fitted);
  noise_ = StandardDeviation(noise.residuals);
  const int cores = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  const int threads = options.threads > 0 ? options.threads : cores;
  ParallelFor(options.draws, threads, [&](int64_t draw) {
    DrawStream stream(options.seed, static_cast<uint32_t>(draw));
    const double scale = stream.ScaleFactor(noise.degrees_of_freedom);
    PowerLawData drawn{.log_x = data.log_x, .log_loss = fitted};
    for (double& value : drawn.log_loss) value += scale * noise.Draw(stream);
    laws_[draw] = RefitPowerLaw(fit, drawn, options.huber_delta);
    measurement_noise_[draw] = scale * noise.Draw(stream);
  });
}

std::vector<Interval> Bootstrap::Simultaneous(const Values& values_of) const {
  const std::vector<double> values = values_of(fit_);
  const size_t draws = laws_.size();
  std::vector<std::vector<double>> distances(values.size(), std::vector<double>(draws));
  for (size_t b = 0; b < draws; ++b) {
    const std::vector<double> drawn = values_of(laws_[b]);
    for (size_t j = 0; j < values.size(); ++j) distances[j][b] = Distance(drawn[j], values[j]);
  }
  // A draw's rank is that of the value in which it is farthest out.
  std::vector<size_t> ranks(draws, 1);
  for (std::vector<double>& distance : distances) {
    std::vector<double> sorted = distance;
    std::sort(sorted.begin(), sorted.end());
    for (size_t b = 0; b < draws; ++b) {
      const auto rank =
          std::lower_bound(sorted.begin(), sorted.end(), distance[b]) - sorted.begin();
      ranks[b] = std::max(ranks[b], static_cast<size_t>(rank) + 1);
    }
    distance = std::move(sorted);
  }
  std::sort(ranks.begin(), ranks.end());
  const size_t guarded = GuardedRank(confidence_, draws);
  const size_t rank = guarded > draws ? draws + 1 : ranks[guarded - 1];
  std::vector<Interval> intervals;
  for (size_t j = 0; j < values.size(); ++j) {
    const double half = AtRank(distances[j], rank);
    intervals.push_back({values[j] - half, values[j] + half});
  }
  return intervals;
}

Interval Bootstrap::Pointwise(double value, absl::Span<const double> drawn) const {
  std::vector<double> distances;
  for (const double each : drawn) distances.push_back(Distance(each, value));
  std::sort(distances.begin(), distances.end());
  const double half = AtRank(distances, GuardedRank(confidence_, distances.size()));
  return {value - half, value + half};
}

}  // namespace lorad

#include "engine/plan/power_law.h"

#include <nlopt.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_format.h"

namespace lorad {
namespace {

constexpr int kMaxParameters = 2 * kMaxPowerTerms + 1;
// ln A_1, a_1, [ln A_2, a_2], [ln E], of x divided by its geometric mean: that takes most of the
// correlation out of ln A and a.
using Vector = std::array<double, kMaxParameters>;

// ln L at one point, and its derivatives by the parameters: the terms' shares of L.
double LogLossAndGradient(const PowerLawForm& form, const Vector& p, const double* log_x,
                          Vector& gradient) {
  std::array<double, kMaxPowerTerms + 1> logs;
  int count = 0;
  for (int k = 0; k < form.num_terms; ++k) logs[count++] = p[2 * k] - p[2 * k + 1] * log_x[k];
  if (form.has_floor) logs[count++] = p[2 * form.num_terms];
  const double largest = *std::max_element(logs.begin(), logs.begin() + count);
  double sum = 0;
  for (int k = 0; k < count; ++k) sum += logs[k] = std::exp(logs[k] - largest);
  for (int k = 0; k < form.num_terms; ++k) {
    gradient[2 * k] = logs[k] / sum;
    gradient[2 * k + 1] = -log_x[k] * gradient[2 * k];
  }
  if (form.has_floor) gradient[2 * form.num_terms] = logs[form.num_terms] / sum;
  return largest + std::log(sum);
}

// Lower triangle of a Cholesky factor, in place; a small ridge keeps a direction without curvature.
using Matrix = std::array<Vector, kMaxParameters>;
void Cholesky(Matrix& m, int n) {
  for (int j = 0; j < n; ++j) {
    const double diagonal = m[j][j];
    for (int k = 0; k < j; ++k) m[j][j] -= m[j][k] * m[j][k];
    m[j][j] = std::sqrt(std::max(m[j][j], 1e-12 * diagonal + 1e-300));
    for (int i = j + 1; i < n; ++i) {
      for (int k = 0; k < j; ++k) m[i][j] -= m[i][k] * m[j][k];
      m[i][j] /= m[j][j];
    }
  }
}

// The objective in coordinates u with p = origin + L^-T u, where L L^T is the Gauss-Newton matrix
// at the origin: all directions curve alike, and L-BFGS needs few steps.
class Objective {
 public:
  Objective(const PowerLawForm& form, const PowerLawData& data, double delta)
      : form_(form), data_(data), delta_(delta), n_(form.num_parameters()) {}

  int size() const { return n_; }

  void MoveOrigin(const Vector& origin) {
    origin_ = origin;
    factor_ = {};
    for (size_t i = 0; i < data_.size(); ++i) {
      Vector g;
      LogLossAndGradient(form_, origin_, data_.log_x.data() + i * form_.num_terms, g);
      for (int a = 0; a < n_; ++a) {
        for (int b = 0; b <= a; ++b) factor_[a][b] += g[a] * g[b] / data_.size();
      }
    }
    Cholesky(factor_, n_);
  }

  Vector Parameters(const double* u) const {
    Vector p = {};
    for (int i = n_ - 1; i >= 0; --i) {
      p[i] = u[i];
      for (int k = i + 1; k < n_; ++k) p[i] -= factor_[k][i] * p[k];
      p[i] /= factor_[i][i];
    }
    for (int i = 0; i < n_; ++i) p[i] += origin_[i];
    return p;
  }

  // Mean Huber loss over delta; `gradient` by u may be null.
  double Value(const double* u, double* gradient) const {
    Vector total = {};
    const double value = Value(Parameters(u), total);
    if (gradient == nullptr) return value;
    for (int i = 0; i < n_; ++i) {  // L^-1 times the gradient by p
      for (int k = 0; k < i; ++k) total[i] -= factor_[i][k] * total[k];
      total[i] /= factor_[i][i];
      gradient[i] = total[i];
    }
    return value;
  }

  double Value(const Vector& p, Vector& gradient) const {
    double value = 0;
    const double scale = 1.0 / static_cast<double>(data_.size());
    for (size_t i = 0; i < data_.size(); ++i) {
      Vector g;
      const double residual =
          LogLossAndGradient(form_, p, data_.log_x.data() + i * form_.num_terms, g) -
          data_.log_loss[i];
      const double size = std::abs(residual);
      value += size <= delta_ ? size * size / (2 * delta_) : size - delta_ / 2;
      const double slope = std::clamp(residual / delta_, -1.0, 1.0);
      for (int k = 0; k < n_; ++k) gradient[k] += slope * g[k] * scale;
    }
    // A step of the line search that left all reason: larger than any value, so it is taken back.
    return std::isfinite(value) ? value * scale : std::numeric_limits<double>::max();
  }

 private:
  PowerLawForm form_;
  const PowerLawData& data_;  // Not owned.
  double delta_;
  int n_;
  Vector origin_ = {};
  Matrix factor_ = {};
};

double NloptValue(unsigned, const double* u, double* gradient, void* objective) {
  return static_cast<const Objective*>(objective)->Value(u, gradient);
}

struct Minimum {
  Vector parameters;
  double value;
};

// L-BFGS, begun again in new coordinates while that helps: the Huber loss is all but |r|, whose
// kinks stop it early.
Minimum Minimise(Objective& objective, const Vector& start) {
  constexpr int kRounds = 8, kEvaluations = 200;
  constexpr double kEnough = 1e-6;  // of the value: far below what noise moves it by
  Vector unused = {};
  Minimum best = {start, objective.Value(start, unused)};
  const std::unique_ptr<nlopt_opt_s, decltype(&nlopt_destroy)> optimizer(
      nlopt_create(NLOPT_LD_LBFGS, objective.size()), &nlopt_destroy);
  nlopt_set_min_objective(optimizer.get(), NloptValue, &objective);
  nlopt_set_maxeval(optimizer.get(), kEvaluations);
  nlopt_set_ftol_rel(optimizer.get(), 1e-8);
  for (int round = 0; round < kRounds; ++round) {
    objective.MoveOrigin(best.parameters);
    Vector u = {};
    double value = 0;
    // Its verdict does not matter: what it found does, and that is compared.
    nlopt_optimize(optimizer.get(), u.data(), &value);
    const Vector parameters = objective.Parameters(u.data());
    Vector ignored = {};
    value = objective.Value(parameters, ignored);
    if (!(value < best.value)) break;
    const bool enough = best.value - value <= kEnough * best.value;
    best = {parameters, value};
    if (enough) break;
  }
  return best;
}

// `data` with each ln x less its mean, which goes to `centre`.
PowerLawData Centred(const PowerLawForm& form, const PowerLawData& data,
                     std::array<double, kMaxPowerTerms>& centre) {
  PowerLawData centred = data;
  centre = {};
  for (size_t i = 0; i < data.log_x.size(); ++i) {
    centre[i % form.num_terms] += data.log_x[i] / static_cast<double>(data.size());
  }
  for (size_t i = 0; i < data.log_x.size(); ++i) centred.log_x[i] -= centre[i % form.num_terms];
  return centred;
}

PowerLaw FromVector(const PowerLawForm& form, const Vector& p,
                    const std::array<double, kMaxPowerTerms>& centre) {
  PowerLaw law{.form = form};
  for (int k = 0; k < form.num_terms; ++k) {
    law.exponent[k] = p[2 * k + 1];
    law.log_coefficient[k] = p[2 * k] + p[2 * k + 1] * centre[k];
  }
  if (form.has_floor) law.log_floor = p[2 * form.num_terms];
  return law;
}

Vector ToVector(const PowerLaw& law, const std::array<double, kMaxPowerTerms>& centre) {
  Vector p = {};
  for (int k = 0; k < law.form.num_terms; ++k) {
    p[2 * k + 1] = law.exponent[k];
    p[2 * k] = law.log_coefficient[k] - law.exponent[k] * centre[k];
  }
  if (law.form.has_floor) p[2 * law.form.num_terms] = law.log_floor;
  return p;
}

// Starts over the exponents, over how much of the smallest loss is the floor, and over the terms'
// shares of what is left at the middle of the points.
std::vector<Vector> Starts(const PowerLawForm& form, const PowerLawData& data) {
  const double smallest = *std::min_element(data.log_loss.begin(), data.log_loss.end());
  double middle = 0;
  for (const double value : data.log_loss) middle += value / static_cast<double>(data.size());
  const std::vector<double> exponents = {0.05, 0.15, 0.3, 0.6, 1.2};
  const std::vector<double> floors =
      form.has_floor ? std::vector<double>{0.2, 0.5, 0.75, 0.9, 0.97} : std::vector<double>{0};
  const bool two = form.num_terms == 2;
  std::vector<Vector> starts;
  for (const double floor : floors) {
    const double reducible = middle + std::log1p(-floor * std::exp(smallest - middle));
    for (const double first : exponents) {
      for (const double second : two ? exponents : std::vector<double>{0}) {
        for (const double share : two ? std::vector<double>{0.2, 0.5, 0.8} : std::vector{1.0}) {
          Vector p = {reducible + std::log(share), first};
          if (two) p[2] = reducible + std::log1p(-share), p[3] = second;
          if (form.has_floor) p[2 * form.num_terms] = smallest + std::log(floor);
          starts.push_back(p);
        }
      }
    }
  }
  return starts;
}

absl::Status Validate(const PowerLawForm& form, const PowerLawData& data) {
  if (data.size() <= static_cast<size_t>(form.num_parameters())) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%d points cannot determine the %d parameters of the law: give at least %d",
                        data.size(), form.num_parameters(), form.num_parameters() + 1));
  }
  const auto finite = [](double value) { return std::isfinite(value); };
  if (data.log_x.size() != data.size() * form.num_terms ||
      !std::all_of(data.log_x.begin(), data.log_x.end(), finite) ||
      !std::all_of(data.log_loss.begin(), data.log_loss.end(), finite)) {
    return absl::InvalidArgumentError("points of a power law must be positive and finite");
  }
  return absl::OkStatus();
}

}  // namespace

double PowerLaw::LogLoss(absl::Span<const double> log_x) const {
  Vector unused;
  return LogLossAndGradient(form, ToVector(*this, {}), log_x.data(), unused);
}

absl::StatusOr<PowerLaw> FitPowerLaw(const PowerLawForm& form, const PowerLawData& data,
                                     double huber_delta) {
  if (absl::Status status = Validate(form, data); !status.ok()) return status;
  std::array<double, kMaxPowerTerms> centre;
  const PowerLawData centred = Centred(form, data, centre);
  Objective objective(form, centred, huber_delta);
  std::vector<std::pair<double, Vector>> starts;
  for (const Vector& start : Starts(form, centred)) {
    Vector unused = {};
    starts.emplace_back(objective.Value(start, unused), start);
  }
  constexpr size_t kPolished = 12;  // of the starts: the others are worse before a step is made
  std::sort(starts.begin(), starts.end());
  starts.resize(std::min(starts.size(), kPolished));
  Minimum best = {{}, std::numeric_limits<double>::infinity()};
  for (const auto& [value, start] : starts) {
    const Minimum minimum = Minimise(objective, start);
    if (minimum.value < best.value) best = minimum;
  }
  return FromVector(form, best.parameters, centre);
}

PowerLaw RefitPowerLaw(const PowerLaw& start, const PowerLawData& data, double huber_delta) {
  std::array<double, kMaxPowerTerms> centre;
  const PowerLawData centred = Centred(start.form, data, centre);
  Objective objective(start.form, centred, huber_delta);
  return FromVector(start.form, Minimise(objective, ToVector(start, centre)).parameters, centre);
}

double HuberObjective(const PowerLaw& law, const PowerLawData& data, double huber_delta) {
  Vector unused = {};
  return Objective(law.form, data, huber_delta).Value(ToVector(law, {}), unused);
}

}  // namespace lorad

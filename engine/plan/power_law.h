// Sums of power laws, L(x) = E + sum over terms k of A_k / x_k^(a_k), and their robust fit: what
// the scaling laws (scaling_law.h) and learning curves (learning_curve.h) of this folder are made
// of. Source of the fit: Hoffmann et al., "Training Compute-Optimal Large Language Models",
// arXiv:2203.15556, section 3.3 and appendix D.3 ("approach 3"): the Huber loss of
// log L(x) - log(measured loss), L by log-sum-exp, minimised by L-BFGS from many starts.
#ifndef LORAD_ENGINE_PLAN_POWER_LAW_H_
#define LORAD_ENGINE_PLAN_POWER_LAW_H_

#include <array>
#include <cstddef>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace lorad {

inline constexpr int kMaxPowerTerms = 2;

// The law's form. Its free parameters are two a term, and one for the floor E.
struct PowerLawForm {
  int num_terms = 1;  // 1 or kMaxPowerTerms
  bool has_floor = true;

  int num_parameters() const { return 2 * num_terms + (has_floor ? 1 : 0); }
};

// Values of the parameters, as logarithms where they are positive: no law leaves double's range.
// Fields that the form does not have are ignored.
struct PowerLaw {
  PowerLawForm form;
  std::array<double, kMaxPowerTerms> log_coefficient = {};  // ln A_k
  std::array<double, kMaxPowerTerms> exponent = {};         // a_k; no sign is enforced
  double log_floor = 0;                                     // ln E

  // ln L at (ln x_1, ..): `log_x` has form.num_terms values.
  double LogLoss(absl::Span<const double> log_x) const;
};

// What a law is fitted to. Points are rows.
struct PowerLawData {
  std::vector<double> log_x;     // [points, form.num_terms], ln x_k
  std::vector<double> log_loss;  // [points], ln of the measured loss

  size_t size() const { return log_loss.size(); }
  absl::Span<const double> row(size_t point, int num_terms) const {
    return absl::MakeConstSpan(log_x).subspan(point * num_terms, num_terms);
  }
};

// delta of the Huber loss, in units of ln(loss): Hoffmann's value.
inline constexpr double kHuberDelta = 1e-3;

// The law of `form` that fits `data` best, of several starts over the exponents, the floor and the
// terms' shares. Deterministic. InvalidArgument unless there are more points than parameters, all
// finite. Thread-safe.
absl::StatusOr<PowerLaw> FitPowerLaw(const PowerLawForm& form, const PowerLawData& data,
                                     double huber_delta = kHuberDelta);

// The same from one start near the optimum, for data that differ little from those of `start`'s
// fit.
PowerLaw RefitPowerLaw(const PowerLaw& start, const PowerLawData& data,
                       double huber_delta = kHuberDelta);

// Mean Huber loss of `law` over `data`, divided by delta: near the mean of |residual| where that is
// far above delta.
double HuberObjective(const PowerLaw& law, const PowerLawData& data, double huber_delta);

}  // namespace lorad

#endif  // LORAD_ENGINE_PLAN_POWER_LAW_H_

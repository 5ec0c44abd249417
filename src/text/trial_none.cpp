#include "text/trial.h"

namespace prima::text {

Status try_in_child(const char*, const std::function<Status()>&, const TrialLimits&, std::string*) {
  return {};
}

}  // namespace prima::text

#include "ring/status_query.h"

namespace prima::ring {

Result<StatusReply> query_status(transport::Network& network, const transport::Endpoint& head,
                                 Instant deadline) {
  PRIMA_ASSIGN_OR_RETURN(const auto link, network.connect(head));
  PRIMA_RETURN_IF_ERROR(link->send({encode(StatusRequest{}), {}}));
  while (auto message = link->receive(deadline)) {
    PRIMA_ASSIGN_OR_RETURN(auto answer, decode_control(message->header));
    if (auto* const reply = std::get_if<StatusReply>(&answer)) return std::move(*reply);
    if (auto* const refusal = std::get_if<Refusal>(&answer)) {
      return tl::unexpected<Error>(std::move(refusal->error));
    }
  }
  return fail(ErrorCode::deadline_exceeded, to_string(head) + " does not answer",
              "Check that a head runs there, with this device's cluster key (prima key)");
}

}  // namespace prima::ring

// ForwardingCommunicator: hands everything on to another communicator, so that a test can interfere with single collectives.
#ifndef CONCLAVE_TESTS_TRAINER_FORWARDING_COMMUNICATOR_H_
#define CONCLAVE_TESTS_TRAINER_FORWARDING_COMMUNICATOR_H_

#include <memory>
#include <string>
#include <utility>

#include "comm/communicator.h"

namespace conclave {

class ForwardingCommunicator : public Communicator {
 public:
  // owned: inner's owner, or null.
  ForwardingCommunicator(Communicator* inner, std::unique_ptr<Communicator> owned)
      : Communicator(inner->name(), inner->rank(), inner->size()), inner_(inner), owned_(std::move(owned)) {}
  int GlobalRank(int member) const override { return inner_->GlobalRank(member); }
  int Node(int member) const override { return inner_->Node(member); }
  void Reserve(int more, int streams) override { inner_->Reserve(more, streams); }
  int64_t NodeMemory() const override { return inner_->NodeMemory(); }
  absl::StatusOr<std::unique_ptr<Communicator>> Split(int color, int key, std::string name) override {
    ASSIGN_OR_RETURN(std::unique_ptr<Communicator> part, inner_->Split(color, key, std::move(name)));
    return Wrap(std::move(part));
  }

 protected:
  virtual std::unique_ptr<Communicator> Wrap(std::unique_ptr<Communicator> part) = 0;
  absl::StatusOr<Request> StartImpl(const Collective& op, int64_t) override { return inner_->Start(op); }
  Communicator& inner() const { return *inner_; }

 private:
  Communicator* inner_;
  std::unique_ptr<Communicator> owned_;
};

}  // namespace conclave

#endif  // CONCLAVE_TESTS_TRAINER_FORWARDING_COMMUNICATOR_H_

// Weights that a run starts from instead of random ones.
#ifndef CONCLAVE_TRAINER_STARTING_WEIGHTS_H_
#define CONCLAVE_TRAINER_STARTING_WEIGHTS_H_

#include "trainer/assembly.h"

namespace conclave {

// Fills the iterate from trainer.init_from: another run's checkpoint, a Hugging Face model, or (upcycle) the dense twin of a mixture, whose
// MLPs every expert copies while routers keep their initial weights; as the weights of a token's experts sum to 1, the model starts with
// the twin's logits, up to rounding. Source of upcycling: Komatsuzaki et al., 2022. Collective. Errors: what does not fit, by name.
absl::Status LoadStartingWeights(const FileSystem& files, Communicator& control, Assembly* assembly);

}  // namespace conclave

#endif  // CONCLAVE_TRAINER_STARTING_WEIGHTS_H_

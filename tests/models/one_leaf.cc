#include "tests/models/one_leaf.h"

#include <algorithm>

#include <gtest/gtest.h>
#include "google/protobuf/text_format.h"

#include "proto/options.pb.h"

namespace conclave {
namespace {

// As the config loader does: scalars with a default, and blocks whose absence means nothing.
void FillDefaults(google::protobuf::Message* message) {
  const google::protobuf::Reflection& reflection = *message->GetReflection();
  for (int i = 0; i < message->GetDescriptor()->field_count(); ++i) {
    const google::protobuf::FieldDescriptor* field = message->GetDescriptor()->field(i);
    const FieldSpec& spec = field->options().GetExtension(field_spec);
    if (field->message_type() != nullptr) {
      const bool optional = field->real_containing_oneof() != nullptr || spec.presence();
      if (reflection.HasField(*message, field) || !optional) FillDefaults(reflection.MutableMessage(message, field));
    } else if (spec.has_default_value() && !reflection.HasField(*message, field)) {
      CHECK(google::protobuf::TextFormat::ParseFieldValueFromString(spec.default_value(), field, message)) << field->full_name();
    }
  }
}

}  // namespace

ModelConfig ParseModelConfig(const std::string& text) {
  ModelConfig config;
  CHECK(google::protobuf::TextFormat::ParseFromString(text, &config)) << text;
  FillDefaults(&config);
  return config;
}

std::unique_ptr<Model> ModelFromText(const std::string& text, const ModelContext& context) {
  auto model = MakeModel(ParseModelConfig(text), context);
  EXPECT_TRUE(model.ok()) << text << ": " << model.status();
  return model.ok() ? *std::move(model) : nullptr;
}

BatchBuffer RandomBatch(const SampleShape& shape, int64_t rows, int64_t vocabulary, DType dtype) {
  BatchBuffer buffer(shape, rows, dtype);
  Batch& batch = buffer.Resize(rows);
  const RngKey key{.seed = 3, .kind = RngKind::kTest};
  batch.count = rows;
  if (shape.kind == SampleShape::Kind::kTokens) {
    batch.count = 0;
    for (int64_t i = 0; i < rows * shape.width; ++i) {
      batch.tokens.data<int32_t>()[i] = static_cast<int32_t>(key.Below(vocabulary, 2 * i));
      batch.targets.data<int32_t>()[i] = i % 7 == 6 ? kIgnoredTarget : static_cast<int32_t>(key.Below(vocabulary, 2 * i + 1));
      batch.count += i % 7 != 6;
    }
  } else if (shape.kind != SampleShape::Kind::kNone) {
    for (int64_t i = 0; batch.targets.defined() && i < rows; ++i) batch.targets.data<int32_t>()[i] = static_cast<int32_t>(key.Below(2, i));
    DispatchFloat(dtype, [&](auto t) {
      using T = decltype(t);
      for (int64_t i = 0; i < rows * shape.width; ++i) batch.features.data<T>()[i] = static_cast<T>(key.Normal(i));
    });
  }
  return buffer;
}

absl::StatusOr<std::unique_ptr<OneLeaf>> OneLeaf::Make(const Model* model, Communicator& world, DType dtype, bool recompute) {
  ASSIGN_OR_RETURN(std::unique_ptr<Mesh> mesh, Mesh::Create(&world, {.data = 1, .expert = world.size()}));
  ASSIGN_OR_RETURN(ExpertPlacement placement, ExpertPlacement::Contiguous(model->experts(), world.size()));
  return std::unique_ptr<OneLeaf>(new OneLeaf(model, std::move(mesh), std::move(placement), dtype, recompute));
}

OneLeaf::OneLeaf(const Model* model, std::unique_ptr<Mesh> mesh, ExpertPlacement placement, DType dtype, bool recompute)
    : model_(model),
      mesh_(std::move(mesh)),
      placement_(std::move(placement)),
      layout_(PlanLayout(&model->parameters(), mesh_->shape(), mesh_->rank(), placement_)),
      dispatch_(mesh_.get(), &placement_),
      point_(&layout_, dtype),
      gradient_(&layout_, dtype),
      buffers_(model->buffers()),
      tape_(&arena_, /*gradients=*/true, recompute ? &segments_ : nullptr),
      recorder_(std::make_unique<Recorder>(
          Recorder::Options{.tape = &tape_, .model = model, .dispatch = &dispatch_, .slots = this, .seed = 1, .buffers = &buffers_})) {
  for (const BlockId id : layout_.local_blocks()) Initialize(model->parameters()[id], id, 1, point_.block(id));
}

void OneLeaf::Shake(double scale, uint64_t seed) {
  for (const BlockId id : layout_.local_blocks()) {
    const RngKey key{.seed = seed, .site = static_cast<uint32_t>(id.value), .kind = RngKind::kTest};
    DispatchFloat(point_.dtype(), [&](auto t) {
      using T = decltype(t);
      int64_t i = 0;
      for (T& v : point_.block(id).span<T>()) v += static_cast<T>(scale * key.Normal(i++));
    });
  }
}

absl::StatusOr<double> OneLeaf::Objective(const Batch& batch) {
  tape_.Reset();
  arena_.Reset();
  recorder_->BeginEvaluation();
  recorder_->Begin(&point_, &batch, true);
  if (const Perturbation* perturbation = model_->perturbation(); perturbation != nullptr) {
    if (!sample_values_->defined()) {
      const Shape shape = {batch.sequences, perturbation->block().shape.elements()};
      sample_values_ = OwnedTensor(shape, point_.dtype());
      sample_gradient_ = OwnedTensor(shape, point_.dtype());
      perturbation->Start(batch, {.seed = 7}, *sample_values_);
    }
    recorder_->UseSampleValues(*sample_values_, *sample_gradient_, /*searching=*/false);
  }
  RETURN_IF_ERROR(model_->Record(*recorder_));
  RETURN_IF_ERROR(recorder_->poison());
  double objective = 0;
  for (size_t t = 0; t < model_->terms().size(); ++t) {
    const TermSpec& term = model_->terms()[t];
    const double scale = term.scale == TermScale::kPerSample ? 1.0 / static_cast<double>(batch.count) : 1.0;
    if (term.objective) objective += term.coefficient * scale * recorder_->values()[t];
  }
  return objective;
}

absl::StatusOr<double> OneLeaf::Differentiate(const Batch& batch) {
  ASSIGN_OR_RETURN(const double objective, Objective(batch));
  gradient_.Zero();
  if (sample_gradient_->defined()) sample_gradient_->Zero();
  std::vector<double> scales;
  for (const TermSpec& term : model_->terms()) {
    scales.push_back(term.scale == TermScale::kPerSample ? 1.0 / static_cast<double>(batch.count) : 1.0);
  }
  const std::span<const Seed> seeds = recorder_->PlantSeeds(scales);
  RETURN_IF_ERROR(tape_.Backward(seeds, [](BlockId) { return absl::OkStatus(); }));
  return objective;
}

void OnOneRank(const Model& model, DType dtype, const std::function<absl::Status(OneLeaf&)>& fn, bool recompute) {
  const absl::Status status = RunRanks(1, [&](Communicator& world) -> absl::Status {
    ASSIGN_OR_RETURN(const std::unique_ptr<OneLeaf> leaf, OneLeaf::Make(&model, world, dtype, recompute));
    return fn(*leaf);
  });
  EXPECT_TRUE(status.ok()) << status;
}

std::vector<double> ValuesOf(const Tensor& tensor) {
  return DispatchFloat(tensor.dtype(), [&](auto t) {
    const auto span = tensor.span<decltype(t)>();
    return std::vector<double>(span.begin(), span.end());
  });
}

}  // namespace conclave

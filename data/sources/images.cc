#include <algorithm>
#include <cmath>
#include <cstdint>

#include "data/gzip.h"
#include "data/source_factory.h"

namespace conclave {
namespace {

// An IDX file of unsigned bytes: two zero bytes, 8, the number of dimensions, each dimension as 32 bits with the highest byte first, the
// values. Source: the page of the MNIST data set, section on file formats.
struct IdxBytes {
  std::string content;
  std::vector<int64_t> dims;
  size_t begin = 0;  // of the values in content
  const uint8_t* values() const { return reinterpret_cast<const uint8_t*>(content.data()) + begin; }
};

absl::StatusOr<IdxBytes> ReadIdx(const std::string& path, int dims, const FileSystem& files) {
  IdxBytes idx;
  ASSIGN_OR_RETURN(idx.content, ReadMaybeGzip(path, files));
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(idx.content[i]); };
  idx.begin = 4 + 4 * static_cast<size_t>(dims);
  if (idx.content.size() < idx.begin || byte(0) != 0 || byte(1) != 0 || byte(2) != 8 || byte(3) != dims) {
    return DataLoss(
        "'%s': expected an IDX file of unsigned bytes in %d dimensions, which begins 00 00 08 %02x; got %d bytes of another kind", path,
        dims, dims, idx.content.size());
  }
  int64_t wanted = 1;
  for (int d = 0; d < dims; ++d) {
    int64_t dim = 0;
    for (size_t i = 0; i < 4; ++i) dim = 256 * dim + byte(4 + 4 * static_cast<size_t>(d) + i);
    idx.dims.push_back(dim);
    wanted = dim > 0 && wanted > (int64_t{1} << 40) / dim ? int64_t{1} << 40 : wanted * dim;
  }
  const auto got = static_cast<int64_t>(idx.content.size() - idx.begin);
  if (got != wanted) return DataLoss("'%s': its header promises %d bytes, but %d follow; fetch it anew", path, wanted, got);
  return idx;
}

struct LabelledImages {
  IdxBytes images, labels;
  int64_t width = 0;  // pixels of one
};

absl::StatusOr<std::shared_ptr<const LabelledImages>> OpenImages(const std::string& path, const std::string& labels, int64_t classes,
                                                                 const FileSystem& files) {
  auto set = std::make_shared<LabelledImages>();
  ASSIGN_OR_RETURN(set->images, ReadIdx(path, 3, files));
  ASSIGN_OR_RETURN(set->labels, ReadIdx(labels, 1, files));
  const int64_t count = set->images.dims[0];
  if (count > 0) set->width = set->images.dims[1] * set->images.dims[2];  // no more than the file holds
  if (count != set->labels.dims[0]) {
    return InvalidArgument("'%s' holds %d images, '%s' %d classes: they do not belong together", path, count, labels, set->labels.dims[0]);
  }
  if (count == 0 || set->width == 0) return InvalidArgument("'%s' holds %d images of %d pixels", path, count, set->width);
  for (int64_t i = 0; i < count; ++i) {
    if (set->labels.values()[i] >= classes) {
      return InvalidArgument("'%s': image %d is of class %d, but there are %d classes from 0 on; raise classes", labels, i,
                             int{set->labels.values()[i]}, classes);
    }
  }
  return set;
}

// Every epoch shows the same images.
class ImagesSource : public Source {
 public:
  ImagesSource(std::shared_ptr<const LabelledImages> set, int64_t first, int64_t size) : set_(std::move(set)), first_(first), size_(size) {}
  SampleShape shape() const override { return {SampleShape::Kind::kLabelled, set_->width}; }
  int64_t size() const override { return size_; }
  absl::Status Fetch(int64_t sample, int64_t, int64_t row, Batch* batch) const override {
    const uint8_t* const pixels = set_->images.values() + (first_ + sample) * set_->width;
    DispatchFloat(batch->features.dtype(), [&](auto t) {
      using T = decltype(t);
      T* const x = batch->features.Slice(row, 1).template data<T>();
      for (int64_t i = 0; i < set_->width; ++i) x[i] = static_cast<T>(pixels[i]) / T(255);
    });
    batch->targets.data<int32_t>()[row] = set_->labels.values()[first_ + sample];
    ++batch->count;
    return absl::OkStatus();
  }

 private:
  std::shared_ptr<const LabelledImages> set_;
  int64_t first_, size_;
};

}  // namespace

absl::StatusOr<SplitSource> MakeImagesSource(const ImagesSourceConfig& config, const SourceContext& context) {
  ASSIGN_OR_RETURN(const auto set, OpenImages(config.path(), config.labels(), config.classes(), *context.files));
  const int64_t count = set->images.dims[0];
  SplitSource split;
  if (!config.held_out_path().empty()) {
    ASSIGN_OR_RETURN(const auto held_out, OpenImages(config.held_out_path(), config.held_out_labels(), config.classes(), *context.files));
    if (held_out->width != set->width) {
      return InvalidArgument("'%s' has images of %d pixels, '%s' of %d: they do not belong together", config.path(), set->width,
                             config.held_out_path(), held_out->width);
    }
    split.train = std::make_unique<ImagesSource>(set, 0, count);
    split.validation = std::make_unique<ImagesSource>(held_out, 0, held_out->images.dims[0]);
    return split;
  }
  const auto held_out = static_cast<int64_t>(std::floor(context.data->validation_fraction() * static_cast<double>(count)));
  if (held_out == count) return InvalidArgument("data.sources[%d].images: all %d images are held out", context.index, count);
  split.train = std::make_unique<ImagesSource>(set, 0, count - held_out);
  if (held_out > 0) split.validation = std::make_unique<ImagesSource>(set, count - held_out, held_out);
  return split;
}

}  // namespace conclave

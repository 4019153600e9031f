#include "engine/io/safetensors_header.h"

#include <algorithm>
#include <limits>
#include <optional>
#include <tuple>
#include <unordered_set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/core/checked_math.h"
#include "engine/core/status_macros.h"
#include "engine/io/json_check.h"

namespace lorad {
namespace {

constexpr DType kSupported[] = {DType::kF64, DType::kF32, DType::kF16, DType::kBF16, DType::kI64,
                                DType::kI32, DType::kI8,  DType::kU64, DType::kU8};

// What the header says of one tensor, dtype still as text.
struct RawTensor {
  std::string name;
  std::optional<std::string> dtype;
  std::optional<std::vector<int64_t>> shape;
  std::optional<std::vector<int64_t>> offsets;
};

// Keeps the tensors and the metadata of a header and refuses any JSON of another form. Each state
// says what may come next, so that nothing but the two levels of the format is ever kept.
class HeaderHandler : public JsonHandler {
 public:
  std::vector<RawTensor> tensors;
  std::map<std::string, std::string> metadata;

  bool null() override { return Unexpected("null"); }
  bool boolean(bool) override { return Unexpected("a boolean"); }
  bool number_integer(number_integer_t value) override {
    return Unexpected(absl::StrCat("the number ", value));
  }
  bool number_float(number_float_t, const string_t& text) override {
    return Unexpected(absl::StrCat("the number ", ClippedText(text)));
  }
  bool number_unsigned(number_unsigned_t value) override;
  bool string(string_t& value) override;
  bool key(string_t& key) override;
  bool start_object(std::size_t) override;
  bool end_object() override;
  bool start_array(std::size_t) override;
  bool end_array() override;

 private:
  enum class State {
    kStart,          // the header's object
    kTop,            // a key: a tensor's name or __metadata__
    kTensor,         // the object of a tensor
    kField,          // a key of it
    kDType,          // a string
    kShape,          // an array
    kShapeDims,      // its numbers
    kOffsets,        // an array
    kOffsetNumbers,  // its numbers
    kMetadata,       // the object of __metadata__
    kMetadataKey,
    kMetadataValue,  // a string
  };

  // "tensor "x", field "shape"" or what else is being read.
  std::string Place() const;
  bool Unexpected(const std::string& what) {
    return Fail(absl::StrCat(Place(), ": ", what, " is not allowed here"));
  }
  bool TensorKey(const std::string& name);
  bool FieldKey(const std::string& field);
  bool FinishTensor();

  State state_ = State::kStart;
  std::unordered_set<std::string> names_;
  std::string metadata_key_;
};

std::string HeaderHandler::Place() const {
  const auto field = [&](const char* name) {
    return absl::StrCat("tensor \"", ClippedText(tensors.back().name), "\", field \"", name, "\"");
  };
  switch (state_) {
    case State::kStart:
    case State::kTop:
      return "top level";
    case State::kTensor:
    case State::kField:
      return absl::StrCat("tensor \"", ClippedText(tensors.back().name), "\"");
    case State::kDType:
      return field("dtype");
    case State::kShape:
    case State::kShapeDims:
      return field("shape");
    case State::kOffsets:
    case State::kOffsetNumbers:
      return field("data_offsets");
    case State::kMetadata:
    case State::kMetadataKey:
      return "__metadata__";
    case State::kMetadataValue:
      return absl::StrCat("__metadata__, key \"", ClippedText(metadata_key_), "\"");
  }
  return "top level";
}

bool HeaderHandler::number_unsigned(number_unsigned_t value) {
  if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max()))
    return Unexpected(absl::StrCat("the number ", value, " (above 2^63 - 1)"));
  const int64_t number = static_cast<int64_t>(value);
  if (state_ == State::kShapeDims) {
    if (tensors.back().shape->size() == kMaxSafetensorsRank)
      return Fail(absl::StrCat(Place(), ": more than ", kMaxSafetensorsRank, " dimensions"));
    tensors.back().shape->push_back(number);
    return true;
  }
  if (state_ == State::kOffsetNumbers) {
    if (tensors.back().offsets->size() == 2) return Fail(absl::StrCat(Place(), ": not 2 numbers"));
    tensors.back().offsets->push_back(number);
    return true;
  }
  return Unexpected(absl::StrCat("the number ", value));
}

bool HeaderHandler::string(string_t& value) {
  if (state_ == State::kDType) {
    tensors.back().dtype = value;
    state_ = State::kField;
    return true;
  }
  if (state_ == State::kMetadataValue) {
    metadata[metadata_key_] = value;
    state_ = State::kMetadataKey;
    return true;
  }
  return Unexpected(absl::StrCat("the string \"", ClippedText(value), "\""));
}

bool HeaderHandler::key(string_t& key) {
  if (state_ == State::kTop) return TensorKey(key);
  if (state_ == State::kField) return FieldKey(key);
  if (metadata.count(key) > 0)
    return Fail(absl::StrCat("__metadata__: the key \"", ClippedText(key), "\" is given twice"));
  metadata_key_ = key;
  state_ = State::kMetadataValue;
  return true;
}

bool HeaderHandler::TensorKey(const std::string& name) {
  if (!names_.insert(name).second)
    return Fail(absl::StrCat("\"", ClippedText(name), "\" is given twice"));
  if (name == "__metadata__") {
    state_ = State::kMetadata;
    return true;
  }
  if (name.empty()) return Fail("a tensor has an empty name");
  if (name.size() > kMaxSafetensorsNameBytes)
    return Fail(absl::StrCat("the name \"", ClippedText(name), "\" has ", name.size(),
                             " bytes, the limit is ", kMaxSafetensorsNameBytes));
  if (std::any_of(name.begin(), name.end(), [](unsigned char c) { return c < 0x20; }))
    return Fail(absl::StrCat("a control character in the name \"", ClippedText(name), "\""));
  tensors.push_back({.name = name, .dtype = {}, .shape = {}, .offsets = {}});
  state_ = State::kTensor;
  return true;
}

bool HeaderHandler::FieldKey(const std::string& field) {
  RawTensor& tensor = tensors.back();
  const bool known = field == "dtype" || field == "shape" || field == "data_offsets";
  if (!known) return Fail(absl::StrCat(Place(), ": unknown field \"", ClippedText(field), "\""));
  const bool repeated = field == "dtype"   ? tensor.dtype.has_value()
                        : field == "shape" ? tensor.shape.has_value()
                                           : tensor.offsets.has_value();
  if (repeated) return Fail(absl::StrCat(Place(), ": field \"", field, "\" is given twice"));
  state_ = field == "dtype" ? State::kDType : field == "shape" ? State::kShape : State::kOffsets;
  return true;
}

bool HeaderHandler::start_object(std::size_t) {
  switch (state_) {
    case State::kStart:
      state_ = State::kTop;
      return true;
    case State::kTensor:
      state_ = State::kField;
      return true;
    case State::kMetadata:
      state_ = State::kMetadataKey;
      return true;
    default:
      return Unexpected("an object");
  }
}

bool HeaderHandler::end_object() {
  if (state_ == State::kField && !FinishTensor()) return false;
  state_ = State::kTop;  // the end of the header itself leads to no further callback
  return true;
}

bool HeaderHandler::FinishTensor() {
  const RawTensor& tensor = tensors.back();
  const char* missing = !tensor.dtype     ? "dtype"
                        : !tensor.shape   ? "shape"
                        : !tensor.offsets ? "data_offsets"
                                          : nullptr;
  if (missing == nullptr) return true;
  return Fail(absl::StrCat(Place(), ": field \"", missing, "\" is missing"));
}

bool HeaderHandler::start_array(std::size_t) {
  if (state_ == State::kShape) {
    tensors.back().shape.emplace();
    state_ = State::kShapeDims;
    return true;
  }
  if (state_ == State::kOffsets) {
    tensors.back().offsets.emplace();
    state_ = State::kOffsetNumbers;
    return true;
  }
  return Unexpected("an array");
}

bool HeaderHandler::end_array() {
  if (state_ == State::kOffsetNumbers && tensors.back().offsets->size() != 2)
    return Fail(absl::StrCat(Place(), ": not 2 numbers"));
  state_ = State::kField;
  return true;
}

absl::StatusOr<DType> ParseDType(const std::string& name) {
  std::string supported;
  for (const DType dtype : kSupported) {
    if (name == Name(dtype)) return dtype;
    absl::StrAppend(&supported, " ", Name(dtype));
  }
  return absl::UnimplementedError(
      absl::StrCat("dtype \"", ClippedText(name), "\" is not supported; supported are", supported));
}

absl::StatusOr<SafetensorsHeader::Tensor> CheckTensor(RawTensor raw) {
  SafetensorsHeader::Tensor tensor{std::move(raw.name), DType::kF32, *std::move(raw.shape),
                                   (*raw.offsets)[0], (*raw.offsets)[1]};
  ASSIGN_OR_RETURN(tensor.dtype, ParseDType(*raw.dtype));
  if (tensor.begin > tensor.end)
    return absl::InvalidArgumentError(
        absl::StrCat("data_offsets [", tensor.begin, ", ", tensor.end, "] end before they begin"));
  ASSIGN_OR_RETURN(const int64_t bytes, SafetensorsBytes(tensor.dtype, tensor.shape));
  if (bytes != tensor.end - tensor.begin)
    return absl::InvalidArgumentError(absl::StrCat(
        "data_offsets [", tensor.begin, ", ", tensor.end, "] hold ", tensor.end - tensor.begin,
        " bytes, but ", Name(tensor.dtype), " ", DimsToString(tensor.shape), " needs ", bytes));
  return tensor;
}

// The ranges, in order, must tile [0, data_bytes).
absl::Status CheckTiling(const std::vector<SafetensorsHeader::Tensor>& tensors, int64_t data_bytes,
                         const std::string& path) {
  int64_t expected = 0;
  for (const SafetensorsHeader::Tensor& tensor : tensors) {
    const std::string place =
        absl::StrCat(path, ": tensor \"", ClippedText(tensor.name), "\": data_offsets [",
                     tensor.begin, ", ", tensor.end, "] ");
    if (tensor.end > data_bytes)
      return absl::InvalidArgumentError(absl::StrCat(
          place, "end past the file, which holds ", data_bytes,
          " bytes of data; the file is truncated or damaged: copy or download it again"));
    if (tensor.begin < expected)
      return absl::InvalidArgumentError(
          absl::StrCat(place, "overlap the tensor before, which ends at ", expected));
    if (tensor.begin > expected)
      return absl::InvalidArgumentError(
          absl::StrCat(place, "leave a hole: the data before end at ", expected));
    expected = tensor.end;
  }
  if (expected == data_bytes) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(path, ": the tensors end at byte ", expected,
                                                 " of the data, but the file holds ", data_bytes));
}

}  // namespace

std::string DimsToString(const std::vector<int64_t>& dims) {
  constexpr size_t kMaxShown = 8;
  std::string text = "[";
  for (size_t i = 0; i < std::min(dims.size(), kMaxShown); ++i)
    absl::StrAppend(&text, i == 0 ? "" : ", ", dims[i]);
  return text + (dims.size() > kMaxShown ? ", ...]" : "]");
}

absl::StatusOr<int64_t> SafetensorsBytes(DType dtype, const std::vector<int64_t>& shape) {
  std::optional<int64_t> bytes = SizeOf(dtype);
  for (const int64_t dim : shape) {
    if (dim < 0)
      return absl::InvalidArgumentError(
          absl::StrCat("negative dimension in ", DimsToString(shape)));
    if (bytes.has_value()) bytes = CheckedMul(*bytes, dim);
  }
  if (bytes.has_value()) return *bytes;
  return absl::InvalidArgumentError(
      absl::StrCat("shape ", DimsToString(shape), " has more than 2^63 - 1 bytes"));
}

absl::StatusOr<SafetensorsHeader> ParseSafetensorsHeader(std::string_view json, int64_t data_bytes,
                                                         const std::string& path) {
  if (json.empty() || json[0] != '{')
    return absl::InvalidArgumentError(absl::StrCat(path, ": the header does not start with '{'"));
  HeaderHandler handler;
  RETURN_IF_ERROR(CheckJson(json, absl::StrCat(path, ": header"), &handler));
  SafetensorsHeader header;
  header.metadata = std::move(handler.metadata);
  header.tensors.reserve(handler.tensors.size());
  for (RawTensor& raw : handler.tensors) {
    const std::string name = ClippedText(raw.name);
    absl::StatusOr<SafetensorsHeader::Tensor> tensor = CheckTensor(std::move(raw));
    if (!tensor.ok())
      return absl::Status(tensor.status().code(), absl::StrCat(path, ": tensor \"", name,
                                                               "\": ", tensor.status().message()));
    header.tensors.push_back(*std::move(tensor));
  }
  std::sort(header.tensors.begin(), header.tensors.end(), [](const auto& a, const auto& b) {
    return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name);
  });
  RETURN_IF_ERROR(CheckTiling(header.tensors, data_bytes, path));
  return header;
}

}  // namespace lorad

// SPDX-License-Identifier: Apache-2.0
// Purpose: the one place that calls HDF5. Owned handles, every call checked, HDF5's error stack turned into
// one message that names file and object; sizes and types are checked before memory is allocated or a value
// is converted (HDF5 would clip silently). Files use the default ("earliest") format and no time stamps, so
// equal content gives equal bytes. Locking is switched off (one writer per file; locks are never needed);
// HDF5_USE_FILE_LOCKING in the environment wins. Any thread may call; the library is entered by one at a
// time, whether it was built thread-safe or not. Non-goals: chunks and filters on writing, partial reads,
// parallel HDF5, atomic replacement (write to NAME.part and rename: store/). Errors: DataError when reading,
// ResourceError when writing or when memory is short.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

namespace fedspallm::data::hdf5 {

/// Element types of datasets. A dataset must have exactly this type in the file, in either byte order.
enum class Scalar : std::uint8_t { u8, u16, i32, u32, i64, u64, f32, f64 };

template <class T>
[[nodiscard]] constexpr Scalar scalar_of();
template <>
constexpr Scalar scalar_of<std::uint8_t>() {
  return Scalar::u8;
}
template <>
constexpr Scalar scalar_of<std::byte>() {
  return Scalar::u8;
}
template <>
constexpr Scalar scalar_of<std::uint16_t>() {
  return Scalar::u16;
}
template <>
constexpr Scalar scalar_of<std::int32_t>() {
  return Scalar::i32;
}
template <>
constexpr Scalar scalar_of<std::uint32_t>() {
  return Scalar::u32;
}
template <>
constexpr Scalar scalar_of<std::int64_t>() {
  return Scalar::i64;
}
template <>
constexpr Scalar scalar_of<std::uint64_t>() {
  return Scalar::u64;
}
template <>
constexpr Scalar scalar_of<float>() {
  return Scalar::f32;
}
template <>
constexpr Scalar scalar_of<double>() {
  return Scalar::f64;
}

/// Owns one HDF5 identifier (hid_t). Move-only; closing never throws.
class Handle {
 public:
  using Close = int (*)(std::int64_t);
  Handle() = default;
  Handle(std::int64_t id, Close close) : id_(id), close_(close) {}
  ~Handle() { reset(); }
  Handle(Handle&& other) noexcept;
  Handle& operator=(Handle&& other) noexcept;
  [[nodiscard]] std::int64_t get() const { return id_; }
  [[nodiscard]] explicit operator bool() const { return id_ >= 0; }
  /// Gives the identifier up without closing it.
  std::int64_t release() noexcept;
  void reset() noexcept;

 private:
  std::int64_t id_ = -1;
  Close close_ = nullptr;
};

/// What a dataset says about itself.
struct DatasetInfo {
  std::string type;                 // "int32", "float64", "string", "compound", ...
  std::vector<std::int64_t> shape;  // empty: scalar
};

struct Matrix2d {
  std::int64_t rows = 0;
  std::int64_t cols = 0;
};

/// A group of a file, the root included. Names are single links: not empty, not ".", without '/'
/// (LogicError). A Group must not outlive its File.
class Group {
 public:
  [[nodiscard]] const std::string& file() const { return file_; }
  [[nodiscard]] const std::string& path() const { return path_; }

  [[nodiscard]] bool contains(const std::string& name) const;
  /// Names of all links, sorted.
  [[nodiscard]] std::vector<std::string> names() const;
  [[nodiscard]] Group open_group(const std::string& name) const;
  Group create_group(const std::string& name) const;
  /// `name` stands for `object` ("/" = everything) of `target`, a path relative to this file's folder.
  void link_external(const std::string& name, const std::string& target,
                     const std::string& object = "/") const;

  // Attributes of this group ("."), or of an object in it.
  [[nodiscard]] bool has_attribute(const std::string& name, const std::string& of = ".") const;
  [[nodiscard]] std::string read_string(const std::string& name, const std::string& of = ".") const;
  /// Any integer type that fits int64. The value is checked, never clipped.
  [[nodiscard]] std::int64_t read_integer(const std::string& name, const std::string& of = ".") const;
  [[nodiscard]] double read_double(const std::string& name, const std::string& of = ".") const;
  /// @pre no attribute of this name; at most 60,000 bytes (HDF5's limit is 64 KiB: use write_text for more)
  void write_string(const std::string& name, const std::string& value) const;
  void write_integer(const std::string& name, std::int64_t value) const;
  void write_double(const std::string& name, double value) const;

  [[nodiscard]] DatasetInfo describe(const std::string& name) const;

  /// The whole of a 1-D dataset.
  template <class T>
  [[nodiscard]] std::vector<T> read(const std::string& name) const {
    std::vector<T> values(checked_size(name, scalar_of<T>(), 1));
    read_raw(name, scalar_of<T>(), values.data(), values.size());
    return values;
  }
  /// The whole of a 2-D dataset, row-major.
  template <class T>
  [[nodiscard]] std::vector<T> read_2d(const std::string& name, Matrix2d& shape) const {
    std::vector<T> values(checked_size(name, scalar_of<T>(), 2, &shape));
    read_raw(name, scalar_of<T>(), values.data(), values.size());
    return values;
  }

  template <class T>
  void write(const std::string& name, std::span<const T> values) const {
    write_raw(name, scalar_of<T>(), values.data(), {static_cast<std::int64_t>(values.size())});
  }
  template <class T>
  void write(const std::string& name, const std::vector<T>& values) const {
    write(name, std::span<const T>(values));
  }
  /// @pre rows * cols == values.size()
  template <class T>
  void write_2d(const std::string& name, Matrix2d shape, std::span<const T> values) const {
    require_size(shape, values.size());
    write_raw(name, scalar_of<T>(), values.data(), {shape.rows, shape.cols});
  }
  /// Text of any length as a scalar string dataset (a configuration, a JSON document).
  [[nodiscard]] std::string read_text(const std::string& name) const;
  void write_text(const std::string& name, const std::string& text) const;

 private:
  friend class File;
  Group(Handle handle, std::string file, std::string path, bool writable);
  [[nodiscard]] std::string where(const std::string& name) const;
  [[noreturn]] void fail(const std::string& object, const std::string& what) const;
  std::int64_t checked(std::int64_t result, const std::string& object, const char* doing) const;
  [[nodiscard]] Handle open_dataset(const std::string& name) const;
  [[nodiscard]] std::string attribute_path(const std::string& name, const std::string& of) const;
  [[nodiscard]] Handle open_attribute(const std::string& name, const std::string& of, Handle& type) const;
  void write_attribute(const std::string& name, std::int64_t file_type, std::int64_t memory_type,
                       const void* value) const;
  [[nodiscard]] std::vector<std::int64_t> shape_of(std::int64_t dataset, const std::string& object) const;
  /// Checks type, rank and that the file really stores that many bytes. rank 0: 1 or 2. @return number of
  /// elements
  [[nodiscard]] std::size_t checked_size(const std::string& name, Scalar type, int rank,
                                         Matrix2d* shape = nullptr) const;
  void check_storage(std::int64_t dataset, const std::string& object, std::uint64_t bytes) const;
  void read_raw(const std::string& name, Scalar type, void* values, std::size_t count) const;
  void write_raw(const std::string& name, Scalar type, const void* values,
                 const std::vector<std::int64_t>& shape) const;
  static void require_size(Matrix2d shape, std::size_t size);

  Handle handle_;
  std::string file_;
  std::string path_;
  bool writable_ = false;
};

/// An open HDF5 file. Move-only.
class File {
 public:
  /// @throws DataError: no such file, not HDF5, truncated.
  [[nodiscard]] static File open(const std::filesystem::path& path);
  /// Makes or empties `path`. @throws ResourceError
  [[nodiscard]] static File create(const std::filesystem::path& path);
  /// @throws ResourceError when what was written did not reach the file. The destructor closes too, without a
  /// word.
  void close();
  [[nodiscard]] const Group& root() const { return root_; }

 private:
  File(Handle handle, Group root) : handle_(std::move(handle)), root_(std::move(root)) {}
  [[nodiscard]] static File wrap(Handle handle, const std::filesystem::path& path, bool writable);
  Handle handle_;
  Group root_;  // after handle_: closed before it
};

/// "HDF5 1.10.8", for --version and doctor.
[[nodiscard]] std::string library_version();

}  // namespace fedspallm::data::hdf5

// SPDX-License-Identifier: Apache-2.0
// Files, groups, links and attributes.
#include "fedspallm/data/hdf5.hpp"

#include "fedspallm/base/error.hpp"

#include "hdf5_calls.hpp"
#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <limits>
#include <utility>

namespace fedspallm::data::hdf5 {

namespace {

constexpr std::size_t kLongestAttribute = 60000;  // object headers end at 64 KiB in the default format
constexpr std::size_t kLongestReadAttribute = 65536;
constexpr std::size_t kLongestName = 4096;

void require_link_name(const std::string& name) {
  require(!name.empty() && name != "." && name.find('/') == std::string::npos,
          "an HDF5 name is a single link: not empty, not \".\", without '/'");
}

Handle access_properties() {
  Handle properties(H5Pcreate(H5P_FILE_ACCESS), H5Pclose);
  check<ResourceError>(static_cast<bool>(properties), "HDF5: cannot make file access properties");
  // Closing the file closes it even if a Group is still held somewhere: no file stays open across blocks.
  check<ResourceError>(H5Pset_file_locking(properties.get(), false, true) >= 0 &&
                           H5Pset_fclose_degree(properties.get(), H5F_CLOSE_STRONG) >= 0,
                       "HDF5: cannot set file access properties");
  return properties;
}

}  // namespace

Handle::Handle(Handle&& other) noexcept : id_(std::exchange(other.id_, -1)), close_(other.close_) {}

Handle& Handle::operator=(Handle&& other) noexcept {
  if (this != &other) {
    reset();
    id_ = std::exchange(other.id_, -1);
    close_ = other.close_;
  }
  return *this;
}

std::int64_t Handle::release() noexcept {
  return std::exchange(id_, -1);
}

void Handle::reset() noexcept {
  if (id_ >= 0 && close_ != nullptr) {
    const Session session;
    close_(id_);
  }
  id_ = -1;
}

// ---------------------------------------------------------------- files

File File::wrap(Handle handle, const std::filesystem::path& path, bool writable) {
  Handle root(H5Gopen2(handle.get(), "/", H5P_DEFAULT), H5Gclose);
  if (!root) {
    bool out_of_memory = false;
    throw DataError(
        fmt::format("{}: cannot open the root group (HDF5: {})", path.string(), error_stack(out_of_memory)));
  }
  return {std::move(handle), Group(std::move(root), path.string(), "/", writable)};
}

File File::open(const std::filesystem::path& path) {
  const Session session;
  std::error_code error;
  const auto status = std::filesystem::status(path, error);
  check<DataError>(std::filesystem::exists(status), fmt::format("{}: no such file", path.string()));
  check<DataError>(std::filesystem::is_regular_file(status),
                   fmt::format("{}: is not a regular file, expected an HDF5 file", path.string()));
  const Handle properties = access_properties();
  Handle handle(H5Fopen(path.c_str(), H5F_ACC_RDONLY, properties.get()), H5Fclose);
  if (!handle) {
    bool out_of_memory = false;
    const std::string stack = error_stack(out_of_memory);
    check<ResourceError>(!out_of_memory,
                         fmt::format("{}: not enough memory to open it (HDF5: {})", path.string(), stack));
    throw DataError(
        fmt::format("{}: cannot be opened as an HDF5 file: not HDF5, truncated, or not readable (HDF5: {})",
                    path.string(), stack));
  }
  return wrap(std::move(handle), path, false);
}

File File::create(const std::filesystem::path& path) {
  const Session session;
  const Handle properties = access_properties();
  Handle handle(H5Fcreate(path.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, properties.get()), H5Fclose);
  if (!handle) {
    bool out_of_memory = false;
    throw ResourceError(
        fmt::format("{}: cannot be created (HDF5: {})", path.string(), error_stack(out_of_memory)));
  }
  return wrap(std::move(handle), path, true);
}

void File::close() {
  const Session session;
  if (!handle_) return;
  const std::string path = root_.file();
  bool out_of_memory = false;
  // Flush first: an error there is reported while the file is still ours; H5Fclose may hide it.
  const bool flushed = H5Fflush(handle_.get(), H5F_SCOPE_LOCAL) >= 0;
  std::string stack = flushed ? "" : error_stack(out_of_memory);
  root_.handle_.reset();
  const bool closed = H5Fclose(handle_.release()) >= 0;
  if (flushed && !closed) stack = error_stack(out_of_memory);
  check<ResourceError>(flushed && closed, fmt::format("{}: cannot be completed (HDF5: {})", path, stack));
}

std::string library_version() {
  const Session session;
  unsigned major = 0;
  unsigned minor = 0;
  unsigned release = 0;
  H5get_libversion(&major, &minor, &release);
  return fmt::format("HDF5 {}.{}.{}", major, minor, release);
}

// ---------------------------------------------------------------- groups and links

Group::Group(Handle handle, std::string file, std::string path, bool writable)
    : handle_(std::move(handle)), file_(std::move(file)), path_(std::move(path)), writable_(writable) {}

std::string Group::where(const std::string& name) const {
  require_link_name(name);
  return path_ == "/" ? "/" + name : path_ + "/" + name;
}

void Group::fail(const std::string& object, const std::string& what) const {
  throw DataError(fmt::format("{}: {}: {}", file_, object, what));
}

std::int64_t Group::checked(std::int64_t result, const std::string& object, const char* doing) const {
  if (result >= 0) return result;
  bool out_of_memory = false;
  const std::string stack = error_stack(out_of_memory);
  const std::string message = fmt::format("{}: {}: cannot {} (HDF5: {})", file_, object, doing, stack);
  if (writable_ || out_of_memory) throw ResourceError(message);
  throw DataError(message);
}

bool Group::contains(const std::string& name) const {
  const Session session;
  const std::string object = where(name);
  return checked(H5Lexists(handle_.get(), name.c_str(), H5P_DEFAULT), object, "look up the link") > 0;
}

std::vector<std::string> Group::names() const {
  const Session session;
  H5G_info_t info{};
  checked(H5Gget_info(handle_.get(), &info), path_, "read the group");
  std::vector<std::string> names;
  for (hsize_t i = 0; i < info.nlinks; ++i) {
    std::array<char, kLongestName + 1> buffer{};
    const auto length = H5Lget_name_by_idx(handle_.get(), ".", H5_INDEX_NAME, H5_ITER_INC, i, buffer.data(),
                                           buffer.size(), H5P_DEFAULT);
    checked(length, path_, "read a link's name");
    if (static_cast<std::size_t>(length) > kLongestName)
      fail(path_, "a link's name is longer than 4096 bytes");
    names.emplace_back(buffer.data(), static_cast<std::size_t>(length));
  }
  std::sort(names.begin(), names.end());
  return names;
}

Group Group::open_group(const std::string& name) const {
  const Session session;
  const std::string object = where(name);
  if (!contains(name)) fail(path_, fmt::format("no group '{}' in it", name));
  Handle group(checked(H5Gopen2(handle_.get(), name.c_str(), H5P_DEFAULT), object, "open the group"),
               H5Gclose);
  return {std::move(group), file_, object, writable_};
}

Group Group::create_group(const std::string& name) const {
  const Session session;
  const std::string object = where(name);
  Handle group(checked(H5Gcreate2(handle_.get(), name.c_str(), H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT), object,
                       "create the group"),
               H5Gclose);
  return {std::move(group), file_, object, writable_};
}

void Group::link_external(const std::string& name, const std::string& target,
                          const std::string& object) const {
  const Session session;
  const std::string link = where(name);
  checked(H5Lcreate_external(target.c_str(), object.c_str(), handle_.get(), name.c_str(), H5P_DEFAULT,
                             H5P_DEFAULT),
          link, "create the external link");
}

// ---------------------------------------------------------------- attributes

std::string Group::attribute_path(const std::string& name, const std::string& of) const {
  return fmt::format("attribute '{}' of {}", name, of == "." ? path_ : where(of));
}

bool Group::has_attribute(const std::string& name, const std::string& of) const {
  const Session session;
  return checked(H5Aexists_by_name(handle_.get(), of.c_str(), name.c_str(), H5P_DEFAULT),
                 attribute_path(name, of), "look up the attribute") > 0;
}

Handle Group::open_attribute(const std::string& name, const std::string& of, Handle& type) const {
  const Session session;
  const std::string object = attribute_path(name, of);
  if (!has_attribute(name, of)) fail(object, "is missing");
  Handle attribute(checked(H5Aopen_by_name(handle_.get(), of.c_str(), name.c_str(), H5P_DEFAULT, H5P_DEFAULT),
                           object, "open it"),
                   H5Aclose);
  type = Handle(checked(H5Aget_type(attribute.get()), object, "read its type"), H5Tclose);
  const Handle space(checked(H5Aget_space(attribute.get()), object, "read its shape"), H5Sclose);
  const auto count = checked(H5Sget_simple_extent_npoints(space.get()), object, "read its shape");
  if (count != 1) fail(object, fmt::format("holds {} values, expected one", count));
  return attribute;
}

std::string Group::read_string(const std::string& name, const std::string& of) const {
  const Session session;
  Handle type;
  const Handle attribute = open_attribute(name, of, type);
  const std::string object = attribute_path(name, of);
  if (H5Tget_class(type.get()) != H5T_STRING)
    fail(object, fmt::format("has type {}, expected string", describe_type(type.get())));
  if (checked(H5Tis_variable_str(type.get()), object, "read its type") > 0) {
    const Handle memory(checked(H5Tcopy(H5T_C_S1), object, "make a string type"), H5Tclose);
    checked(H5Tset_size(memory.get(), H5T_VARIABLE), object, "make a string type");
    checked(H5Tset_cset(memory.get(), H5Tget_cset(type.get())), object, "make a string type");
    char* text = nullptr;
    checked(H5Aread(attribute.get(), memory.get(), static_cast<void*>(&text)), object, "read it");
    std::string value = text == nullptr ? "" : text;
    H5free_memory(text);
    return value;
  }
  const std::size_t size = H5Tget_size(type.get());
  if (size > kLongestReadAttribute)
    fail(object, fmt::format("is a string of {} bytes, expected at most {}", size, kLongestReadAttribute));
  std::string value(size, '\0');
  checked(H5Aread(attribute.get(), type.get(), value.data()), object, "read it");
  value.resize(std::strlen(value.c_str()));
  return value;
}

std::int64_t Group::read_integer(const std::string& name, const std::string& of) const {
  const Session session;
  Handle type;
  const Handle attribute = open_attribute(name, of, type);
  const std::string object = attribute_path(name, of);
  const std::size_t size = H5Tget_size(type.get());
  if (H5Tget_class(type.get()) != H5T_INTEGER || size > 8)
    fail(object,
         fmt::format("has type {}, expected an integer of at most 64 bits", describe_type(type.get())));
  if (H5Tget_sign(type.get()) == H5T_SGN_NONE && size == 8) {
    std::uint64_t value = 0;
    checked(H5Aread(attribute.get(), H5T_NATIVE_UINT64, &value), object, "read it");
    if (value > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()))
      fail(object, fmt::format("is {}, expected at most 2^63 - 1", value));
    return static_cast<std::int64_t>(value);
  }
  std::int64_t value = 0;
  checked(H5Aread(attribute.get(), H5T_NATIVE_INT64, &value), object, "read it");
  return value;
}

double Group::read_double(const std::string& name, const std::string& of) const {
  const Session session;
  Handle type;
  const Handle attribute = open_attribute(name, of, type);
  const std::string object = attribute_path(name, of);
  if (H5Tget_class(type.get()) != H5T_FLOAT || H5Tget_size(type.get()) > 8)
    fail(object, fmt::format("has type {}, expected float64", describe_type(type.get())));
  double value = 0;
  checked(H5Aread(attribute.get(), H5T_NATIVE_DOUBLE, &value), object, "read it");
  return value;
}

void Group::write_attribute(const std::string& name, std::int64_t type_in_file, std::int64_t type_in_memory,
                            const void* value) const {
  const std::string object = attribute_path(name, ".");
  const Handle space(checked(H5Screate(H5S_SCALAR), object, "make its shape"), H5Sclose);
  const Handle attribute(
      checked(H5Acreate2(handle_.get(), name.c_str(), type_in_file, space.get(), H5P_DEFAULT, H5P_DEFAULT),
              object, "create it"),
      H5Aclose);
  checked(H5Awrite(attribute.get(), type_in_memory, value), object, "write it");
}

void Group::write_string(const std::string& name, const std::string& value) const {
  const Session session;
  require(value.size() <= kLongestAttribute, "an attribute holds at most 60,000 bytes");
  require(value.find('\0') == std::string::npos, "an attribute's text has no zero byte");
  const std::string object = attribute_path(name, ".");
  const Handle type(checked(H5Tcopy(H5T_C_S1), object, "make a string type"), H5Tclose);
  checked(H5Tset_cset(type.get(), H5T_CSET_UTF8), object, "make a string type");
  checked(H5Tset_size(type.get(), value.size() + 1), object, "make a string type");
  write_attribute(name, type.get(), type.get(), value.c_str());
}

void Group::write_integer(const std::string& name, std::int64_t value) const {
  const Session session;
  write_attribute(name, H5T_STD_I64LE, H5T_NATIVE_INT64, &value);
}

void Group::write_double(const std::string& name, double value) const {
  const Session session;
  write_attribute(name, H5T_IEEE_F64LE, H5T_NATIVE_DOUBLE, &value);
}

}  // namespace fedspallm::data::hdf5

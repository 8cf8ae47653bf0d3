// SPDX-License-Identifier: Apache-2.0
// Disks that are full, read-only or gone: ResourceError naming path and cause, and what was finished stays
// good.
#include <sched.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "store/file_io.hpp"
#include "store_support.hpp"
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>

namespace fedspallm::store::test {
namespace {

BlockRecord block_of(std::uint32_t block, std::int64_t rows) {
  return {.round = 1,
          .block = block,
          .matrices = {consistent_record("w", random_packed(rows, 64, DType::f32, Dropped::half), 2)}};
}

TEST(WriteAtomically, ReplacesTheFileAndLeavesNothingElse) {
  const TemporaryFolder folder;
  const fs::path path = folder.path() / "status.json";
  for (const std::string& text : {std::string("one"), std::string(), std::string(100000, 'x')}) {
    write_file_atomically(path, text);
    EXPECT_EQ(read_file(path), text);
    EXPECT_EQ(names_in(folder.path()), (std::vector<std::string>{"status.json"}));
  }
}

TEST(WriteAtomically, NamesPathAndCauseWhereItCannotWrite) {
  const TemporaryFolder folder;
  expect_error<ResourceError>([&] { write_file_atomically(folder.path() / "no" / "x.json", "x"); },
                              {"no/x.json.part", "No such file or directory"});
  fs::create_directory(folder.path() / "busy");
  write_file(folder.path() / "busy" / "file", "");
  expect_error<ResourceError>([&] { write_file_atomically(folder.path() / "busy", "x"); }, {"busy"});
  EXPECT_EQ(names_in(folder.path()), (std::vector<std::string>{"busy"}));
}

TEST(WriteAt, NamesAFullDevice) {
  if (!fs::exists("/dev/full")) GTEST_SKIP() << "no /dev/full here";
  const Descriptor full = create_file("/dev/full");
  expect_error<ResourceError>([&] { write_at(full, 0, fedspallm::test::as_bytes("data"), "/dev/full"); },
                              {"/dev/full", "No space left on device"});
}

TEST(FreeSpace, TellsWhatIsNeededAndWhatIsFree) {
  const TemporaryFolder folder;
  EXPECT_NO_THROW(require_free_space(folder.path(), 0));
  expect_error<ResourceError>(
      [&] { require_free_space(folder.path(), std::numeric_limits<std::int64_t>::max()); },
      {folder.path().string(), "needed", "free", "9223372036854775807"});
  expect_error<ResourceError>([] { require_free_space("/nowhere", 1); }, {"/nowhere"});
}

TEST(CopyRange, CopiesAnyPartAndNamesAFileThatEndsEarly) {
  const TemporaryFolder folder;
  const fs::path from = folder.path() / "from";
  const fs::path to = folder.path() / "to";
  write_file(from, "0123456789");
  const Descriptor in = open_file(from);
  const Descriptor out = create_file(to);
  copy_range(in, 2, 7, out, 3, from, to);
  copy_range(in, 4, 4, out, 100, from, to);
  EXPECT_EQ(read_file(to), std::string("\0\0\0", 3) + "23456");
  expect_error<ResourceError>([&] { copy_range(in, 5, 20, out, 0, from, to); },
                              {from.string(), "ends at byte 10", "20"});
}

TEST(BlockStore, NamesTheFolderThatCannotBeMade) {
  const TemporaryFolder folder;
  write_file(folder.path() / "blocks", "a file where the folder should be");
  BlockStore store = BlockStore::of_run({folder.path()});
  expect_error<ResourceError>([&] { store.write_block(block_of(0, 2)); }, {"blocks"});
}

// ---------------------------------------------------------------- in a process of its own: limits and mounts
// stay there

constexpr int kGood = 0;

/// Leaves with 0 when `call` ends in a ResourceError that names `fragment`; the normal exit also runs HDF5's
/// own clean-up.
[[noreturn]] void leave_after(const std::function<void()>& call, const std::string& fragment) {
  try {
    call();
    std::fputs("no error came", stderr);
  } catch (const ResourceError& error) {
    std::fprintf(stderr, "%s\n", error.what());
    std::exit(std::string(error.what()).find(fragment) != std::string::npos ? kGood : 1);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "another error: %s\n", error.what());
  }
  std::exit(1);
}

/// Root may write anywhere: become nobody.
void drop_privileges() {
  constexpr uid_t kNobody = 65534;
  if (geteuid() == 0 && (setgid(kNobody) != 0 || setuid(kNobody) != 0)) std::exit(2);
}

TEST(ReadOnlyFolder, IsNamedWhenWrittenToAndReadFromAllTheSame) {
  const TemporaryFolder folder;
  const RunPaths paths{folder.path() / "run"};
  BlockStore store = BlockStore::of_run(paths);
  store.write_block(block_of(0, 2));
  store.write_links({}, true);
  const std::vector<fs::path> folders = {paths.blocks(), paths.dir};
  for (const fs::path& path : folders) fs::permissions(path, fs::perms(0555));
  fs::permissions(folder.path(), fs::perms(0755));
  const auto write = [&](const auto& call, const std::string& fragment) {
    EXPECT_EXIT(
        {
          drop_privileges();
          const bool good = BlockStore::of_run(paths).complete() && inspect(paths.dir).problems.empty() &&
                            BlockStore::of_run(paths).read_block(1, 0).matrices.size() == 1;
          if (!good) std::exit(3);
          leave_after(call, fragment);
        },
        testing::ExitedWithCode(kGood), "");
  };
  write([&] { store.write_block(block_of(1, 2)); }, "r01-b0001.h5.part");
  write([&] { store.write_links({}, true); }, "run.h5.part");
  write([&] { store.clear(); }, "manifest.previous.json");
  write([&] { write_file_atomically(paths.config(), "x"); }, "config.toml.part");
  for (const fs::path& path : folders) fs::permissions(path, fs::perms(0755));
}

/// Files may not grow beyond `bytes` from now on: EFBIG, as a full disk would be ENOSPC.
void limit_file_size(rlim_t bytes) {
  std::signal(SIGXFSZ, SIG_IGN);
  const rlimit limit{bytes, bytes};
  if (setrlimit(RLIMIT_FSIZE, &limit) != 0) std::exit(1);
}

TEST(FullDisk, ABlockThatDoesNotFitIsAnErrorAndTheStoreStaysGood) {
  const TemporaryFolder folder;
  const RunPaths paths{folder.path()};
  BlockStore::of_run(paths).write_block(block_of(0, 2));
  BlockStore::of_run({folder.path() / "measure"}).write_block(block_of(1, 500));
  const rlim_t size = fs::file_size(folder.path() / "measure" / "blocks" / "r01-b0001.h5");
  // From nothing to all but the last byte: failing data, failing metadata, failing at the close.
  for (const rlim_t limit :
       {rlim_t{0}, rlim_t{100}, rlim_t{3000}, size / 2, size - 3000, size - 500, size - 1}) {
    EXPECT_EXIT(
        {
          limit_file_size(limit);
          BlockStore store = BlockStore::of_run(paths);
          leave_after([&] { store.write_block(block_of(1, 500)); }, "r01-b0001.h5.part");
        },
        testing::ExitedWithCode(kGood), "")
        << limit << " of " << size;
    EXPECT_EQ(names_in(paths.blocks()), (std::vector<std::string>{"r01-b0000.h5"}));
    expect_equal(BlockStore::of_run(paths).read_block(1, 0), block_of(0, 2));
  }
}

TEST(FullDisk, ARunFileThatDoesNotFitLeavesTheOldOne) {
  const TemporaryFolder folder;
  const RunPaths paths{folder.path()};
  BlockStore::of_run(paths).write_links({}, true);
  EXPECT_EXIT(
      {
        limit_file_size(3000);
        BlockStore store = BlockStore::of_run(paths);
        Provenance large;
        large.config_toml.assign(100000, '#');
        leave_after([&] { store.write_links(large, false); }, "run.h5.part");
      },
      testing::ExitedWithCode(kGood), "");
  EXPECT_TRUE(BlockStore::of_run(paths).complete());
  EXPECT_EQ(BlockStore::of_run(paths).read_provenance().config_toml, "");
}

/// A file system of 64 KiB at `path`, seen by this process only.
bool mount_tiny(const fs::path& path) {
  return unshare(CLONE_NEWNS) == 0 && mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 &&
         mount("tiny", path.c_str(), "tmpfs", 0, "size=64k") == 0;
}

bool may_mount() {
  const TemporaryFolder folder;
  const pid_t child = fork();
  if (child == 0) _exit(mount_tiny(folder.path()) ? 0 : 1);
  int status = 1;
  return child > 0 && waitpid(child, &status, 0) == child && status == 0;
}

TEST(FullDisk, ABlockOnAFullFileSystemIsAnError) {
  if (!may_mount()) GTEST_SKIP() << "mounting is not allowed here";
  const TemporaryFolder folder;
  EXPECT_EXIT(
      {
        if (!mount_tiny(folder.path())) std::exit(2);
        BlockStore store = BlockStore::of_run({folder.path()});
        store.write_block(block_of(0, 2));
        leave_after([&] { store.write_block(block_of(1, 2000)); }, "r01-b0001.h5.part");
      },
      testing::ExitedWithCode(kGood), "");
}

TEST(FullDisk, AModelThatDoesNotFitIsRefusedBeforeAnythingIsCopied) {
  if (!may_mount()) GTEST_SKIP() << "mounting is not allowed here";
  const TemporaryFolder folder;
  fs::create_directory(folder.path() / "disk");
  fedspallm::test::write_tiny_model(folder.path() / "model", fedspallm::test::kTinyLlama);
  write_file(folder.path() / "model" / "tokenizer.json", std::string(100000, ' '));
  EXPECT_EXIT(
      {
        if (!mount_tiny(folder.path() / "disk")) std::exit(2);
        const model::ModelDirectory model(folder.path() / "model");
        leave_after([&] { ModelWriter(model, folder.path() / "disk" / "out").start(); },
                    "too little disk space");
      },
      testing::ExitedWithCode(kGood), "");
}

}  // namespace
}  // namespace fedspallm::store::test

// SPDX-License-Identifier: Apache-2.0
#include "threads.hpp"

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <array>
#include <memory>
#include <numeric>
#include <random>
#include <stdexcept>
#include <vector>

namespace emulation {

namespace {

constexpr std::size_t stack_bytes = std::size_t{128} << 10;
constexpr unsigned lanes = 32;

enum class State { ready, at_warp, at_block, done };

/// A context is made by makecontext and, once it runs, left and entered by _setjmp and _longjmp: swapcontext
/// would call the kernel twice each time. The address sanitizer follows only swapcontext from stack to stack.
struct Context {
  ucontext_t made{};
  jmp_buf left{};
  bool entered = false;
};

void go(Context& from, Context& to) {
#if defined(__SANITIZE_ADDRESS__)
  swapcontext(&from.made, &to.made);
#else
  if (_setjmp(from.left) != 0) return;
  from.entered = true;
  if (to.entered) _longjmp(to.left, 1);
  to.entered = true;
  setcontext(&to.made);
#endif
}

struct Thread {
  Context context;
  std::unique_ptr<char[]> stack = std::make_unique_for_overwrite<char[]>(stack_bytes);
  State state = State::done;
};

struct Warp {
  std::array<std::uint64_t, lanes> words{};
};

/// One block. There is one for the whole process: kernels know no object they run in.
class Block {
 public:
  void run(unsigned count, const std::function<void(unsigned)>& enter, const std::function<void()>& body) {
    while (threads_.size() < count) threads_.push_back(std::make_unique<Thread>());
    count_ = count;
    enter_ = &enter;
    body_ = &body;
    warps_.assign((count + lanes - 1) / lanes, Warp{});
    for (unsigned i = 0; i < count; ++i) start(i);
    std::vector<unsigned> order(count);
    std::iota(order.begin(), order.end(), 0U);
    std::shuffle(order.begin(), order.end(), random_);
    unsigned left = count;
    while (left > 0) {
      bool moved = false;
      for (const unsigned i : order) {
        if (threads_[i]->state != State::ready) continue;
        moved = true;
        resume(i);
        if (threads_[i]->state == State::done) --left;
      }
      if (!release() && !moved && left > 0)
        throw std::logic_error("emulated kernel: threads wait for others that wait elsewhere");
    }
  }

  void wait(State where) {
    Thread& own = *threads_[current_];
    own.state = where;
    go(own.context, scheduler_);
  }
  [[nodiscard]] Warp& warp() { return warps_[current_ / lanes]; }
  [[nodiscard]] unsigned lane() const { return current_ % lanes; }

 private:
  static void entry();

  void start(unsigned index) {
    Thread& thread = *threads_[index];
    getcontext(&thread.context.made);
    thread.context.made.uc_stack.ss_sp = thread.stack.get();
    thread.context.made.uc_stack.ss_size = stack_bytes;
    thread.context.made.uc_link = nullptr;  // a thread that is done goes to the scheduler itself
    thread.context.entered = false;
    makecontext(&thread.context.made, &Block::entry, 0);
    thread.state = State::ready;
  }
  void resume(unsigned index) {
    current_ = index;
    (*enter_)(index);
    go(scheduler_, threads_[index]->context);
  }
  void body() {
    (*body_)();
    wait(State::done);
  }

  /// Lets go the warps all of whose live lanes wait for the warp, and the block when all of it waits.
  [[nodiscard]] bool release() {
    bool released = false;
    for (unsigned first = 0; first < count_; first += lanes)
      released |= release(State::at_warp, first, std::min(count_, first + lanes));
    return release(State::at_block, 0, count_) || released;
  }
  [[nodiscard]] bool release(State where, unsigned first, unsigned last) {
    bool any = false;
    for (unsigned i = first; i < last; ++i) {
      if (threads_[i]->state == State::done) continue;
      if (threads_[i]->state != where) return false;
      any = true;
    }
    for (unsigned i = first; i < last; ++i)
      if (threads_[i]->state == where) threads_[i]->state = State::ready;
    return any;
  }

  std::vector<std::unique_ptr<Thread>> threads_;
  std::vector<Warp> warps_;
  Context scheduler_;
  unsigned count_ = 0, current_ = 0;
  const std::function<void(unsigned)>* enter_ = nullptr;
  const std::function<void()>* body_ = nullptr;
  std::mt19937 random_{20261121};
};

Block& block() {
  static Block instance;
  return instance;
}

void Block::entry() {
  block().body();
}

}  // namespace

void run_block(unsigned threads, const std::function<void(unsigned)>& enter,
               const std::function<void()>& body) {
  block().run(threads, enter, body);
}

void wait_for_block() {
  block().wait(State::at_block);
}
void wait_for_warp() {
  block().wait(State::at_warp);
}

std::uint64_t exchange_word(std::uint64_t word, unsigned source) {
  Warp& warp = block().warp();
  warp.words[block().lane()] = word;
  wait_for_warp();
  const std::uint64_t result = warp.words[source];
  wait_for_warp();  // nobody gives the next word before all have taken this one
  return result;
}

unsigned ballot(bool flag) {
  Warp& warp = block().warp();
  warp.words[block().lane()] = flag ? 1 : 0;
  wait_for_warp();
  unsigned bits = 0;
  for (unsigned i = 0; i < lanes; ++i) bits |= static_cast<unsigned>(warp.words[i]) << i;
  wait_for_warp();
  return bits;
}

}  // namespace emulation

// Fibers: functions that can be left in the middle and entered again, each on a stack of its own.
// On x86-64 Linux by a dozen instructions; elsewhere, or with -DNK_UCONTEXT, by the C library's ucontext.
#pragma once
#include <cstddef>
#include <cstdlib>
#include <sys/mman.h>
#include <unistd.h>
#include <utility>
#include <vector>
#if defined(__SANITIZE_ADDRESS__)
#define NK_ASAN
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define NK_ASAN
#endif
#endif
#ifdef NK_ASAN
#include <sanitizer/common_interface_defs.h>
#endif

namespace nk {

constexpr size_t STACK = 256 * 1024;  // bytes; what is not touched costs no memory

// Stacks with a page below them that nobody may touch: a kernel whose arrays outgrow its stack ends the process at
// once, instead of overwriting its neighbour's.
class Stacks {
 public:
  char* operator[](size_t i) {
    while (stacks_.size() <= i) stacks_.push_back(map());
    return stacks_[i] + guard();
  }
  ~Stacks() {
    for (char* s : stacks_) munmap(s, STACK + guard());
  }

 private:
  static size_t guard() { return size_t(sysconf(_SC_PAGESIZE)); }
  static char* map() {
    void* p = mmap(nullptr, STACK + guard(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED || mprotect(p, guard(), PROT_NONE)) abort();
    return static_cast<char*>(p);
  }
  std::vector<char*> stacks_;
};

#if defined(__x86_64__) && defined(__linux__) && !defined(NK_UCONTEXT)

// Saves what a called function must keep on the stack that is left, and takes it from the stack that is entered.
extern "C" __attribute__((visibility("hidden"))) void nk_switch(void** left, void* entered);
asm(".text\n.p2align 4\n.weak nk_switch\n.hidden nk_switch\nnk_switch:\n"
    " pushq %rbp\n pushq %rbx\n pushq %r12\n pushq %r13\n pushq %r14\n pushq %r15\n"
    " movq %rsp, (%rdi)\n movq %rsi, %rsp\n"
    " popq %r15\n popq %r14\n popq %r13\n popq %r12\n popq %rbx\n popq %rbp\n ret\n");

struct Registers {
  void* stack_pointer = nullptr;
};

inline void prepare(Registers& r, char* stack, void (*entry)()) {
  void** top = reinterpret_cast<void**>(stack + STACK - 64);
  *--top = nullptr;  // where `entry` would return to: it never does
  *--top = reinterpret_cast<void*>(entry);
  for (int saved = 0; saved < 6; saved++) *--top = nullptr;
  r.stack_pointer = top;
}

inline void swap(Registers& from, Registers& to) { nk_switch(&from.stack_pointer, to.stack_pointer); }

#else
}  // namespace nk
#include <ucontext.h>
namespace nk {

struct Registers {
  ucontext_t context;
};

inline void prepare(Registers& r, char* stack, void (*entry)()) {
  getcontext(&r.context);
  r.context.uc_stack.ss_sp = stack;
  r.context.uc_stack.ss_size = STACK;
  r.context.uc_link = nullptr;
  makecontext(&r.context, entry, 0);
}

inline void swap(Registers& from, Registers& to) { swapcontext(&from.context, &to.context); }

#endif

// One flow of execution: the scheduler (whose stack is the caller's, and not known here) or a fiber.
struct Flow {
  Registers registers;
  const void* stack = nullptr;
  size_t stack_size = 0;
  void* sanitizer = nullptr;  // AddressSanitizer's own memory about this flow
};

inline void prepare(Flow& flow, char* stack, void (*entry)()) {
  flow.stack = stack;
  flow.stack_size = STACK;
  prepare(flow.registers, stack, entry);
}

// AddressSanitizer has to be told on which stack the program is. Returns once somebody switches back.
inline void switch_flow(Flow& from, Flow& to) {
#ifdef NK_ASAN
  __sanitizer_start_switch_fiber(&from.sanitizer, to.stack, to.stack_size);
#endif
  swap(from.registers, to.registers);
#ifdef NK_ASAN
  __sanitizer_finish_switch_fiber(from.sanitizer, nullptr, nullptr);
#endif
}

// The first thing on a new fiber: learns the stack of the flow that has started it.
inline void arrive(Flow& from) {
#ifdef NK_ASAN
  __sanitizer_finish_switch_fiber(nullptr, &from.stack, &from.stack_size);
#endif
  (void)from;
}

}  // namespace nk

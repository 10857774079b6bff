// Threads of a block as fibers: a stack each, and a switch between stacks.
#include <sys/mman.h>

#include <cstdlib>

#include "runtime.hpp"
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace simt {

constexpr u32 TEAM_THREADS = 1024 * 16;  // of the largest cluster; memory comes with use
constexpr u64 PAGE = 4096;

struct Team {
    u8* stacks;
    u32 guarded = 0;  // threads whose guard page stands
};

namespace {

std::mutex teams_lock;
std::vector<Team*> teams;

thread_local void* scheduler_stack;
thread_local Thread* running;

Team* team_make() {
    u64 bytes = TEAM_THREADS * STACK_BYTES;
    void* memory = mmap(nullptr, bytes + STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) {
        perror("simt: no address space for the stacks of threads");
        abort();
    }
    return new Team{(u8*)(((u64)memory + STACK_BYTES - 1) & ~(STACK_BYTES - 1))};
}

}  // namespace

Team* team_take() {
    std::lock_guard lock(teams_lock);
    if (teams.empty()) return team_make();
    Team* team = teams.back();
    teams.pop_back();
    return team;
}

void team_give_back(Team* team) {
    std::lock_guard lock(teams_lock);
    teams.push_back(team);
}

Thread& team_thread(Team* team, u32 index) {
    for (; team->guarded <= index; team->guarded++)
        mprotect(team->stacks + team->guarded * STACK_BYTES + PAGE, PAGE, PROT_NONE);
    return *(Thread*)(team->stacks + index * STACK_BYTES);
}

#if defined(__x86_64__)

// Saves what a call must keep, then changes stacks.
extern "C" void simt_switch(void** from, void* to);
asm(R"(
.text
.globl simt_switch
.type simt_switch, @function
simt_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size simt_switch, .-simt_switch
)");

static void begin() {
    Thread* thread = running;
    thread->body(*thread);
    abort();  // the body leaves for good
}

void fiber_prepare(Thread& thread, void (*body)(Thread&)) {
    thread.body = body;
    void** top = (void**)((u8*)&thread + STACK_BYTES);
    *--top = nullptr;  // the stack is at 8 modulo 16 when a function begins
    *--top = (void*)begin;
    for (int i = 0; i < 6; i++) *--top = nullptr;
    thread.stack_pointer = top;
}

void fiber_enter(Thread& thread) {
    running = &thread;
    simt_switch(&scheduler_stack, thread.stack_pointer);
}

void fiber_leave() { simt_switch(&self().stack_pointer, scheduler_stack); }

#else

thread_local ucontext_t scheduler;

static void begin() {
    Thread* thread = running;
    thread->body(*thread);
    abort();
}

void fiber_prepare(Thread& thread, void (*body)(Thread&)) {
    thread.body = body;
    auto* context = (ucontext_t*)((u8*)&thread + 1024);  // within the record's page
    static_assert(sizeof(Thread) <= 1024 && sizeof(ucontext_t) <= PAGE - 1024);
    getcontext(context);
    context->uc_stack.ss_sp = (u8*)&thread + 2 * PAGE;
    context->uc_stack.ss_size = STACK_BYTES - 2 * PAGE;
    context->uc_link = nullptr;
    makecontext(context, begin, 0);
    thread.stack_pointer = context;
}

void fiber_enter(Thread& thread) {
    running = &thread;
    swapcontext(&scheduler, (ucontext_t*)thread.stack_pointer);
}

void fiber_leave() { swapcontext((ucontext_t*)self().stack_pointer, &scheduler); }

#endif

}  // namespace simt

// The same calls from C++, shared out over std::threads.
#include "program.h"
#include <atomic>
#include <cstdio>
#include <thread>
#include <vector>

struct Pool {
    std::atomic<long> loops{0};
};

static void parallel_for(void *pool, softmax_fast_body *body, void *context, ptrdiff_t n_pieces,
                         int n_workers)
{
    std::atomic<ptrdiff_t> next{0};
    std::vector<std::thread> threads;
    static_cast<Pool *>(pool)->loops++;
    for (int worker = 0; worker < n_workers; worker++)
        threads.emplace_back([&, worker] {
            for (ptrdiff_t piece; (piece = next++) < n_pieces;)
                body(context, piece, worker);
        });
    for (auto &thread : threads)
        thread.join();
}

int main()
{
    Pool pool;
    softmax_fast_set_parallel_for(parallel_for, &pool);
    int failed = answer_all();
    softmax_fast_set_parallel_for(nullptr, nullptr);
    std::fprintf(stderr, "%ld\n", pool.loops.load());
    return failed;
}

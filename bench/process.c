/* Worker processes: each system under measurement runs in one of its own and answers lines. */
#include "bench/bench.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MAX_LINE (1u << 20) /* an answer is a line; a longer one is none of ours */

uint64_t worker_timeout_s = 600;

/* In the child: the environment in which peers are at their best. OpenBLAS picks the kernel for
 * this processor itself, and takes as many threads as were asked for. */
static void child_environment(uint64_t threads)
{
    char count[24];
    snprintf(count, sizeof count, "%llu", (unsigned long long)threads);
    unsetenv("OPENBLAS_CORETYPE");
    unsetenv("OPENBLAS_L2_SIZE");
    setenv("OPENBLAS_NUM_THREADS", count, 1);
    setenv("OMP_NUM_THREADS", count, 1);
}

int worker_start(struct worker *w, const char *name, uint64_t threads, char *const argv[])
{
    int to[2], from[2];
    const char *program = argv[0] ? argv[0] : "/proc/self/exe";
    char *args[48] = {"mneme_bench"};
    size_t n = 1;
    *w = (struct worker){.pid = 0, .to = -1, .from = -1};
    snprintf(w->name, sizeof w->name, "%s", name);
    while (n + 1 < sizeof args / sizeof *args && argv[n]) {
        args[n] = argv[n];
        n++;
    }
    if (pipe2(to, O_CLOEXEC) != 0)
        return bench_fail("%s: no pipe: %s", name, strerror(errno));
    if (pipe2(from, O_CLOEXEC) != 0) {
        close(to[0]);
        close(to[1]);
        return bench_fail("%s: no pipe: %s", name, strerror(errno));
    }
    fflush(NULL);
    signal(SIGPIPE, SIG_IGN); /* a worker that died is told by the write's EPIPE */
    w->pid = fork();
    if (w->pid == 0) {
        signal(SIGPIPE, SIG_DFL);
        prctl(PR_SET_PDEATHSIG, SIGKILL); /* no worker outlives a bench that was killed */
        child_environment(threads);
        if (dup2(to[0], 0) < 0 || dup2(from[1], 1) < 0)
            _exit(126);
        execv(program, args);
        _exit(127);
    }
    close(to[0]);
    close(from[1]);
    w->to = to[1];
    w->from = from[0];
    if (w->pid < 0) {
        w->pid = 0;
        worker_kill(w);
        return bench_fail("%s: no process: %s", name, strerror(errno));
    }
    return 0;
}

/* Waits for the process; 0 if it ended with status 0. */
static int worker_reap(struct worker *w)
{
    int status = 0;
    pid_t pid = w->pid;
    if (w->to >= 0)
        close(w->to);
    if (w->from >= 0)
        close(w->from);
    w->to = w->from = -1;
    w->pid = 0;
    free(w->line);
    w->line = NULL;
    w->len = w->room = 0;
    while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR)
        continue;
    return status == 0 ? 0 : 1;
}

void worker_kill(struct worker *w)
{
    if (w->pid > 0)
        kill(w->pid, SIGKILL);
    worker_reap(w);
}

static time_t now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec;
}

/* Reads up to a newline into w->line, NUL in its place. False after a sentence. */
static bool worker_read_line(struct worker *w)
{
    time_t end = now_s() + (time_t)worker_timeout_s;
    w->len = 0;
    for (;;) {
        struct pollfd p = {.fd = w->from, .events = POLLIN};
        time_t left = end - now_s();
        if (w->len + 2 > w->room) {
            size_t room = w->room ? w->room * 2 : 4096;
            char *more = room > MAX_LINE ? NULL : realloc(w->line, room);
            if (!more) {
                bench_fail("%s: an answer longer than %u bytes", w->name, MAX_LINE);
                return false;
            }
            w->line = more;
            w->room = room;
        }
        if (left <= 0 || poll(&p, 1, (int)(left < 1000 ? left * 1000 : 1000000)) == 0) {
            bench_fail("%s: no answer for %llu s", w->name, (unsigned long long)worker_timeout_s);
            return false;
        }
        ssize_t got = read(w->from, w->line + w->len, 1);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0) {
            bench_fail("%s: the process ended without an answer", w->name);
            return false;
        }
        if (w->line[w->len] == '\n')
            break;
        w->len++;
    }
    w->line[w->len] = 0;
    return true;
}

json_t *worker_answer(struct worker *w)
{
    json_error_t wrong;
    json_t *answer;
    const char *message;
    if (w->pid == 0 || !worker_read_line(w))
        return NULL;
    answer = json_loads(w->line, 0, &wrong);
    if (!json_is_object(answer)) {
        bench_fail("%s: answered '%.200s'", w->name, w->line);
        json_decref(answer);
        return NULL;
    }
    message = json_string_value(json_object_get(answer, "error"));
    if (message) {
        bench_fail("%s: %s", w->name, message);
        json_decref(answer);
        return NULL;
    }
    return answer;
}

json_t *worker_ask(struct worker *w, const char *format, ...)
{
    va_list args;
    if (w->pid == 0)
        return NULL;
    va_start(args, format);
    int written = vdprintf(w->to, format, args);
    va_end(args);
    if (written < 0 || write(w->to, "\n", 1) != 1) {
        bench_fail("%s: the process takes no commands: %s", w->name, strerror(errno));
        return NULL;
    }
    return worker_answer(w);
}

int worker_stop(struct worker *w, uint64_t *rss_peak_kb)
{
    json_t *answer = worker_ask(w, "quit");
    if (rss_peak_kb)
        *rss_peak_kb = (uint64_t)json_integer_value(json_object_get(answer, "rss_peak_kb"));
    if (!answer) {
        worker_kill(w);
        return 1;
    }
    json_decref(answer);
    return worker_reap(w) == 0 ? 0 : bench_fail("%s: the process ended badly", w->name);
}

json_t *worker_once(const char *name, char *const argv[])
{
    struct worker w;
    json_t *answer;
    if (worker_start(&w, name, 1, argv) != 0)
        return NULL;
    answer = worker_answer(&w);
    if (!answer) {
        worker_kill(&w);
        return NULL;
    }
    if (worker_reap(&w) != 0) {
        bench_fail("%s: the process ended badly", name);
        json_decref(answer);
        return NULL;
    }
    return answer;
}

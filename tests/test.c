#include "tests/test.h"

#include <ftw.h>
#include <setjmp.h>
#include <stdarg.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PATHS = 16, PATH_LEN = 512 };

static struct test *first, *last;
static jmp_buf escape; /* longjmp value: 1 failed, 2 skipped */
static char folder[PATH_LEN];
static char paths[PATHS][PATH_LEN];
static unsigned next_path;

void test_register(struct test *t)
{
    if (last)
        last->next = t;
    else
        first = t;
    last = t;
}

void test_fail(const char *file, int line, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    printf("\n    %s:%d: ", file, line);
    vprintf(format, args);
    printf("\n");
    va_end(args);
    fflush(stdout);
    longjmp(escape, 1);
}

void test_skip(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    printf("skipped: ");
    vprintf(format, args);
    va_end(args);
    longjmp(escape, 2);
}

void test_note(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    printf("[");
    vprintf(format, args);
    printf("] ");
    va_end(args);
    fflush(stdout);
}

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *ftw)
{
    (void)st;
    (void)kind;
    (void)ftw;
    chmod(path, 0700);
    return remove(path);
}

static int unlock_one(const char *path, const struct stat *st, int kind, struct FTW *ftw)
{
    (void)st;
    (void)ftw;
    return kind == FTW_D ? chmod(path, 0700) : 0;
}

static void remove_folder(void)
{
    nftw(folder, unlock_one, 16, FTW_PHYS);
    nftw(folder, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

const char *test_dir(void)
{
    return folder;
}

static char *join(const char *folder_name, const char *between, const char *name)
{
    char *p = paths[next_path++ % PATHS];
    int n = snprintf(p, PATH_LEN, "%s%s%s", folder_name, between, name);
    if (n < 0 || n >= PATH_LEN)
        test_fail(__FILE__, __LINE__, "path too long: %s%s%s", folder_name, between, name);
    return p;
}

const char *test_path(const char *name)
{
    return join(folder, "/", name);
}

const char *test_source(const char *name)
{
    return join(MNEME_SOURCE_DIR, "/", name);
}

const char *test_shared(const char *name)
{
    char *p = join(MNEME_SOURCE_DIR, "/../shared/", name);
    if (access(p, R_OK) != 0)
        test_skip("needs ../shared/%s, which is not here", name);
    return p;
}

bool test_long(void)
{
    const char *e = getenv("MNEME_TEST_LONG");
    return e && *e && strcmp(e, "0") != 0;
}

size_t test_budget(size_t n)
{
    const char *e = getenv("MNEME_TEST_TENTH");
    if (test_long())
        return n * 20;
    return e && *e && strcmp(e, "0") != 0 ? (n + 9) / 10 : n;
}

uint64_t test_rand(struct test_rng *r)
{
    /* splitmix64 */
    uint64_t z = r->state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

double test_uniform(struct test_rng *r)
{
    return (double)(test_rand(r) >> 11) * 0x1p-53;
}

double test_normal(struct test_rng *r)
{
    double u = 1.0 - test_uniform(r), v = test_uniform(r);
    return sqrt(-2.0 * log(u)) * cos(6.283185307179586 * v);
}

uint64_t test_below(struct test_rng *r, uint64_t n)
{
    return test_rand(r) % n;
}

static bool wanted(const char *name, int argc, char **argv)
{
    if (argc < 2)
        return true;
    for (int i = 1; i < argc; i++)
        if (strstr(name, argv[i]))
            return true;
    return false;
}

/* Runs one test in a fresh folder: 0 passed, 1 failed, 2 skipped. */
static int run_one(const struct test *t)
{
    const char *base = getenv("TMPDIR");
    snprintf(folder, sizeof folder, "%s/mneme-test-XXXXXX", base && *base ? base : "/tmp");
    if (!mkdtemp(folder)) {
        perror(folder);
        return 1;
    }
    int result = setjmp(escape);
    if (result == 0)
        t->run();
    remove_folder();
    return result;
}

int test_main(int argc, char **argv)
{
    int count[3] = {0, 0, 0};
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (argc == 2 && strcmp(argv[1], "-l") == 0) {
        for (struct test *t = first; t; t = t->next)
            puts(t->name);
        return 0;
    }
    for (struct test *t = first; t; t = t->next) {
        if (!wanted(t->name, argc, argv))
            continue;
        printf("  %-60s ", t->name);
        fflush(stdout);
        int result = run_one(t);
        count[result]++;
        if (result == 0)
            printf("ok\n");
        else if (result == 1)
            printf("    FAILED; replay: %s %s\n", argv[0], t->name);
        else
            printf("\n");
    }
    printf("%d passed, %d failed, %d skipped\n", count[0], count[1], count[2]);
    if (count[1])
        return 1;
    return count[0] == 0 && count[2] > 0 ? 77 : 0;
}

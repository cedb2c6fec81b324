#include "tests/shell/run_fixture.h"

#include <errno.h>
#include <sys/wait.h>

/* ---- Running -------------------------------------------------------------------------------- */

char out[RUN_BYTES], err[RUN_BYTES]; /* of the last command */

void slurp(const char *name, char *to, size_t size)
{
    FILE *file = fopen(test_path(name), "rb");
    CHECKF(file != NULL, "%s: %s", name, strerror(errno));
    size_t n = fread(to, 1, size - 1, file);
    fclose(file);
    to[n] = 0;
}

/* The shell's own environment: no colours asked for, the built program first on PATH. */
int in_shell(const char *command)
{
    char script[8192];
    int n = snprintf(script, sizeof script,
                     "cd '%s' && PATH='%s':\"$PATH\" && unset NO_COLOR && (%s) >out.txt 2>err.txt",
                     test_dir(), MNEME_BUILD_DIR, command);
    CHECK(n > 0 && n < (int)sizeof script);
    int status = system(script);
    CHECK(status != -1 && WIFEXITED(status));
    slurp("out.txt", out, sizeof out);
    slurp("err.txt", err, sizeof err);
    return WEXITSTATUS(status);
}

/* Must end with `code`. */
void run(int code, const char *command)
{
    int got = in_shell(command);
    if (got != code)
        test_fail(__FILE__, __LINE__, "`%s` ended with %d, want %d\nstdout: %s\nstderr: %s",
                  command, got, code, out, err);
}

/* "..." in a line of the pattern stands for anything within that line. */
static bool line_matches(const char *pattern, size_t np, const char *text, size_t nt)
{
    const char *dots = memmem(pattern, np, "...", 3);
    size_t head = dots ? (size_t)(dots - pattern) : np;
    if (nt < head || memcmp(pattern, text, head) != 0)
        return false;
    if (!dots)
        return nt == head;
    for (size_t skip = head; skip <= nt; skip++)
        if (line_matches(dots + 3, np - head - 3, text + skip, nt - skip))
            return true;
    return false;
}

void shows(const char *command, const char *pattern, const char *text)
{
    const char *p = pattern, *t = text;
    for (int line = 1; *p || *t; line++) {
        size_t np = strcspn(p, "\n"), nt = strcspn(t, "\n");
        if (!line_matches(p, np, t, nt))
            test_fail(__FILE__, __LINE__, "`%s`, line %d: \"%.*s\", want \"%.*s\"; all:\n%s",
                      command, line, (int)nt, t, (int)np, p, text);
        p += np + (p[np] == '\n');
        t += nt + (t[nt] == '\n');
    }
}

/* Must succeed, say exactly this on stdout and nothing on stderr. */
void run_shows(const char *command, const char *pattern)
{
    run(0, command);
    shows(command, pattern, out);
    CHECK_STR(err, "");
}

void put_file(const char *name, const void *bytes, size_t n)
{
    FILE *file = fopen(test_path(name), "wb");
    CHECK(file != NULL && fwrite(bytes, 1, n, file) == n);
    CHECK(fclose(file) == 0);
}

void put_text(const char *name, const char *text)
{
    put_file(name, text, strlen(text));
}

/* Runs the built program by the shell, in the test's own folder, and looks at what it says. */
#ifndef MN_TESTS_SHELL_RUN_FIXTURE_H
#define MN_TESTS_SHELL_RUN_FIXTURE_H

#include "tests/test.h"

enum { RUN_BYTES = 1 << 16 };

extern char out[RUN_BYTES], err[RUN_BYTES]; /* of the last command */

int in_shell(const char *command);       /* its exit code */
void run(int code, const char *command); /* must end with `code` */

/* Must succeed, say exactly this on stdout and nothing on stderr. "..." in a line of the pattern
 * stands for anything within that line. */
void run_shows(const char *command, const char *pattern);
void shows(const char *command, const char *pattern, const char *text);

void put_file(const char *name, const void *bytes, size_t n);
void put_text(const char *name, const char *text);
void slurp(const char *name, char *to, size_t size);

#endif

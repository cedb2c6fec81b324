/* The loadable extension in programs that are not ours: Python's sqlite3, by clients.py beside this
 * file. The stock sqlite3 program runs the examples of docs/sql.md and docs/vectors.md
 * (tools/doctest). */
#include "tests/test.h"

#include <sys/wait.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { SANITIZED = 1 };
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
enum { SANITIZED = 1 };
#else
enum { SANITIZED = 0 };
#endif
#else
enum { SANITIZED = 0 };
#endif

TEST(python_has_it_by_load_extension)
{
    if (SANITIZED)
        test_skip("a program without the sanitizer's runtime cannot load the extension");
    if (access("/usr/bin/python3", X_OK) != 0)
        test_skip("there is no /usr/bin/python3");
    if (access(MNEME_BUILD_DIR "/mneme.so", R_OK) != 0)
        test_skip("mneme.so is not built");
    char command[2000], output[4000];
    snprintf(command, sizeof command, "/usr/bin/python3 '%s' '%s/mneme.so' '%s' 2>&1",
             test_source("tests/sql/clients.py"), MNEME_BUILD_DIR, test_dir());
    FILE *pipe = popen(command, "r");
    CHECK(pipe);
    size_t n = fread(output, 1, sizeof output - 1, pipe);
    output[n] = '\0';
    int status = pclose(pipe);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
        test_skip("%s", output);
    CHECKF(WIFEXITED(status) && WEXITSTATUS(status) == 0, "%s\n%s", command, output);
}

TEST_MAIN

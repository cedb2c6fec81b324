/* Errors: fills an mn_error with a code and a sentence. Knows no recovery. Thread-safe. */
#ifndef MN_STORAGE_BASE_ERROR_H
#define MN_STORAGE_BASE_ERROR_H

#include "mneme.h"

/* Writes code and sentence into err (NULL is fine) and returns the code. An err that already
 * holds a failure keeps it: the first failure wins. Callers clear err at the library's edge with
 * mn_error_clear(). A sentence too long for the buffer ends in "...". */
__attribute__((format(printf, 3, 4))) mn_status mn_fail(mn_error *err, mn_status code,
                                                        const char *format, ...);

/* As mn_fail, and appends ": " and the text of errno value `os_error`, which is kept in err. */
__attribute__((format(printf, 4, 5))) mn_status mn_fail_os(mn_error *err, mn_status code,
                                                           int os_error, const char *format, ...);

/* Puts a clause in front of the sentence that stands in err: "import: " + message. */
__attribute__((format(printf, 2, 3))) void mn_error_context(mn_error *err, const char *format, ...);

void mn_error_clear(mn_error *err);

#endif

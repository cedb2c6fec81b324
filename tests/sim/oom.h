/* Makes the n-th allocation fail, counted over Mneme's allocator hooks and SQLite's memory
 * together, and keeps the balance of both, so that a test can see a leak.
 *
 *     oom_install();                                   once, before anything uses SQLite
 *     mn_open_opts o = { .allocator = oom_hooks() };
 *     for (n = 1;; n++) { oom_arm(n, false); run(); fired = oom_fired(); oom_arm(0, false);
 *                         if (!fired) break; }
 *
 * Thread-safe; which allocation is the n-th is then up to the threads. */
#ifndef MN_TESTS_SIM_OOM_H
#define MN_TESTS_SIM_OOM_H

#include "mneme.h"

/* Puts the counter under SQLite, which is shut down for it: no connection may be open. SQLite's
 * lookaside memory is switched off, so that its small allocations are counted too. False if SQLite
 * refuses. */
bool oom_install(void);

const mn_allocator *oom_hooks(void);

/* The n-th allocation from now on fails; with sticky all later ones too. n 0 disarms. */
void oom_arm(uint64_t n, bool sticky);
uint64_t oom_fired(void); /* failures since oom_arm */
uint64_t oom_calls(void); /* allocations since oom_arm */

int64_t oom_balance(void);        /* blocks that Mneme has taken and not given back */
int64_t oom_sqlite_balance(void); /* the same of SQLite; it keeps a few until it is shut down */

#endif

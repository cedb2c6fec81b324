/* Finds and loads the plugin mneme_faiss.so. Links neither FAISS nor a C++ runtime: the programs
 * run without either, and say what is missing when FAISS is asked for. Thread-safe. */
#ifndef MN_FAISS_LOAD_H
#define MN_FAISS_LOAD_H

#include "src/faiss/plugin.h"

/* The plugin, loaded once and then for the life of the process. Looked for at the path in the
 * environment variable MNEME_FAISS, if that is set; else beside the program; else in the folder of
 * libraries that it was installed with. MN_NOTFOUND says how to get it; MN_IO what the dynamic
 * linker said; MN_INVALID that it is another version's. */
MN_CHECKED mn_status faiss_load(const struct faiss_plugin **out, mn_error *err);

#endif

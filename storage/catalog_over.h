/* Tables of rows that Mneme did not make: their keys, their columns, and what became of their
 * names. For catalog.c alone. Each call runs inside the caller's transaction. */
#ifndef MN_STORAGE_CATALOG_OVER_H
#define MN_STORAGE_CATALOG_OVER_H

#include "storage/catalog.h"

/* What mn_create refuses of opts->table, opts->column and the attributes, by what the database
 * holds. `name` is the collection's. */
mn_status over_check(sqlite3 *db, const char *name, const mn_collection_opts *opts, mn_error *err);

/* What mn_add_attribute refuses: a column that is not there, or is an attribute already. */
mn_status over_check_attribute(sqlite3 *db, const struct catalog_entry *e, const char *attribute,
                               mn_error *err);

/* Makes what such a collection needs of the catalog, and keeps older programs out. */
mn_status over_init(sqlite3 *db, mn_error *err);

/* Follows renamings: sets table, column and id_column of `e` to what they are called now. id_column
 * is "" if there is no such table, or if it has no INTEGER PRIMARY KEY. */
mn_status over_resolve(sqlite3 *db, struct catalog_entry *e, mn_error *err);

/* The attributes' names as they are now, as catalog_attributes(). */
mn_status over_attributes(sqlite3 *db, const struct catalog_entry *e, char **names, size_t *n,
                          mn_error *err);

/* Sets `missing` to the name of a column that the collection needs and its table lacks; "": it has
 * all. */
mn_status over_missing(sqlite3 *db, const struct catalog_entry *e, char missing[MN_MAX_NAME + 1],
                       mn_error *err);

/* The first of the collection's columns that is computed from others, "": none is. */
mn_status over_computed(sqlite3 *db, const struct catalog_entry *e, char name[MN_MAX_NAME + 1],
                        mn_error *err);

/* The columns whose change counts for any collection over the table, for changelog_table.watched;
 * *list for sqlite3_free. */
mn_status over_watched(sqlite3 *db, const struct catalog_entry *e, char **list, mn_error *err);

/* Writes the names of today into the catalog. */
mn_status over_keep_names(sqlite3 *db, const struct catalog_entry *e, mn_error *err);

#endif

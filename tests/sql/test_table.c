/* Tables USING mneme on a connection of the program's own. Vectors are small integers, so that
 * distances are exact; [3, 4] is 5 away from the origin. */
#include "tests/sql/steps.h"

static mn_error err;

static const char docs[] =
    "CREATE VIRTUAL TABLE docs USING mneme(id INTEGER PRIMARY KEY, e float[2], lang TEXT, year "
    "INTEGER, price REAL, tags JSON, +body TEXT)";
static const char docs_rows[] = "INSERT INTO docs(id, e, lang, year, price, tags, body) VALUES "
                                "(1, '[3,4]', 'en', 2020, 1.5, '[\"x\",1]', 'one'),"
                                "(2, '[6,8]', 'de', 2021, NULL, '[]', 'two'),"
                                "(3, '[0,1]', NULL, NULL, 2, NULL, 'three'),"
                                "(4, NULL, 'en', 2022, 0, '[\"y\"]', 'four'),"
                                "(5, '[0,2]', 'fr', 2020, -1, '[\"x\",\"y\",2.5]', NULL)";

static sqlite3 *with_docs(void)
{
    sqlite3 *db = steps_open(test_path("app.db"));
    STEP(db, docs, "");
    STEP(db, docs_rows, "");
    return db;
}

TEST(nearest_rows_come_by_distance)
{
    sqlite3 *db = with_docs();
    static const struct step steps[] = {
        {"SELECT id, distance FROM docs WHERE e MATCH '[0,0]' AND k = 10", "3|1 5|2 1|5 2|10"},
        {"SELECT id, distance FROM docs WHERE e MATCH '[0,0]' AND k = 2", "3|1 5|2"},
        {"SELECT id FROM docs WHERE e MATCH '[0,0]' AND k = 0", ""},
        {"SELECT id FROM docs WHERE e MATCH NULL AND k = 3", ""},
        {"SELECT id FROM docs WHERE e MATCH '[0,0]' AND k = NULL", ""},
        {"SELECT id FROM docs WHERE e MATCH x'0000000000000000' ORDER BY distance LIMIT 2", "3 5"},
        {"SELECT id FROM docs WHERE e MATCH '[0,0]' ORDER BY distance LIMIT 2 OFFSET 1", "5 1"},
        {"SELECT id FROM docs WHERE e MATCH '[0,0]' ORDER BY distance LIMIT -1 OFFSET 2", "1 2"},
        {"SELECT id FROM docs WHERE e MATCH '[0,0]' ORDER BY distance DESC LIMIT 1", "2"},
        {"SELECT id FROM docs WHERE e MATCH '[0,0]' ORDER BY id", "1 2 3 5"},
        {"SELECT id FROM docs WHERE e MATCH '[0,0]' AND k = 3 ORDER BY id DESC", "5 3 1"},
        {"SELECT id FROM docs WHERE e MATCH '[0,0]' AND k = 3 LIMIT 1 OFFSET 1", "5"},
        {"SELECT id FROM docs WHERE k = 3 AND e MATCH '[0,0]'", "3 5 1"},
        {"SELECT id FROM docs WHERE e MATCH '[0,0]' AND k = '2'", "3 5"},
        {"SELECT id FROM docs WHERE e MATCH '[0,0]' AND k = 1 + 1", "3 5"},
        {"SELECT id FROM docs WHERE e MATCH '[0,0]' AND k = 10 AND recall = 1", "3 5 1 2"},
        {"SELECT id FROM docs WHERE e MATCH '[0,0]' AND k = 10 AND exact = 1", "3 5 1 2"},
        {"SELECT count(*) FROM docs WHERE e MATCH '[0,0]'", "4"},
        {"SELECT rowid, id, k, recall, exact FROM docs WHERE e MATCH '[0,0]' AND k = 1",
         "3|3|NULL|NULL|NULL"},
        {"SELECT id, distance FROM docs", "1|NULL 2|NULL 3|NULL 4|NULL 5|NULL"},
        {"SELECT id, e, body FROM docs WHERE e MATCH '[0,0]' AND k = 1",
         "3|x'000000000000803F'|three"},
        {"SELECT d.id, o.id FROM docs d, docs o WHERE d.e MATCH '[0,0]' AND d.k = 2 AND "
         "o.e MATCH '[6,8]' AND o.k = 2",
         "3|2 3|1 5|2 5|1"},
        {"SELECT min(distance), max(distance), avg(distance) FROM docs WHERE e MATCH '[0,0]' AND "
         "k = 4",
         "1|10|4.5"},
    };
    STEPS(db, steps);
    steps_close(db);
}

TEST(distances_have_bounds)
{
    sqlite3 *db = with_docs();
    static const struct step steps[] = {
        {"SELECT id FROM docs WHERE e MATCH '[0,0]' AND distance < 5", "3 5"},
        {"SELECT id FROM docs WHERE e MATCH '[0,0]' AND distance <= 5", "3 5 1"},
        {"SELECT id FROM docs WHERE e MATCH '[0,0]' AND distance > 2", "1 2"},
        {"SELECT id FROM docs WHERE e MATCH '[0,0]' AND distance >= 2", "5 1 2"},
        {"SELECT id FROM docs WHERE e MATCH '[0,0]' AND distance BETWEEN 2 AND 5", "5 1"},
        {"SELECT id FROM docs WHERE e MATCH '[0,0]' AND distance > 1 AND k = 2", "5 1"},
        {"SELECT id FROM docs WHERE e MATCH '[0,0]' AND distance < 5 AND k = 1", "3"},
        {"SELECT id FROM docs WHERE e MATCH '[0,0]' AND distance < 5 AND distance < 2", "3"},
        {"SELECT id FROM docs WHERE e MATCH '[0,0]' AND distance <= 2 AND distance < 2", "3"},
        {"SELECT id FROM docs WHERE e MATCH '[0,0]' AND distance >= 2 AND distance > 2", "1 2"},
        {"SELECT id FROM docs WHERE e MATCH '[0,0]' AND distance < NULL", ""},
        {"SELECT id FROM docs WHERE e MATCH '[0,0]' AND distance < '5'", "3 5"},
        {"SELECT id FROM docs WHERE e MATCH '[0,0]' AND distance < 5 LIMIT 1", "3"},
        {"SELECT id FROM docs WHERE e MATCH '[0,0]' AND distance = 5", "1"},
        {"SELECT id FROM docs WHERE e MATCH '[0,0]' AND distance < -1", ""},
        {"SELECT id FROM docs WHERE e MATCH '[0,0]' AND distance > 100", ""},
        {"SELECT id FROM docs WHERE e MATCH '[0,0]' AND distance < 6 AND lang = 'en'", "1"},
        {"SELECT id FROM docs WHERE e MATCH '[0,0]' AND distance < 'near'", "!distance&near"},
    };
    STEPS(db, steps);
    steps_close(db);
}

TEST(conditions_count_before_k)
{
    sqlite3 *db = with_docs();
    static const struct step steps[] = {
        {"SELECT id FROM docs WHERE e MATCH '[0,0]' AND k = 1 AND lang = 'de'", "2"},
        {"SELECT id FROM docs WHERE e MATCH '[0,0]' AND k = 2 AND lang IN ('en', 'de')", "1 2"},
        {"SELECT id FROM docs WHERE e MATCH '[0,0]' AND k = 1 AND lang <> 'fr'", "1"},
        {"SELECT id FROM docs WHERE e MATCH '[0,0]' AND k = 1 AND lang IS NULL", "3"},
        {"SELECT id FROM docs WHERE e MATCH '[0,0]' AND k = 9 AND lang IS NOT NULL", "5 1 2"},
        {"SELECT id FROM docs WHERE e MATCH '[0,0]' AND k = 9 AND lang IS 'de'", "2"},
        {"SELECT id FROM docs WHERE e MATCH '[0,0]' AND k = 9 AND lang = NULL", ""},
        {"SELECT id FROM docs WHERE e MATCH '[0,0]' AND k = 9 AND year = 2020", "5 1"},
        {"SELECT id FROM docs WHERE e MATCH '[0,0]' AND k = 9 AND year = '2020'", "5 1"},
        {"SELECT id FROM docs WHERE e MATCH '[0,0]' AND k = 9 AND year = 2020.0", "5 1"},
        {"SELECT id FROM docs WHERE e MATCH '[0,0]' AND k = 9 AND year < 2021", "5 1"},
        {"SELECT id FROM docs WHERE e MATCH '[0,0]' AND k = 9 AND year >= '2021'", "2"},
        {"SELECT id FROM docs WHERE e MATCH '[0,0]' AND k = 9 AND year BETWEEN 2020 AND 2021",
         "5 1 2"},
        {"SELECT id FROM docs WHERE e MATCH '[0,0]' AND k = 9 AND 2021 <= year", "2"},
        {"SELECT id FROM docs WHERE e MATCH '[0,0]' AND k = 9 AND price > 1", "3 1"},
        {"SELECT id FROM docs WHERE e MATCH '[0,0]' AND k = 9 AND price = 2", "3"},
        {"SELECT id FROM docs WHERE e MATCH '[0,0]' AND k = 9 AND price = '2'", "3"},
        {"SELECT id FROM docs WHERE e MATCH '[0,0]' AND k = 9 AND json_contains(tags, 'x')", "5 1"},
        {"SELECT id FROM docs WHERE e MATCH '[0,0]' AND k = 9 AND json_contains(tags, 1)", "1"},
        {"SELECT id FROM docs WHERE e MATCH '[0,0]' AND k = 9 AND json_contains(tags, 2.5)", "5"},
        {"SELECT id FROM docs WHERE e MATCH '[0,0]' AND k = 9 AND json_contains(tags, '1')", ""},
        {"SELECT id FROM docs WHERE e MATCH '[0,0]' AND k = 9 AND json_contains(tags, NULL)", ""},
        {"SELECT id FROM docs WHERE e MATCH '[0,0]' AND k = 9 AND json_contains(tags, 'x') AND "
         "json_contains(tags, 'y')",
         "5"},
        {"SELECT id FROM docs WHERE e MATCH '[0,0]' AND k = 9 AND id = 2", "2"},
        {"SELECT id FROM docs WHERE e MATCH '[0,0]' AND k = 9 AND rowid = 2", "2"},
        {"SELECT id FROM docs WHERE e MATCH '[0,0]' AND k = 9 AND id = 4", ""},
        {"SELECT id FROM docs WHERE e MATCH '[0,0]' AND k = 9 AND id IN (1, 4, 5, 99)", "5 1"},
        {"SELECT id FROM docs WHERE e MATCH '[0,0]' AND k = 9 AND id IN ()", ""},
        {"SELECT id FROM docs WHERE e MATCH '[0,0]' AND k = 9 AND id IN (SELECT id FROM docs "
         "WHERE lang = 'en')",
         "1"},
        {"SELECT id FROM docs WHERE e MATCH '[0,0]' AND k = 9 AND id IN (1, '5', 2.0, 'x', NULL)",
         "5 1 2"},
        {"SELECT id FROM docs WHERE e MATCH '[0,0]' AND k = 9 AND id IN (1, 2) AND id IN (2, 3)",
         "2"},
        {"SELECT id FROM docs WHERE e MATCH '[0,0]' AND k = 2 AND id > 1", "3 5"},
        {"SELECT id FROM docs WHERE e MATCH '[0,0]' AND k = 2 AND id <> 3 AND id < 5", "1 2"},
        {"SELECT id FROM docs WHERE e MATCH '[0,0]' AND k = 9 AND lang IN (SELECT lang FROM docs "
         "WHERE year = 2021)",
         "2"},
        {"SELECT id FROM docs WHERE e MATCH '[0,0]' AND k = 1 AND lang IN ('en', 'de') AND year IN "
         "(2021, '2022')",
         "2"},
        {"SELECT id FROM docs WHERE e MATCH '[0,0]' AND k = 9 AND (lang, year) = ('de', 2021)",
         "2"},
    };
    STEPS(db, steps);
    steps_close(db);
}

TEST(what_sqlite_checks_itself_is_right_with_limit)
{
    sqlite3 *db = with_docs();
    static const struct step steps[] = {
        {"SELECT id FROM docs WHERE e MATCH '[0,0]' AND (lang = 'de' OR year = 2020) ORDER BY "
         "distance LIMIT 2",
         "5 1"},
        {"SELECT id FROM docs WHERE e MATCH '[0,0]' AND NOT (lang = 'fr') ORDER BY distance LIMIT "
         "2",
         "1 2"},
        {"SELECT id FROM docs WHERE e MATCH '[0,0]' AND lang LIKE 'D%' ORDER BY distance LIMIT 1",
         "2"},
        {"SELECT id FROM docs WHERE e MATCH '[0,0]' AND lang = 'DE' COLLATE NOCASE ORDER BY "
         "distance LIMIT 1",
         "2"},
        {"SELECT id FROM docs WHERE e MATCH '[0,0]' AND length(body) = 3 ORDER BY distance LIMIT 1 "
         "OFFSET 1",
         "2"},
        {"SELECT id FROM docs WHERE e MATCH '[0,0]' AND body = 'two' ORDER BY distance LIMIT 1",
         "2"},
        {"SELECT id FROM docs WHERE e MATCH '[0,0]' AND year + 1 = 2022 ORDER BY distance LIMIT 1",
         "2"},
        {"SELECT id FROM docs WHERE e MATCH '[0,0]' AND EXISTS (SELECT 1 FROM docs o WHERE o.year "
         "= docs.year AND o.id <> docs.id) ORDER BY distance LIMIT 2",
         "5 1"},
        {"SELECT id FROM docs WHERE e MATCH '[0,0]' AND lang NOT IN ('fr') ORDER BY distance LIMIT "
         "1",
         "1"},
        {"SELECT id FROM docs WHERE e MATCH '[0,0]' AND year IS NOT 2020 ORDER BY distance LIMIT 2",
         "3 2"},
        {"SELECT id FROM docs WHERE e MATCH '[0,0]' AND lang GLOB '*e' ORDER BY distance LIMIT 1",
         "2"},
        {"SELECT id FROM docs WHERE e MATCH '[0,0]' AND (lang IS NULL OR lang = 'de') ORDER BY "
         "distance",
         "3 2"},
        {"SELECT id FROM docs WHERE e MATCH '[0,0]' AND lang = 'en' AND length(body) = 3 LIMIT 1",
         "1"},
        {"SELECT id FROM docs WHERE e MATCH '[0,0]' AND NOT json_contains(tags, 'x') ORDER BY "
         "distance LIMIT 1",
         "2"},
        {"SELECT id FROM docs WHERE e MATCH '[0,0]' AND k = 2 AND (lang = 'fr' OR year = 2021)",
         "5"}, /* counted before */
        {"SELECT id FROM docs WHERE e MATCH '[0,0]' AND (id = 1 OR (id = 2 AND lang = 'de')) ORDER "
         "BY id",
         "1 2"},
        {"SELECT id FROM docs WHERE e MATCH '[0,0]' AND (id = 1 OR (id = 2 AND lang = 'de'))",
         "1 2"},
        {"SELECT id FROM docs WHERE e MATCH '[0,0]' AND (id = 1 OR id = 2) ORDER BY id DESC",
         "2 1"},
        {"SELECT id FROM docs WHERE e MATCH '[0,0]' AND k = 4 AND (id = 1 OR (id = 2 AND lang = "
         "'de')) ORDER BY id",
         "1 2"},
        {"SELECT id FROM docs WHERE e MATCH '[0,0]' AND k = 1 AND lang LIKE 'd%'", "!lang&LIMIT"},
        {"SELECT id FROM docs WHERE e MATCH '[0,0]' AND k = 1 AND lang = 'DE' COLLATE NOCASE",
         "!lang&LIMIT"},
        {"SELECT id FROM docs WHERE e MATCH '[0,0]' AND k = 1 AND body = 'two'", "!body&LIMIT"},
    };
    STEPS(db, steps);
    steps_close(db);
}

TEST(queries_come_from_tables)
{
    sqlite3 *db = with_docs();
    static const struct step steps[] = {
        {"CREATE TABLE q(n INTEGER PRIMARY KEY, v, many)", ""},
        {"INSERT INTO q VALUES (1, '[0,0]', 1), (2, '[6,8]', 2), (3, NULL, 2)", ""},
        {"SELECT n, id FROM q, docs WHERE e MATCH q.v AND k = 2", "1|3 1|5 2|2 2|1"},
        {"SELECT n, id FROM docs, q WHERE e MATCH q.v AND k = 2", "1|3 1|5 2|2 2|1"},
        {"SELECT n, id FROM q JOIN docs ON e MATCH q.v AND k = q.many", "1|3 2|2 2|1"},
        {"SELECT n, id FROM q LEFT JOIN docs ON e MATCH q.v AND k = 1 ORDER BY n",
         "1|3 2|2 3|NULL"},
        {"SELECT n, (SELECT id FROM docs WHERE e MATCH q.v AND k = 1) FROM q", "1|3 2|2 3|NULL"},
        {"SELECT n, id, distance FROM q, docs WHERE e MATCH v AND distance < 5 ORDER BY n, "
         "distance",
         "1|3|1 1|5|2 2|2|0"},
        {"WITH w(v) AS (VALUES ('[0,0]'), ('[6,8]')) SELECT id FROM w, docs WHERE e MATCH w.v AND "
         "k = 1",
         "3 2"},
        {"WITH near AS (SELECT id, distance FROM docs WHERE e MATCH '[0,0]' AND k = 3) SELECT "
         "d.id, body FROM near JOIN docs d USING (id) ORDER BY near.distance",
         "3|three 5|NULL 1|one"},
        {"WITH near AS MATERIALIZED (SELECT id, lang, distance FROM docs WHERE e MATCH '[0,0]' AND "
         "k = 4) SELECT lang, min(distance) FROM near GROUP BY lang ORDER BY 2",
         "NULL|1 fr|2 en|5 de|10"},
        {"SELECT docs.id FROM docs, q WHERE e MATCH '[0,0]' AND k = 3 AND q.n = docs.id", "3 1"},
        {"SELECT docs.id FROM docs JOIN q ON q.n = docs.id WHERE e MATCH '[0,0]' ORDER BY distance",
         "3 1 2"},
        {"SELECT id FROM docs WHERE e MATCH (SELECT e FROM docs WHERE id = 2) AND k = 2", "2 1"},
        {"SELECT a.id, b.id FROM docs a, docs b WHERE a.lang = 'en' AND b.e MATCH a.e AND b.k = 1",
         "1|1"},
        {"SELECT id FROM docs WHERE e MATCH '[0,0]' AND k = 1 UNION ALL SELECT id FROM docs WHERE "
         "e MATCH '[6,8]' AND k = 1",
         "3 2"},
        {"SELECT id FROM docs WHERE id IN (SELECT id FROM docs WHERE e MATCH '[0,0]' AND k = 2) "
         "AND "
         "lang IS NULL",
         "3"},
        {"SELECT q.n, id FROM docs JOIN q ON q.n = docs.id WHERE e MATCH '[0,0]' AND k = 2", "3|3"},
        {"SELECT q.n, id FROM docs JOIN q ON q.n = docs.id WHERE e MATCH '[0,0]' AND k = 2 AND q.n "
         "< 3",
         ""},
        {"SELECT q.n, id FROM q JOIN docs ON q.n = docs.id WHERE e MATCH '[0,0]' AND k = 2 AND q.n "
         "< 3",
         ""},
        {"CREATE VIEW near AS SELECT id, distance FROM docs WHERE e MATCH '[0,0]' AND k = 2", ""},
        {"SELECT * FROM near", "3|1 5|2"},
        {"CREATE TABLE kept AS SELECT id, distance FROM docs WHERE e MATCH '[0,0]' AND k = 2", ""},
        {"SELECT * FROM kept", "3|1 5|2"},
    };
    STEPS(db, steps);
    steps_close(db);
}

TEST(plans_are_told)
{
    sqlite3 *db = with_docs();
    static const struct step steps[] = {
        {"EXPLAIN QUERY PLAN SELECT id FROM docs WHERE e MATCH '[0,0]' AND k = 1 AND lang = 'de' "
         "AND year < 3 AND json_contains(tags, 1) AND id IN (1, 2)",
         "~nearest by e&k&lang =&year <&tags contains&id IN"},
        {"EXPLAIN QUERY PLAN SELECT id FROM docs WHERE e MATCH '[0,0]' ORDER BY distance LIMIT 1",
         "~nearest by e"},
        {"EXPLAIN QUERY PLAN SELECT id FROM docs WHERE lang = 'de'", "~lang ="},
        {"EXPLAIN QUERY PLAN SELECT id FROM docs", "~all rows"},
        {"EXPLAIN QUERY PLAN SELECT id FROM docs WHERE id = 1", "~id ="},
    };
    STEPS(db, steps);
    /* Distances come in order: SQLite need not sort. */
    CHECK(!strstr(steps_ask(db, "EXPLAIN QUERY PLAN SELECT id FROM docs WHERE e MATCH '[0,0]' "
                                "ORDER BY distance LIMIT 1"),
                  "TEMP B-TREE"));
    steps_close(db);
}

TEST(rows_are_read_like_a_table)
{
    sqlite3 *db = with_docs();
    static const struct step steps[] = {
        {"SELECT id FROM docs WHERE lang = 'en'", "1 4"},
        {"SELECT id FROM docs WHERE lang = 'en' OR year = 2021 ORDER BY id", "1 2 4"},
        {"SELECT id FROM docs WHERE body LIKE 't%'", "2 3"},
        {"SELECT id FROM docs WHERE body = 'two'", "2"},
        {"SELECT id FROM docs WHERE year IN (2020, 2022) ORDER BY id", "1 4 5"},
        {"SELECT id FROM docs WHERE json_contains(tags, 'x')", "1 5"},
        {"SELECT id FROM docs WHERE tags IS NULL", "3"},
        {"SELECT id FROM docs WHERE id IN (5, 1) ORDER BY id", "1 5"},
        {"SELECT id FROM docs WHERE id BETWEEN 2 AND 3", "2 3"},
        {"SELECT id FROM docs WHERE rowid = 3", "3"},
        {"SELECT id FROM docs WHERE e IS NULL", "4"},
        {"SELECT id FROM docs WHERE e = x'0000404000008040'", "1"},
        {"SELECT typeof(e), length(e), typeof(lang), typeof(year), typeof(price) FROM docs WHERE "
         "id "
         "= 1",
         "blob|8|text|integer|real"},
        {"SELECT id FROM docs ORDER BY price DESC, id LIMIT 2", "3 1"},
        {"SELECT count(*), sum(year) FROM docs", "5|8083"},
        {"SELECT lang, count(*) FROM docs GROUP BY lang ORDER BY lang", "NULL|1 de|1 en|2 fr|1"},
        {"SELECT * FROM docs WHERE id = 3", "3|x'000000000000803F'|NULL|NULL|2|NULL|three"},
        {"SELECT id FROM docs WHERE lang = 'EN' COLLATE NOCASE", "1 4"},
        {"SELECT id FROM docs WHERE year = '2021'", "2"},
        {"SELECT id FROM docs WHERE lang > 'e' AND lang < 'f'", "1 4"},
        {"SELECT a.id, b.id FROM docs a JOIN docs b ON a.year = b.year AND a.id < b.id", "1|5"},
        {"SELECT id FROM docs LIMIT 2 OFFSET 2", "3 4"},
        {"SELECT id FROM docs WHERE k = 3", "!k&MATCH"},
        {"SELECT id FROM docs WHERE distance < 3", "!distance&MATCH"},
    };
    STEPS(db, steps);
    steps_close(db);
}

TEST(rows_are_changed_like_a_table)
{
    sqlite3 *db = with_docs();
    static const struct step steps[] = {
        {"UPDATE docs SET year = 1 WHERE lang = 'en'", ""},
        {"SELECT changes()", "2"},
        {"SELECT id, year, e IS NULL FROM docs WHERE year = 1", "1|1|0 4|1|1"},
        {"UPDATE docs SET e = '[1,0]' WHERE id = 2", ""},
        {"SELECT id, distance FROM docs WHERE e MATCH '[0,0]' AND k = 9", "2|1 3|1 5|2 1|5"},
        {"UPDATE docs SET e = NULL, lang = 'xx' WHERE id = 2", ""},
        {"SELECT id, distance FROM docs WHERE e MATCH '[0,0]' AND k = 9", "3|1 5|2 1|5"},
        {"UPDATE docs SET id = 20 WHERE id = 3", ""},
        {"SELECT id, distance FROM docs WHERE e MATCH '[0,0]' AND k = 9", "20|1 5|2 1|5"},
        {"UPDATE docs SET rowid = 21 WHERE id = 20", ""},
        {"SELECT id, body FROM docs WHERE id >= 20", "21|three"},
        {"UPDATE docs SET id = 3, year = 7, e = '[0,3]' WHERE id = 21", ""},
        {"SELECT id, year, distance FROM docs WHERE e MATCH '[0,0]' AND k = 9",
         "5|2020|2 3|7|3 1|1|5"},
        {"UPDATE docs SET id = 1 WHERE id = 3", "!UNIQUE&docs.id"},
        {"UPDATE OR IGNORE docs SET id = 1 WHERE id = 3", ""},
        {"UPDATE docs SET id = 'x' WHERE id = 3", "!datatype mismatch"},
        {"UPDATE docs SET id = id + 100", ""},
        {"SELECT id FROM docs", "101 102 103 104 105"},
        {"SELECT id FROM docs WHERE e MATCH '[0,0]' AND k = 9", "105 103 101"},
        {"UPDATE docs SET id = id - 100", ""},
        {"UPDATE OR REPLACE docs SET id = 1 WHERE id = 3", ""},
        {"SELECT id, body FROM docs WHERE e MATCH '[0,0]' AND k = 9", "5|NULL 1|three"},
        {"DELETE FROM docs WHERE id = 1", ""},
        {"DELETE FROM docs WHERE e MATCH '[0,0]' AND k = 1", ""},
        {"SELECT id FROM docs", "2 4"},
        {"INSERT INTO docs(e) VALUES ('[9,9]')", ""},
        {"SELECT last_insert_rowid(), max(id) FROM docs", "5|5"},
        {"INSERT INTO docs(rowid, e) VALUES (50, '[9,8]')", ""},
        {"INSERT OR REPLACE INTO docs(id, e, lang) VALUES (50, '[0,0]', 'q')", ""},
        {"SELECT id, lang, distance FROM docs WHERE e MATCH '[0,0]' AND k = 1", "50|q|0"},
        {"REPLACE INTO docs(id, lang) VALUES (50, 'r')", ""},
        {"SELECT id, lang, e FROM docs WHERE id = 50", "50|r|NULL"},
        {"INSERT OR IGNORE INTO docs(id, lang) VALUES (50, 's'), (51, 't')", ""},
        {"SELECT id, lang FROM docs WHERE id >= 50", "50|r 51|t"},
        {"INSERT INTO docs(id, lang) SELECT id + 100, 'copy' FROM docs", ""},
        {"SELECT count(*) FROM docs WHERE lang = 'copy'", "5"},
        {"DELETE FROM docs", ""},
        {"SELECT count(*) FROM docs", "0"},
        {"SELECT count(*) FROM docs WHERE e MATCH '[0,0]' AND k = 9", "0"},
        {"INSERT INTO docs(id, e) VALUES (-9223372036854775807, '[1,0]'), (9223372036854775807, "
         "'[2,0]')",
         ""},
        {"SELECT id FROM docs WHERE e MATCH '[0,0]' AND k = 9",
         "-9223372036854775807 9223372036854775807"},
        {"INSERT INTO docs(id, e) VALUES ('7', '[3,0]'), (8.0, '[4,0]')", ""},
        {"INSERT INTO docs(id, e) VALUES (8.5, '[4,0]')", "!datatype mismatch"},
        {"SELECT id FROM docs WHERE e MATCH '[0,0]' AND k = 9 AND distance > 2", "7 8"},
        {"SELECT mneme_verify()", "ok"},
    };
    STEPS(db, steps);
    steps_close(db);
}

/* A search's rows are all known before the first is changed. */
TEST(searches_change_what_they_find)
{
    sqlite3 *db = steps_open(test_path("app.db"));
    STEP(db, docs, "");
    STEP(db,
         "WITH RECURSIVE c(x) AS (VALUES (1) UNION ALL SELECT x + 1 FROM c WHERE x < 500) "
         "INSERT INTO docs(id, e, year) SELECT x, '[' || x || ',0]', x FROM c",
         "");
    static const struct step steps[] = {
        {"UPDATE docs SET e = '[1000,0]' WHERE e MATCH '[0,0]' AND distance <= 300", ""},
        {"SELECT changes()", "300"},
        {"SELECT count(*) FROM docs WHERE e MATCH '[1000,0]' AND distance = 0", "300"},
        {"DELETE FROM docs WHERE e MATCH '[1000,0]' AND distance <= 0", ""},
        {"SELECT changes(), count(*), min(id) FROM docs", "300|200|301"},
        {"INSERT INTO docs(e, year) SELECT e, year FROM docs WHERE e MATCH '[0,0]'", ""},
        {"SELECT count(*) FROM docs", "400"},
        {"UPDATE docs SET year = 0 WHERE e MATCH '[0,0]' AND year % 2 = 0", ""},
        {"SELECT count(*) FROM docs WHERE year = 0", "200"},
        {"SELECT mneme_verify()", "ok"},
    };
    STEPS(db, steps);
    steps_close(db);
}

TEST(constraints_hold)
{
    sqlite3 *db = steps_open(test_path("app.db"));
    static const struct step steps[] = {
        {"CREATE VIRTUAL TABLE t USING mneme(id INTEGER PRIMARY KEY, e float[2], u TEXT UNIQUE, n "
         "INTEGER NOT NULL, tenant TEXT PARTITION KEY)",
         ""},
        {"INSERT INTO t(id, e, u, n, tenant) VALUES (1, '[1,0]', 'a', 1, 'p'), (2, '[2,0]', 'b', "
         "2, "
         "'q'), (3, '[3,0]', NULL, 3, 'p')",
         ""},
        {"INSERT INTO t(id, e, u, n) VALUES (4, '[1,1]', 'c', 1), (5, '[1,1]', 'a', 1)",
         "!UNIQUE&t.u"},
        {"INSERT INTO t(id, e, u, n) VALUES (4, '[1,1]', 'c', 1), (5, '[1,1]', 'd', NULL)",
         "!NOT NULL&t.n"},
        {"INSERT INTO t(id, e, u, n) VALUES (4, '[1,1]', 'c', 1), (5, '[1]', 'd', 1)", "!t.e&1"},
        {"SELECT count(*) FROM t", "3"},
        {"UPDATE t SET u = 'a'", "!UNIQUE&t.u"},
        {"UPDATE t SET n = NULL WHERE id = 2", "!NOT NULL&t.n"},
        {"UPDATE t SET n = n + 1, u = CASE id WHEN 3 THEN 'b' ELSE u END", "!UNIQUE&t.u"},
        {"SELECT id, u, n FROM t", "1|a|1 2|b|2 3|NULL|3"},
        {"UPDATE OR IGNORE t SET u = 'a' WHERE id >= 2", ""},
        {"UPDATE OR REPLACE t SET u = 'a' WHERE id = 2", ""},
        {"SELECT id, u FROM t", "2|a 3|NULL"},
        {"INSERT OR REPLACE INTO t(id, e, u, n) VALUES (9, '[9,0]', 'a', 9)", ""},
        {"SELECT id, distance FROM t WHERE e MATCH '[0,0]' AND k = 9", "3|3 9|9"},
        {"INSERT OR FAIL INTO t(id, u, n) VALUES (10, 'x', 1), (11, 'x', 1), (12, 'y', 1)",
         "!UNIQUE"},
        {"SELECT id FROM t", "3 9 10"},
        {"BEGIN", ""},
        {"INSERT OR ROLLBACK INTO t(id, u, n) VALUES (20, 'z', 1), (21, 'z', 1)", "!UNIQUE"},
        {"COMMIT", "!no transaction"},
        {"SELECT id FROM t", "3 9 10"},
        {"SELECT id FROM t WHERE e MATCH '[0,0]' AND k = 9 AND tenant = 'p'", "3"},
        {"SELECT id FROM t WHERE tenant = 'p'", "3"},
        {"SELECT mneme_verify()", "ok"},
    };
    STEPS(db, steps);
    steps_close(db);
}

TEST(rows_are_there_until_their_time)
{
    sqlite3 *db = steps_open(test_path("app.db"));
    static const struct step steps[] = {
        {"CREATE VIRTUAL TABLE t USING mneme(id INTEGER PRIMARY KEY, e float[2], until INTEGER "
         "TTL, lang TEXT)",
         ""},
        {"INSERT INTO t(id, e, until, lang) VALUES (1, '[1,0]', 1, 'en'), (2, '[2,0]', unixepoch() "
         "+ 1000, 'en'), (3, '[3,0]', NULL, 'de'), (4, '[4,0]', unixepoch() - 1, 'de')",
         ""},
        {"SELECT id FROM t", "2 3"},
        {"SELECT count(*) FROM t", "2"},
        {"SELECT id FROM t WHERE id = 1", ""},
        {"SELECT id FROM t WHERE e MATCH '[0,0]' AND k = 1", "2"},
        {"SELECT id FROM t WHERE e MATCH '[0,0]' AND k = 9", "2 3"},
        {"SELECT id FROM t WHERE e MATCH '[0,0]' AND k = 9 AND lang = 'de'", "3"},
        {"SELECT id FROM t WHERE e MATCH '[0,0]' AND distance < 100", "2 3"},
        {"SELECT id FROM t WHERE e MATCH '[0,0]' AND id IN (1, 2) AND k = 9", "2"},
        {"SELECT count(*) FROM t_rows", "4"},
        {"INSERT INTO t(t) VALUES ('expire')", ""},
        {"SELECT id FROM t_rows", "2 3"},
        {"UPDATE t SET until = 5 WHERE id = 2", ""},
        {"SELECT id FROM t WHERE e MATCH '[0,0]' AND k = 1", "3"},
        {"INSERT INTO t(t) VALUES ('vanish')", "!vanish&expire"},
        {"SELECT mneme_verify()", "ok"},
    };
    STEPS(db, steps);
    steps_close(db);
}

TEST(every_type_of_vector_works)
{
    sqlite3 *db = steps_open(test_path("app.db"));
    static const struct {
        const char *type, *metric, *near, *far, *query, *want;
    } types[] = {
        {"float", "l2", "[3,4]", "[6,8]", "[0,0]", "1|5 2|10"},
        {"float32", "cosine", "[1,0]", "[0,2]", "[5,0]", "1|0 2|1"},
        {"f32", "ip", "[3,4]", "[1,1]", "[1,1]", "1|-7 2|-2"},
        {"float16", "l2", "[3,4]", "[6,8]", "[0,0]", "1|5 2|10"},
        {"f16", "cosine", "[1,0]", "[0,2]", "[5,0]", "1|0 2|1"},
        {"f16", "ip", "[3,4]", "[1,1]", "[1,1]", "1|-7 2|-2"},
        {"bfloat16", "l2", "[3,4]", "[6,8]", "[0,0]", "1|5 2|10"},
        {"bf16", "cosine", "[1,0]", "[0,2]", "[5,0]", "1|0 2|1"},
        {"bf16", "ip", "[3,4]", "[1,1]", "[1,1]", "1|-7 2|-2"},
        {"int8", "l2", "[3,4]", "[-6,8]", "[0,0]", "1|5 2|10"},
        {"i8", "cosine", "[1,0]", "[0,2]", "[5,0]", "1|0 2|1"},
        {"i8", "ip", "[3,4]", "[1,1]", "[1,1]", "1|-7 2|-2"},
        {"bit", "hamming", "[1,0,0,0,0,0,0,0]", "[1,1,1,0,0,0,0,0]", "[0,0,0,0,0,0,0,0]",
         "1|1 2|3"},
    };
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        char sql[512];
        snprintf(
            sql, sizeof sql,
            "CREATE VIRTUAL TABLE t%zu USING mneme(id INTEGER PRIMARY KEY, e %s[%d] metric=%s);"
            "INSERT INTO t%zu(id, e) VALUES (2, '%s'), (1, '%s'), (3, NULL);",
            i, types[i].type, types[i].type[0] == 'b' && types[i].type[1] == 'i' ? 8 : 2,
            types[i].metric, i, types[i].far, types[i].near);
        STEP(db, sql, "");
        snprintf(sql, sizeof sql, "SELECT id, distance FROM t%zu WHERE e MATCH '%s' AND k = 5", i,
                 types[i].query);
        STEP(db, sql, types[i].want);
        snprintf(sql, sizeof sql, "SELECT rowid, distance FROM knn('t%zu', '%s', 5)", i,
                 types[i].query);
        STEP(db, sql, types[i].want);
        /* What comes out goes in. */
        snprintf(sql, sizeof sql,
                 "INSERT INTO t%zu(id, e) SELECT id + 10, e FROM t%zu WHERE e IS NOT NULL; SELECT "
                 "count(*) FROM t%zu a JOIN t%zu b ON a.e = b.e AND a.id = b.id + 10",
                 i, i, i, i);
        STEP(db, sql, "2");
        snprintf(sql, sizeof sql,
                 "SELECT b.id FROM t%zu a, t%zu b WHERE a.id = 2 AND b.e MATCH a.e AND b.k = 5 AND "
                 "b.id = 12",
                 i, i);
        STEP(db, sql, "12");
    }
    STEP(db, "SELECT mneme_verify()", "ok");
    steps_close(db);
}

TEST(vectors_of_a_column_tell_functions_their_type)
{
    sqlite3 *db = steps_open(test_path("app.db"));
    static const struct step steps[] = {
        {"CREATE VIRTUAL TABLE t USING mneme(id INTEGER PRIMARY KEY, f float[2], h float16[2], b "
         "bfloat16[2], i int8[2], x bit[8])",
         ""},
        {"INSERT INTO t VALUES (1, '[1,2]', '[1,2]', '[1,2]', '[1,2]', '[1,0,0,0,0,0,0,1]')", ""},
        {"SELECT vec_type(f), vec_type(h), vec_type(b), vec_type(i), vec_type(x) FROM t",
         "float32|float16|bfloat16|int8|bit"},
        {"SELECT vec_to_json(f), vec_to_json(h), vec_to_json(i) FROM t",
         "[1.000000,2.000000]|[1,2]|[1,2]"},
        {"SELECT id, distance FROM t WHERE h MATCH '[1,2]' AND k = 1", "1|0"},
        {"SELECT id, distance FROM t WHERE b MATCH '[1,2]' AND k = 1", "1|0"},
        {"SELECT id, distance FROM t WHERE i MATCH '[1,3]' AND k = 1", "1|1"},
        {"SELECT id, distance FROM t WHERE x MATCH '[1,0,0,0,0,0,0,0]' AND k = 1", "1|1"},
        {"SELECT id, vec_distance_l2(f, '[1,0]') FROM t", "1|2"},
    };
    STEPS(db, steps);
    steps_close(db);
}

TEST(several_vector_columns_search_apart)
{
    sqlite3 *db = steps_open(test_path("app.db"));
    static const struct step steps[] = {
        {"CREATE VIRTUAL TABLE t USING mneme(id INTEGER PRIMARY KEY, title float[2], body int8[3] "
         "metric=ip, lang TEXT)",
         ""},
        {"INSERT INTO t(id, title, body, lang) VALUES (1, '[1,0]', '[1,1,1]', 'en'), (2, NULL, "
         "'[2,2,2]', 'en'), (3, '[3,0]', NULL, 'de')",
         ""},
        {"SELECT id, distance FROM t WHERE title MATCH '[0,0]' AND k = 9", "1|1 3|3"},
        {"SELECT id, distance FROM t WHERE body MATCH '[1,1,1]' AND k = 9", "2|-6 1|-3"},
        {"SELECT id, distance FROM t WHERE body MATCH '[1,1,1]' AND k = 1 AND id <> 2", "1|-3"},
        {"SELECT id FROM knn('t.body', '[1,1,1]', 9)", "2 1"},
        {"SELECT id FROM knn('t', '[0,0]', 9)", "1 3"},
        {"UPDATE t SET title = '[0,0]' WHERE id = 2", ""},
        {"SELECT id FROM t WHERE title MATCH '[0,0]' AND k = 9", "2 1 3"},
        {"SELECT id FROM t WHERE body MATCH '[1,1,1]' AND k = 9", "2 1"},
        {"SELECT id FROM t WHERE title MATCH '[0,0]' AND body MATCH '[1,1,1]'", "!two MATCHes"},
        {"SELECT a.id FROM t a JOIN t b USING (id) WHERE a.title MATCH '[0,0]' AND a.k = 3 AND "
         "b.body MATCH '[1,1,1]' AND b.k = 3",
         "2 1"},
        {"ALTER TABLE t RENAME TO s", ""},
        {"SELECT id FROM s WHERE body MATCH '[1,1,1]' AND k = 9", "2 1"},
        {"SELECT id FROM knn('s.body', '[1,1,1]', 9)", "2 1"},
        {"SELECT mneme_verify()", "ok"},
        {"DROP TABLE s", ""},
        {"SELECT count(*) FROM mneme_collections", "0"},
    };
    STEPS(db, steps);
    steps_close(db);
}

TEST(transactions_are_sqlites)
{
    sqlite3 *db = with_docs();
    static const char near[] = "SELECT id FROM docs WHERE e MATCH '[0,0]' AND k = 9";
    const struct step steps[] = {
        {"BEGIN", ""},
        {"INSERT INTO docs(id, e) VALUES (10, '[0,0]')", ""},
        {near, "10 3 5 1 2"},
        {"SAVEPOINT a", ""},
        {"DELETE FROM docs WHERE id IN (3, 5)", ""},
        {near, "10 1 2"},
        {"SAVEPOINT b", ""},
        {"UPDATE docs SET e = '[0,0]' WHERE id = 2", ""},
        {near, "2 10 1"},
        {"INSERT INTO docs(id, e) VALUES (11, '[0,0]'), (1, '[0,0]')", "!UNIQUE"},
        {near, "2 10 1"},
        {"ROLLBACK TO b", ""},
        {near, "10 1 2"},
        {"RELEASE b", ""},
        {"ROLLBACK TO a", ""},
        {near, "10 3 5 1 2"},
        {"ROLLBACK", ""},
        {near, "3 5 1 2"},
        {"SAVEPOINT only", ""},
        {"DELETE FROM docs WHERE id = 3", ""},
        {"RELEASE only", ""},
        {near, "5 1 2"},
        {"BEGIN; INSERT INTO docs(id, e) VALUES (20, '[0,1]'); COMMIT", ""},
        {near, "20 5 1 2"},
        {"BEGIN; CREATE VIRTUAL TABLE other USING mneme(e float[2]); INSERT INTO other(e) VALUES "
         "('[1,1]'); SELECT id FROM other WHERE e MATCH '[0,0]' AND k = 1; ROLLBACK",
         "1"},
        {"SELECT * FROM other", "!no such table"},
        {"SELECT count(*) FROM mneme_collections", "1"},
        {"BEGIN; DROP TABLE docs; SELECT count(*) FROM mneme_collections; ROLLBACK", "0"},
        {near, "20 5 1 2"},
        {"BEGIN; ALTER TABLE docs RENAME TO papers; SELECT id FROM papers WHERE e MATCH '[0,0]' "
         "AND "
         "k = 1; ROLLBACK",
         "20"},
        {near, "20 5 1 2"},
        {"SELECT mneme_verify()", "ok"},
    };
    STEPS(db, steps);
    steps_close(db);
}

TEST(tables_are_renamed_and_dropped)
{
    sqlite3 *db = steps_open(test_path("app.db"));
    static const struct step steps[] = {
        {"CREATE VIRTUAL TABLE a USING mneme(id INTEGER PRIMARY KEY, e float[2], u TEXT UNIQUE, "
         "tenant TEXT PARTITION KEY)",
         ""},
        {"INSERT INTO a(id, e, u, tenant) VALUES (1, '[1,0]', 'u', 't')", ""},
        {"CREATE TRIGGER shown AFTER DELETE ON a_rows BEGIN SELECT 1; END", ""},
        {"CREATE VIEW seen AS SELECT id FROM a", ""},
        {"ALTER TABLE a RENAME TO b", ""},
        {"SELECT id FROM seen", "1"},
        {"SELECT * FROM a", "!no such table"},
        {"SELECT id FROM b WHERE e MATCH '[0,0]' AND k = 1", "1"},
        {"INSERT OR REPLACE INTO b(id, e, u) VALUES (2, '[2,0]', 'u')", ""},
        {"SELECT id FROM b WHERE e MATCH '[0,0]' AND k = 9", "2"},
        {"CREATE VIRTUAL TABLE a USING mneme(id INTEGER PRIMARY KEY, e float[3], tenant TEXT "
         "PARTITION KEY)",
         ""},
        {"INSERT INTO a(id, e) VALUES (7, '[1,0,0]')", ""},
        {"SELECT id FROM a WHERE e MATCH '[0,0,0]' AND k = 1", "7"},
        {"SELECT id FROM b WHERE e MATCH '[0,0]' AND k = 1", "2"},
        {"ALTER TABLE a RENAME TO b", "!already another table"},
        {"CREATE TABLE c_rows(x)", ""},
        {"ALTER TABLE a RENAME TO c", "!c_rows"},
        {"SELECT id FROM a WHERE e MATCH '[0,0,0]' AND k = 1", "7"},
        {"ALTER TABLE a RENAME TO A", "!already another table"}, /* so does a plain one */
        {"SELECT id FROM a WHERE e MATCH '[0,0,0]' AND k = 1", "7"},
        {"ALTER TABLE b RENAME TO \"a\"\"c\"", "!a quote"},
        {"ALTER TABLE b RENAME TO \"a b\"", ""},
        {"SELECT id FROM \"a b\" WHERE e MATCH '[0,0]' AND k = 1", "2"},
        {"INSERT OR REPLACE INTO \"a b\"(id, e, u) VALUES (3, '[3,0]', 'u')", ""},
        {"SELECT id FROM \"a b\" WHERE e MATCH '[0,0]' AND k = 9", "3"},
        {"SELECT mneme_verify()", "ok"},
        {"ALTER TABLE a ADD COLUMN z", "!virtual"},
        {"DROP VIEW seen", ""},
        {"DROP TABLE a", ""},
        {"DROP TABLE \"a b\"", ""},
        {"SELECT name FROM sqlite_master WHERE name NOT LIKE 'mneme%' AND name NOT LIKE 'sqlite%'",
         "c_rows"},
        {"SELECT count(*) FROM sqlite_master WHERE type = 'trigger' OR name LIKE 'mneme_log_%'",
         "0"},
        {"SELECT count(*) FROM mneme_collections", "0"},
        {"SELECT mneme_verify()", "ok"},
    };
    STEPS(db, steps);
    steps_close(db);
}

/* They work on a connection of their own, and would wait for the one that called them. */
TEST(functions_that_commit_do_not_wait_for_their_caller)
{
    static const struct step steps[] = {
        {"CREATE VIRTUAL TABLE d USING mneme(e float[2])", ""},
        {"BEGIN; INSERT INTO d(id, e) VALUES (1, '[1,0]')", ""},
        {"SELECT mneme_fold('d')", "!has written&COMMIT first"},
        {"SELECT mneme_rebuild('d')", "!has written&COMMIT first"},
        {"SELECT mneme_compact()", "!has written&COMMIT first"},
        {"COMMIT; SELECT mneme_fold('d')", "0"},
    };
    sqlite3 *db = steps_open(test_path("app.db"));
    STEPS(db, steps);
    steps_close(db);
}

TEST(a_table_is_there_after_reopening)
{
    sqlite3 *db = with_docs();
    steps_close(db);
    for (int i = 0; i < 3; i++) {
        db = steps_open(test_path("app.db"));
        static const struct step steps[] = {
            {"SELECT id, distance, lang FROM docs WHERE e MATCH '[0,0]' AND k = 2 AND year = 2020",
             "5|2|fr 1|5|en"},
            {"UPDATE docs SET body = 'again' WHERE id = 1", ""},
        };
        STEPS(db, steps);
        steps_close(db);
    }
    /* Without the extension the rows are a plain table's. */
    db = steps_open_plain(test_path("app.db"));
    static const struct step plain[] = {
        {"SELECT id, body FROM docs_rows WHERE id = 1", "1|again"},
        {"SELECT * FROM docs", "!no such module: mneme"},
        {"INSERT INTO docs_rows(id, e, lang) VALUES (6, x'0000000000000000', 'pl')", ""},
        {"DELETE FROM docs_rows WHERE id = 3", ""},
        {"INSERT INTO docs_rows(id, e) VALUES (7, 'text')", "!CHECK"},
    };
    STEPS(db, plain);
    steps_close(db);
    db = steps_open(test_path("app.db"));
    STEP(db, "SELECT id FROM docs WHERE e MATCH '[0,0]' AND k = 9", "6 5 1 2");
    STEP(db, "SELECT mneme_verify()", "ok");
    steps_close(db);
}

/* Other connections of the program see commits, and not before. */
/* The statement that inserts then holds the table, which keeps the statement. */
TEST(a_trigger_on_the_rows_may_ask_the_table)
{
    static const struct step steps[] = {
        {"CREATE VIRTUAL TABLE d USING mneme(e float[2]); CREATE TABLE near(id, of)", ""},
        {"CREATE TRIGGER asks AFTER INSERT ON d_rows BEGIN INSERT INTO near "
         "SELECT id, new.id FROM d WHERE e MATCH new.e AND k = 2 AND id <> new.id; END",
         ""},
        {"INSERT INTO d(id, e) VALUES (1, '[1,0]'), (2, '[0,1]'), (3, '[1,1]')", ""},
        {"UPDATE d SET e = '[0,0]' WHERE id = 3; DELETE FROM d WHERE id = 2", ""},
        {"SELECT of, id FROM near ORDER BY of, id", "2|1 3|1 3|2"},
    };
    for (int rolled_back = 0; rolled_back < 2; rolled_back++) {
        const char *path = test_path(rolled_back ? "db" : "other");
        sqlite3 *db = steps_open(path);
        STEPS(db, steps);
        steps_close(db);
        db = steps_open(path);
        STEP(db, "BEGIN; INSERT INTO d(id, e) VALUES (4, '[5,5]')", "");
        STEP(db, rolled_back ? "ROLLBACK" : "COMMIT", "");
        STEP(db, "SELECT count(*) FROM near WHERE of = 4", rolled_back ? "0" : "2");
        steps_close(db);
        db = steps_open(path);
        STEP(db, "INSERT INTO d(id, e) VALUES (5, '[5,6]'); DROP TABLE d", "");
        steps_close(db);
    }
}

static int count_commit(void *n)
{
    ++*(int *)n;
    return 0;
}

/* There SQLite would commit each statement of the function by itself. */
TEST(functions_called_for_rows_of_a_table_are_one_transaction)
{
    sqlite3 *db = steps_open(test_path("app.db"));
    int commits = 0;
    STEP(db, "SELECT mneme_open('background=off')", "ok");
    STEP(db, "CREATE TABLE o(id INTEGER PRIMARY KEY, v); INSERT INTO o VALUES (1, '[1,2]')", "");
    STEP(db, "SELECT mneme_index('o', 'v', 'name=first')", "~1 vectors");
    STEP(db, "CREATE TABLE one(x); INSERT INTO one VALUES (1)", "");
    sqlite3_commit_hook(db, count_commit, &commits);
    STEP(db, "SELECT mneme_index('o', 'v', 'name=o') FROM one", "~1 vectors");
    CHECK_EQ(commits, 1);
    STEP(db, "SELECT id FROM knn('o', '[1,2]', 1)", "1");
    STEP(db, "BEGIN; SELECT mneme_index('o', 'v', 'name=third') FROM one; ROLLBACK", "~1 vectors");
    STEP(db, "SELECT id FROM knn('third', '[1,2]', 1)", "!no collection 'third'");
    STEP(db, "CREATE TABLE said(x); INSERT INTO said SELECT mneme_index('o', 'v', 'name=fourth')",
         "");
    STEP(db, "SELECT id FROM knn('fourth', '[1,2]', 1)", "1");
    /* SQLite drops no table while a statement reads: then nothing is dropped. */
    STEP(db, "SELECT mneme_unindex('o')", "3");
    STEP(db, "SELECT mneme_index('o', 'v')", "~1 vectors");
    STEP(db, "SELECT mneme_unindex('o') FROM one", "!locked&of this connection");
    STEP(db, "SELECT id FROM knn('o', '[1,2]', 1)", "1");
    STEP(db, "SELECT mneme_verify()", "ok");
    sqlite3_commit_hook(db, NULL, NULL);
    steps_close(db);
}

TEST(connections_that_only_read_keep_nobody_from_writing)
{
    char uri[600];
    const char *path = test_path("app.db");
    static const struct step steps[] = {
        {"INSERT INTO d(id, e) VALUES (3, '[1,1]')", ""},
        {"SELECT mneme_fold('d')", "0"},
        {"CREATE TABLE o(id INTEGER PRIMARY KEY, v); INSERT INTO o VALUES (7, '[1,2]')", ""},
        {"SELECT mneme_index('o', 'v')", "~1 vectors"},
    };
    sqlite3 *db = steps_open(path);
    STEP(db, "CREATE VIRTUAL TABLE d USING mneme(e float[2])", "");
    STEP(db, "INSERT INTO d(id, e) VALUES (1, '[1,0]'), (2, '[0,1]')", "");
    steps_close(db);
    snprintf(uri, sizeof uri, "file:%s?mode=ro", path);
    sqlite3 *reader = steps_open(uri);
    STEP(reader, "SELECT id FROM d WHERE e MATCH '[0,1]' AND k = 1", "2");
    db = steps_open(path);
    STEPS(db, steps);
    STEP(reader, "SELECT id FROM d WHERE e MATCH '[1,1]' AND k = 1", "3");
    STEP(reader, "SELECT id FROM knn('o', '[1,2]', 1)", "7");
    STEP(reader, "SELECT mneme_fold('d')", "!read-only");
    steps_close(db);
    STEP(reader, "SELECT id FROM d WHERE e MATCH '[1,1]' AND k = 1", "3");
    steps_close(reader);
}

TEST(connections_see_each_others_commits)
{
    sqlite3 *a = with_docs(), *b = steps_open(test_path("app.db"));
    static const char near[] = "SELECT id FROM docs WHERE e MATCH '[0,0]' AND k = 9";
    STEP(b, near, "3 5 1 2");
    STEP(a, "BEGIN; DELETE FROM docs WHERE id = 3", "");
    STEP(b, near, "3 5 1 2");
    STEP(a, near, "5 1 2");
    STEP(b, "BEGIN", "");
    STEP(b, near, "3 5 1 2");
    STEP(a, "COMMIT", "");
    STEP(b, near, "3 5 1 2");
    STEP(b, "COMMIT", "");
    STEP(b, near, "5 1 2");
    STEP(a, "ALTER TABLE docs RENAME TO papers", "");
    STEP(b, near, "!no such table");
    STEP(b, "SELECT id FROM papers WHERE e MATCH '[0,0]' AND k = 9", "5 1 2");
    STEP(a, "DROP TABLE papers", "");
    STEP(b, "SELECT id FROM papers WHERE e MATCH '[0,0]' AND k = 9", "!no such table");
    STEP(a, "CREATE VIRTUAL TABLE papers USING mneme(id INTEGER PRIMARY KEY, v float[2])", "");
    STEP(a, "INSERT INTO papers VALUES (1, '[1,1]')", "");
    STEP(b, "SELECT id FROM papers WHERE v MATCH '[0,0]' AND k = 9", "1");
    steps_close(a);
    steps_close(b);
}

TEST(sql_and_c_open_each_others_collections)
{
    sqlite3 *db = with_docs();
    mn_db *m;
    mn_conn *conn;
    mn_hit hits[4];
    uint32_t found;
    const float origin[2] = {0, 0}, near[2] = {0, 0.5f};
    const mn_value en = {.type = MN_TEXT, .data = "en", .len = 2};
    const mn_condition where = {"lang", MN_OP_EQ, &en, 1};
    const mn_search_opts opts = {.where = &where, .n_where = 1};
    CHECK_OK(mn_open(test_path("app.db"), NULL, &m, &err), err);
    CHECK_OK(mn_connect(m, &conn, &err), err);
    CHECK_OK(mn_search(conn, "docs", origin, 1, 4, &opts, hits, &found, &err), err);
    CHECK_EQ(found, 1);
    CHECK_EQ(hits[0].id, 1);
    const mn_row row = {.id = 99, .vector = near};
    CHECK_OK(mn_put(conn, "docs", &row, 1, NULL, &err), err);
    STEP(db, "SELECT id, distance FROM docs WHERE e MATCH '[0,0]' AND k = 1", "99|0.5");
    STEP(db, "UPDATE docs SET e = '[9,9]' WHERE id = 99", "");
    CHECK_OK(mn_search(conn, "docs", origin, 1, 4, NULL, hits, &found, &err), err);
    CHECK_EQ(hits[0].id, 3);

    const mn_collection_opts own = {.dim = 2};
    CHECK_OK(mn_create(conn, "ours", &own, &err), err);
    CHECK_OK(mn_add_attribute(conn, "ours", "lang", &err), err);
    const mn_attr attr = {"lang", en};
    const mn_row rows[2] = {{.id = 5, .vector = near, .attrs = &attr, .n_attrs = 1},
                            {.id = 6, .vector = origin}};
    CHECK_OK(mn_put(conn, "ours", rows, 2, NULL, &err), err);
    STEP(db, "SELECT id, distance, rank FROM knn('ours', '[0,0]')", "6|0|1 5|0.5|2");
    STEP(db, "SELECT id FROM knn('ours', '[0,0]', 5, 'lang = ''en''')", "5");
    STEP(db, "SELECT mneme_verify()", "ok");

    const mn_collection_opts texts = {.dim = 2, .id_kind = MN_ID_TEXT};
    CHECK_OK(mn_create(conn, "named", &texts, &err), err);
    const mn_row named[2] = {{.text_id = "b", .vector = near}, {.text_id = "a", .vector = origin}};
    CHECK_OK(mn_put(conn, "named", named, 2, NULL, &err), err);
    STEP(db, "SELECT id, distance FROM knn('named', '[0,0]')", "a|0 b|0.5");
    mn_disconnect(conn);
    CHECK_OK(mn_close(m, &err), err);
    steps_close(db);
}

TEST(names_and_types_may_be_odd)
{
    sqlite3 *db = steps_open(test_path("app.db"));
    static const struct step steps[] = {
        {"CREATE VIRTUAL TABLE \"my docs\" USING mneme(\"the id\" INTEGER PRIMARY KEY, \"my vec\" "
         "float[2], \"select\" TEXT, \"a.b\" VARCHAR(20), `c d` DOUBLE PRECISION, n)",
         ""},
        {"INSERT INTO \"my docs\" VALUES (1, '[1,0]', 's', 't', '2.5', 'n')", ""},
        {"SELECT \"the id\", \"select\", \"a.b\", \"c d\", n FROM \"my docs\" WHERE \"my vec\" "
         "MATCH '[0,0]' AND k = 1 AND \"select\" = 's' AND \"a.b\" = 't' AND \"c d\" = '2.5' AND n "
         "= 'n'",
         "1|s|t|2.5|n"},
        {"SELECT id FROM knn('my docs', '[0,0]', 1, '\"a.b\" = ''t''')", "1"},
        {"UPDATE \"my docs\" SET \"the id\" = 2, \"a.b\" = 'u'", ""},
        {"SELECT * FROM \"my docs\"", "2|x'0000803F00000000'|s|u|2.5|n"},
        {"CREATE VIRTUAL TABLE t USING mneme(e float[2])", ""},
        {"INSERT INTO t(e) VALUES ('[1,1]')", ""},
        {"SELECT id FROM t WHERE e MATCH '[0,0]' AND k = 1", "1"},
        {"CREATE VIRTUAL TABLE \xc3\xa4\xe2\x82\xac USING mneme(\xc3\xb6 float[2], \xc3\xbc TEXT)",
         ""},
        {"INSERT INTO \xc3\xa4\xe2\x82\xac(\xc3\xb6, \xc3\xbc) VALUES ('[1,1]', '\xc3\xbc')", ""},
        {"SELECT \xc3\xbc FROM \xc3\xa4\xe2\x82\xac WHERE \xc3\xb6 MATCH '[0,0]' AND k = 1 AND "
         "\xc3\xbc = '\xc3\xbc'",
         "\xc3\xbc"},
        {"SELECT mneme_verify()", "ok"},
    };
    STEPS(db, steps);
    steps_close(db);
}

/* Every class of value in columns of every affinity, as a plain table has them. */
TEST(attributes_compare_as_in_a_plain_table)
{
    static const char *const values[] = {"NULL",
                                         "1",
                                         "1.0",
                                         "1.5",
                                         "'1'",
                                         "'1.0'",
                                         "'a'",
                                         "''",
                                         "x'31'",
                                         "-0.0",
                                         "9223372036854775807",
                                         "9223372036854775808.0",
                                         "'1e0'",
                                         "' 1'",
                                         "'2020-01-01'"};
    static const char *const ops[] = {"=", "<>", "<", "<=", ">", ">=", "IS"};
    enum { N = sizeof values / sizeof *values, OPS = sizeof ops / sizeof *ops };
    sqlite3 *db = steps_open(test_path("app.db"));
    STEP(db,
         "CREATE VIRTUAL TABLE t USING mneme(id INTEGER PRIMARY KEY, e float[1], i INTEGER, r "
         "REAL, x TEXT, m NUMERIC, b BLOB, n, d DATETIME, j JSON, z BOOLEAN, c STRING)",
         "");
    STEP(db,
         "CREATE TABLE p(id INTEGER PRIMARY KEY, e, i INTEGER, r REAL, x TEXT, m NUMERIC, b "
         "BLOB, n, d DATETIME, j JSON, z BOOLEAN, c STRING)",
         "");
    for (int i = 0; i < N; i++) {
        char sql[512];
        for (int which = 0; which < 2; which++) {
            const char *v = values[i];
            snprintf(sql, sizeof sql,
                     "INSERT INTO %s VALUES (%d, '[%d]', %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
                     which ? "p" : "t", i, i, v, v, v, v, v, v, v, v, v, v);
            STEP(db, sql, "");
        }
    }
    static const char columns[] = "irxmbndjzc";
    for (const char *c = columns; *c; c++) {
        char sql[512], want[1024], got[1024];
        snprintf(sql, sizeof sql, "SELECT group_concat(typeof(%c) || quote(%c), ';') FROM p", *c,
                 *c);
        snprintf(want, sizeof want, "%s", steps_ask(db, sql));
        snprintf(sql, sizeof sql, "SELECT group_concat(typeof(%c) || quote(%c), ';') FROM t", *c,
                 *c);
        STEP(db, sql, want);
        for (int op = 0; op < OPS + 3; op++) {
            for (int i = 0; i < N; i++) {
                char condition[200];
                if (op < OPS)
                    snprintf(condition, sizeof condition, "%c %s %s", *c, ops[op], values[i]);
                else if (op == OPS)
                    snprintf(condition, sizeof condition, "%c IN (%s, 7, '8')", *c, values[i]);
                else if (op == OPS + 1)
                    snprintf(condition, sizeof condition, "%c BETWEEN %s AND 'b'", *c, values[i]);
                else
                    snprintf(condition, sizeof condition,
                             "%c IN (SELECT column1 FROM (VALUES "
                             "(%s)))",
                             *c, values[i]);
                snprintf(sql, sizeof sql,
                         "SELECT group_concat(id) FROM (SELECT id FROM p WHERE %s "
                         "ORDER BY id)",
                         condition);
                snprintf(want, sizeof want, "%s", steps_ask(db, sql));
                static const char *const reads[] = {
                    "SELECT group_concat(id) FROM (SELECT id FROM t WHERE %s ORDER BY id)",
                    "SELECT group_concat(id) FROM (SELECT id FROM t WHERE e MATCH '[0]' AND k = 99 "
                    "AND %s)",
                    "SELECT group_concat(id) FROM (SELECT id FROM t WHERE e MATCH '[0]' AND (%s OR "
                    "id < 0) ORDER BY distance)"};
                for (size_t q = 0; q < 3; q++) {
                    char read[512];
                    size_t n = strcspn(reads[q], "%");
                    snprintf(read, sizeof read, "%.*s%s%s", (int)n, reads[q], condition,
                             reads[q] + n + 2);
                    snprintf(got, sizeof got, "%s", steps_ask(db, read));
                    CHECKF(strcmp(got, want) == 0, "%s: gives %s, a plain table %s", read, got,
                           want);
                }
                sqlite3_snprintf(sizeof sql, sql,
                                 "SELECT group_concat(id) FROM knn('t', '[0]', 99, "
                                 "%Q)",
                                 condition);
                snprintf(got, sizeof got, "%s", steps_ask(db, sql));
                CHECKF(strcmp(got, want) == 0, "%s: gives %s, a plain table %s", sql, got, want);
            }
        }
    }
    steps_close(db);
}

TEST_MAIN

/* A rowid is column -1, which is also what a function without a score says of that. */
TEST(table_functions_are_sorted_by_rowid_like_any_table)
{
    static const struct step steps[] = {
        {"CREATE VIRTUAL TABLE near USING mneme(e float[3])", ""},
        {"INSERT INTO near(e) VALUES ('[9,9,9]'), ('[1,2,3]'), ('[2,2,3]')", ""},
        {"SELECT id FROM knn('near', '[1,2,3]', 9)", "2 3 1"},
        {"SELECT id FROM knn('near', '[1,2,3]', 9) k ORDER BY k.rowid", "1 2 3"},
        {"SELECT id FROM knn('near', '[1,2,3]', 9) k ORDER BY k.rowid DESC", "3 2 1"},
        {"SELECT id FROM mmr('near', '[1,2,3]', 9, 1.0) m ORDER BY m.rowid DESC", "3 2 1"},
        {"SELECT id FROM hybrid('near', NULL, '[1,2,3]', 9) h ORDER BY h.rowid", "1 2 3"}};
    sqlite3 *db = steps_open(":memory:");
    STEPS(db, steps);
    CHECK(sqlite3_close(db) == SQLITE_OK);
}

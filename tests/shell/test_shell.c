/* The SQL shell without a terminal: one-liners, scripts, output modes, errors, dot commands. */
#include "tests/shell/run_fixture.h"

#include <signal.h>
#include <sqlite3.h>
#include <unistd.h>

static void put_docs(void)
{
    put_text("docs.jsonl",
             "{\"id\":1,\"vector\":[0,0.1],\"text\":\"The harbour.\",\"lang\":\"en\"}\n"
             "{\"id\":2,\"vector\":[0.9,0.2],\"text\":\"Le | port\",\"lang\":\"fr\"}\n"
             "{\"id\":3,\"vector\":[0.1,0.3],\"text\":null,\"lang\":\"en\"}\n");
    run(0, "mneme import app.db docs docs.jsonl");
}

/* Exit code, and words that must appear on stderr. */
static void run_says(int code, const char *command, const char *words)
{
    run(code, command);
    if (!strstr(err, words))
        test_fail(__FILE__, __LINE__, "`%s` says \"%s\", want \"%s\"", command, err, words);
}

/* ---- One-liners and scripts ------------------------------------------------------------------ */

TEST(an_argument_is_a_statement_or_a_dot_command)
{
    run_shows("mneme a.db 'create table t(a, b)' \"insert into t values(1, 'x'), (2, null)\" "
              ".tables 'select * from t'",
              "t\n1|x\n2|\n");
    run_shows("mneme a.db -c 'select 1' -c '.print two words'", "1\ntwo words\n");
    run_shows("mneme -c 'select 1 + 1'", "2\n");
    run_shows("mneme a.db 'select 1; select 2;'", "1\n2\n");
    run_shows("mneme :memory: 'select 3'", "3\n");
}

TEST(a_script_comes_from_a_pipe_or_a_file)
{
    run_shows("printf 'select 1;\\n-- a comment\\n.print x\\nselect\\n 2;' | mneme a.db",
              "1\nx\n2\n");
    put_text("s.sql", "\xEF\xBB\xBF/* two\nlines */ select 'a;b';\r\n.mode json\nselect 1 as n;\n");
    run_shows("mneme a.db -f s.sql", "a;b\n[{\"n\":1}]\n");
    run_shows("mneme a.db -f - <s.sql", "a;b\n[{\"n\":1}]\n");
    run_shows("mneme a.db '.read s.sql'", "a;b\n[{\"n\":1}]\n");
    run_shows("mneme a.db -cmd '.mode csv' -cmd '.headers on' 'select 1 as a'", "a\n1\n");
    run_shows("printf 'CREATE TABLE t(a); CREATE TRIGGER g AFTER INSERT ON t BEGIN\\n"
              "SELECT 1;\\nSELECT 2;\\nEND;\\nINSERT INTO t VALUES (5); SELECT * FROM t;' | "
              "mneme b.db",
              "5\n");
}

TEST(a_script_stops_at_its_first_error_and_says_where)
{
    put_text("s.sql", "select 1;\n\nselect\n  nope\nfrom sqlite_schema;\nselect 2;\n");
    run(1, "mneme a.db -f s.sql");
    CHECK_STR(out, "1\n");
    CHECK_STR(err, "mneme: s.sql:4: no such column: nope\n    nope\n    ^\n");
    run(1, "mneme -nobail a.db -f s.sql");
    CHECK_STR(out, "1\n2\n");
    run(1, "(echo .bail off; cat s.sql) | mneme a.db");
    CHECK_STR(out, "1\n2\n");
    CHECK_HAS(err, "stdin:5: no such column: nope");
    run(1, "mneme a.db 'selec 1' 'select 2'");
    CHECK_STR(out, "");
    run(1, "printf '.nonsense\\nselect 1;' | mneme a.db");
    CHECK_HAS(err, "in stdin, line 1");
    CHECK_STR(out, "");
    run(7, "mneme a.db '.exit 7' 'select 1'");
}

TEST(errors_show_the_place_and_the_nearest_name)
{
    put_docs();
    static const struct {
        const char *sql, *says;
    } wrong[] = {
        {"select * frm docs", "near \"frm\": syntax error\n  select * frm docs\n           ^\n"
                              "  did you mean from?\n"},
        {"select * from dosc", "no such table: dosc\n  select * from dosc\n                ^\n"
                               "  did you mean docs?\n"},
        {"select d.lnag from docs d", "no such column: d.lnag\n  select d.lnag from docs d\n"
                                      "         ^\n  did you mean lang?\n"},
        {"select lenght(lang) from docs", "no such function: lenght"},
        {"insert into docs(id, txt) values(1, 2)", "has no column named txt"},
        {"select 'a", "unrecognized token"},
        {"select (1", "incomplete input"},
        {"select * from docs where\nlang = 'é' and\n  yaer > 1",
         "no such column: yaer\n    yaer > 1\n    ^\n"},
        {"insert into docs(id, vector) values(1, x'00')", "CHECK constraint failed"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        char command[512];
        snprintf(command, sizeof command, "mneme app.db \"%s\"", wrong[i].sql);
        run_says(1, command, wrong[i].says);
    }
}

TEST(words_that_are_no_files_are_mistyped_commands)
{
    run_says(2, "mneme serch", "unknown command serch; did you mean search?");
    run_says(2, "mneme qwertyuiop", "`mneme ./qwertyuiop` opens a database of that name");
    run_shows("mneme ./search 'create table t(a)' && mneme ./search .tables", "t\n");
    run_shows("mneme ./plain 'create table t(a)' && mneme plain .tables", "t\n");
    run_says(2, "mneme -jsn a.db", "unknown option -jsn; did you mean -json?");
    run_says(2, "mneme a.db -c", "-c needs a value: -c SQL");
    run_says(1, "mneme -readonly nope.db 'select 1'", "nope.db could not be opened: there is no");
    run_says(1, "mkdir folder; mneme ./folder 'select 1'", "./folder could not be opened: it is a");
    run_says(1, "mneme no/such.db 'select 1'", "there is no such file, or no such folder");
    put_text("text.db", "this is no database at all, but long enough to be looked at as one\n");
    run_says(1, "mneme text.db .tables", "file is not a database");
}

TEST(help_needs_no_database)
{
    run(0, "mneme -help");
    CHECK_HAS(out, "usage: mneme [options] PATH [SQL or .command]...");
    run(0, "mneme a.db .help");
    CHECK_HAS(out, ".near WORD|ID");
    run(0, "mneme a.db '.help .recall'");
    CHECK_HAS(out, "--sample");
    run(0, "mneme a.db '.help .near'");
    CHECK_HAS(out, "--exact");
    run(0, "mneme a.db '\\?'");
    CHECK_HAS(out, ".tables");
}

/* ---- Output modes ---------------------------------------------------------------------------- */

static const struct {
    const char *mode, *shows;
} modes[] = {
    {"list", "1|en|The harbour.|[0,0.1]\n2|fr|Le | port|[0.9,0.2]\n3|en||[0.1,0.3]\n"},
    {"csv", "1,en,The harbour.,\"[0,0.1]\"\n2,fr,Le | port,\"[0.9,0.2]\"\n3,en,,\"[0.1,0.3]\"\n"},
    {"tsv", "1\ten\tThe harbour.\t[0,0.1]\n2\tfr\tLe | port\t[0.9,0.2]\n3\ten\t\t[0.1,0.3]\n"},
    {"json", "[{\"id\":1,\"lang\":\"en\",\"payload\":\"The harbour.\",\"vector\":[0,0.1]},\n"
             "{\"id\":2,\"lang\":\"fr\",\"payload\":\"Le | port\",\"vector\":[0.9,0.2]},\n"
             "{\"id\":3,\"lang\":\"en\",\"payload\":null,\"vector\":[0.1,0.3]}]\n"},
    {"jsonl", "{\"id\":1,\"lang\":\"en\",\"payload\":\"The harbour.\",\"vector\":[0,0.1]}\n"
              "{\"id\":2,\"lang\":\"fr\",\"payload\":\"Le | port\",\"vector\":[0.9,0.2]}\n"
              "{\"id\":3,\"lang\":\"en\",\"payload\":null,\"vector\":[0.1,0.3]}\n"},
    {"markdown", "|  id | lang | payload      | vector         |\n"
                 "| --: | ---- | ------------ | -------------- |\n"
                 "|   1 | en   | The harbour. | [0, 0.1] f32   |\n"
                 "|   2 | fr   | Le \\| port   | [0.9, 0.2] f32 |\n"
                 "|   3 | en   |              | [0.1, 0.3] f32 |\n"},
    {"table", "┌────┬──────┬──────────────┬────────────────┐\n"
              "│ id │ lang │ payload      │ vector         │\n"
              "├────┼──────┼──────────────┼────────────────┤\n"
              "│  1 │ en   │ The harbour. │ [0, 0.1] f32   │\n"
              "│  2 │ fr   │ Le | port    │ [0.9, 0.2] f32 │\n"
              "│  3 │ en   │              │ [0.1, 0.3] f32 │\n"
              "└────┴──────┴──────────────┴────────────────┘\n"},
    {"column", "id  lang  payload       vector\n--  ----  ------------  --------------\n"
               " 1  en    The harbour.  [0, 0.1] f32\n 2  fr    Le | port     [0.9, 0.2] f32\n"
               " 3  en                  [0.1, 0.3] f32\n"},
    {"line", "     id = 1\n   lang = en\npayload = The harbour.\n vector = [0, 0.1] f32\n\n"
             "     id = 2\n   lang = fr\npayload = Le | port\n vector = [0.9, 0.2] f32\n\n"
             "     id = 3\n   lang = en\npayload = \n vector = [0.1, 0.3] f32\n"},
    {"quote", "1,'en','The harbour.',x'00000000cdcccc3d'\n"
              "2,'fr','Le | port',x'6666663fcdcc4c3e'\n3,'en',NULL,x'cdcccc3d9a99993e'\n"},
};

TEST(every_mode_shows_rows_and_vectors)
{
    put_docs();
    for (size_t i = 0; i < sizeof modes / sizeof *modes; i++) {
        char command[256];
        snprintf(command, sizeof command,
                 "mneme -%s app.db 'select id, lang, payload, vector from docs'", modes[i].mode);
        run_shows(command, modes[i].shows);
    }
    run_shows("mneme app.db '.mode insert t' 'select id, payload from docs where id <> 1'",
              "INSERT INTO \"t\" VALUES(2,'Le | port');\nINSERT INTO \"t\" VALUES(3,NULL);\n");
    run_shows("mneme -json app.db 'select id from docs where 0'", "[]\n");
    run_shows("mneme -csv -header app.db 'select id from docs where 0'", "id\n");
    run_shows("mneme -csv app.db \"select '', null, 'a,b', 'say \"\"x\"\"'\" | cat",
              "\"\",,\"a,b\",say x\n");
}

TEST(values_are_shown_complete_and_harmless)
{
    run_shows(
        "mneme -json -c \"select 9223372036854775807 as i, 0.1 as r, 1e999 as inf, x'00ff' as "
        "b, 'a' || char(27) || char(10) as t\"",
        "[{\"i\":9223372036854775807,\"r\":0.1,\"inf\":null,\"b\":{\"$blob\":\"AP8=\"},"
        "\"t\":\"a\\u001b\\n\"}]\n");
    run_shows("mneme -table -c \"select 'a' || char(27) || '[2J' || 'ü' as t, "
              "'日本' as w, 1.0 as r\"",
              "┌───────────┬──────┬─────┐\n│ t         │ w    │   r │\n"
              "├───────────┼──────┼─────┤\n│ a\\x1b[2Jü │ 日本 │ 1.0 │\n"
              "└───────────┴──────┴─────┘\n");
    run_shows("mneme -table -c \"select 1 as n, 'two' || char(10) || 'lines' as t\"",
              "┌───┬───────┐\n│ n │ t     │\n├───┼───────┤\n│ 1 │ two   │\n│   │ lines │\n"
              "└───┴───────┘\n");
    run_shows("mneme -list -nullvalue NULL -separator ', ' -c \"select null, x'0102', 1.5, 'x'\"",
              "NULL, x'0102', 1.5, x\n");
    run_shows("mneme -tsv -c \"select 'a' || char(9) || 'b\\c'\"", "a\\tb\\\\c\n");
}

TEST(long_vectors_are_short_for_people_and_whole_for_programs)
{
    put_text("v.txt", "one 0.12 -0.5 0.33 4 5 6\ntwo 1 2 3 4 5 6\n");
    run(0, "mneme import app.db w v.txt");
    run_shows("mneme -table app.db \".headers off\" 'select vector from w limit 1'",
              "┌──────────────────────────────────┐\n"
              "│ [0.12, -0.5, 0.33, … 3 more] f32 │\n"
              "└──────────────────────────────────┘\n");
    run_shows(
        "mneme app.db \"attach ':memory:' as o\" 'create table o.w(vector blob)' \"insert into "
        "o.w values(zeroblob(24))\" 'select length(vector) from o.w' \"select vector from o.w\"",
        "24\nx'000000000000000000000000000000000000000000000000'\n");
    run_shows("mneme -csv app.db 'create view seen as select vector as x from w' 'select x from "
              "(select * from seen) limit 1'",
              "\"[0.12,-0.5,0.33,4,5,6]\"\n");
    run_shows("mneme -csv app.db 'select vector from w limit 1'", "\"[0.12,-0.5,0.33,4,5,6]\"\n");
}

TEST(a_table_can_be_limited_and_narrowed)
{
    run_shows("mneme -table -c '.limit 4' -c 'with recursive c(x) as (values(1) union all select "
              "x + 1 from c where x < 100) select x from c'",
              "┌─────┐\n│   x │\n├─────┤\n│   1 │\n│   2 │\n├─────┤\n│  99 │\n│ 100 │\n└─────┘\n");
    run_shows("mneme -column -c '.width 3' -c \"select 'abcdef' as name\"", "na…\n---\nab…\n");
    run(0, "mneme -table -c 'with recursive c(x) as (values(1) union all select x + 1 from c where "
           "x < 12000) select x from c'");
    CHECK_HAS(out, "│ 4999 │");
}

/* ---- Dot commands ---------------------------------------------------------------------------- */

TEST(the_schema_is_told_by_dot_commands_and_psqls)
{
    put_docs();
    run(0, "mneme app.db 'create table t(a integer primary key, b text)' 'create index tb on t(b)' "
           "'create view v as select 1'");
    run_shows("mneme app.db .tables", "docs\nt\nv\n");
    run_shows("mneme app.db '\\dt'", "docs\nt\nv\n");
    run_shows("mneme app.db .indexes", "tb\n");
    run_shows("mneme app.db '.schema t'",
              "CREATE TABLE t(a integer primary key, b text);\nCREATE INDEX tb on t(b);\n");
    run_shows("mneme app.db '.schema docs'",
              "CREATE TABLE \"docs\"(...);\n"); /* and not the triggers of its change log */
    run_shows("mneme app.db '.schema mneme_1_delete'", "CREATE TRIGGER ...;\n");
    run_shows("mneme app.db 'create temp table passing(a)' '.schema pass%'",
              "CREATE TABLE passing(a);\n");
    run(0, "mneme app.db '\\d docs'");
    CHECK_HAS(out, "collection docs: column vector, 2 x f32");
    run_says(1, "mneme app.db '.schema dosc'", "did you mean docs?");
    run_says(1, "mneme app.db '\\d dosc'", "did you mean docs?");
    run_shows("mneme app.db '.tables mneme_m%'", "mneme_meta\n");
    run(0, "mneme app.db .databases");
    CHECK_HAS(out, "app.db");
}

TEST(settings_are_set_shown_and_checked)
{
    run(0, "mneme a.db '.mode csv' '.headers on' '.nullvalue -' '.timer on' .show");
    CHECK_HAS(out, "mode       csv\nheaders    on\nnullvalue  \"-\"\n");
    run(0, "mneme a.db '\\timing on' 'select 1'");
    CHECK_HAS(err, "time ");
    CHECK_STR(out, "1\n");
    run_says(1, "mneme a.db '.mode jsn'", "unknown mode jsn; did you mean json?");
    run_says(1, "mneme a.db '.timer maybe'", "say on or off");
    run_says(1, "mneme a.db '.tabels'", "unknown command .tabels; did you mean .tables?");
    run_says(1, "mneme a.db '.timer'", "usage: .timer on|off");
    run_says(1, "mneme a.db '.print \"open'", "a quote does not end");
    run_shows("mneme a.db '.echo on' 'select 1'", "select 1\n1\n");
    run_shows("mneme a.db '\\x on' 'select 1 as a'", "a = 1\n");
}

TEST(parameters_are_bound_and_must_be_set)
{
    put_docs();
    run_shows("mneme a.db '.param set :a 2 + 3' \".param set @b 'it''s'\" 'select :a, @b'",
              "5|it's\n");
    run_shows("mneme app.db '.param set :v @docs.jsonl[2]' 'select id from docs where vector = :v'",
              "3\n");
    run_shows("mneme a.db '.param set :a 1' '.param set :b text' .param",
              ":a           1\n:b           'text'\n");
    run_says(1, "mneme a.db 'select :a'", ":a is not set; .param set :a VALUE sets it");
    run_says(1, "mneme a.db '.param set :v @docs.jsonl[3]'", "has 3 vectors, numbered from 0");
    run_says(1, "mneme a.db '.param set :a 1' '.param clear' 'select :a'", ":a is not set");
}

TEST(output_goes_to_files)
{
    run_shows("mneme a.db '.output o.txt' 'select 1' .output 'select 2' && cat o.txt", "2\n1\n");
    run_shows("mneme a.db '.once o.txt' 'select 1' 'select 2' && cat o.txt", "2\n1\n");
    run_shows("mneme a.db '.once o.txt' '.print x' 'select 2' && cat o.txt", "2\nx\n");
    run_says(1, "printf 'select 1;\\n\\0select 2;\\n' | mneme a.db",
             "stdin:2: the line holds a NUL");
    run_says(1, "mneme a.db '.output /dev/full' 'select 1' .output", "/dev/full could not be");
    run(0, "mneme a.db 'with recursive c(x) as (values(1) union all select x + 1 from c) select x "
           "from c' | head -1");
    CHECK_STR(out, "1\n");
}

TEST(explain_watch_and_read_work)
{
    run(0, "mneme a.db 'create table t(a integer primary key, b)'");
    run(0, "mneme a.db '.explain select * from t where a = 1'");
    CHECK_HAS(out, "`--SEARCH t USING INTEGER PRIMARY KEY");
    run(0, "mneme a.db 'explain query plan select * from t where a = 1'");
    CHECK_HAS(out, "`--SEARCH t USING INTEGER PRIMARY KEY");
    run(0, "mneme a.db 'select * from t where a = 2' .explain");
    CHECK_HAS(out, "`--SEARCH t USING INTEGER PRIMARY KEY");
    run(0, "mneme a.db '.param set :a 1' '.explain analyze select * from t where a = :a'");
    CHECK_HAS(out, "rows       0");
    run_says(1, "mneme a.db '.explain analyze select :b'", ":b is not set");
    run_says(1, "mneme a.db '.explain select nope from t'", "no such column: nope");
    run_says(1, "mneme a.db .explain", "there was none");
    run_shows("mneme a.db 'select 1' '.watch 0.01 2'", "1\n1\n1\n");
    run_says(1, "mneme a.db '.watch'", "there was none yet");
    run_shows("EDITOR='sed -i s/1/2/' mneme a.db 'select 1' .edit '.edit select 11;'",
              "1\nselect 2\n2\nselect 21;\n21\n");
    run_says(1, "EDITOR=false VISUAL= mneme a.db '.edit select 1'", ".edit: false failed; nothing");
    put_text("self.sql", ".read self.sql\n");
    run_says(1, "mneme a.db '.read self.sql'", "does a file read itself?");
    run_says(1, "mneme a.db '.read nope.sql'", "nope.sql could not be opened: No such file");
}

TEST(commands_of_the_program_are_dot_commands)
{
    put_docs();
    run(0, "mneme app.db '.near 1'");
    CHECK_HAS(out, "   1   3   0.22361");
    run(0, "mneme app.db \".near 'The harbour.' docs --k 1\"");
    CHECK_HAS(out, "1 row");
    run(0, "mneme -json app.db '.near 3 docs --k 1'");
    CHECK_HAS(out, "{\"query\":\"3\",\"rank\":1,\"id\":1");
    run_says(1, "mneme app.db '.near nowhere'", "no row of 'docs' has 'nowhere' in a column");
    run(0, "mneme app.db .stats");
    CHECK_HAS(out, "collection         docs");
    run(0, "mneme app.db '.recall docs --sample 2'");
    CHECK_HAS(out, "exact");
    run_shows("mneme app.db .verify", "...app.db: no problem found in ...\n");
    run_shows("mneme app.db '.backup copy.db' && mneme copy.db 'select count(*) from docs'",
              "copied ...\n3\n");
    run_says(1, "mneme app.db begin '.near 1'", "a transaction is open; COMMIT or ROLLBACK first");
    run_says(1, "mneme -c .stats", "this database is in memory");
    run_says(1, "mneme -readonly app.db '.drop docs --yes'", "started with -readonly");
    put_text("w.txt", "north 0 1\neast 1 0\nnortheast 1 1\n");
    run(0, "mneme app.db '.import w.txt words' '.near north words --k 1'");
    CHECK_HAS(out, "northeast");
    run_says(1, "mneme app.db '.near north'", "which collection? There are docs, words");
}

TEST(sql_knows_mneme)
{
    run_shows("mneme a.db 'create table notes(id integer primary key, body text, embedding blob)' "
              "\"insert into notes values(1, 'hello', vec_f32('[1, 2]')), (2, 'world', "
              "vec_f32('[2, 1]'))\" \"select count(*) from (select mneme_index('notes', "
              "'embedding', 'dim=2'))\" 'select * from notes'",
              "1\n1|hello|[1,2]\n2|world|[2,1]\n");
    run(0, "mneme a.db '.near world'");
    CHECK_HAS(out, "   1   1");
    run_shows("mneme -table a.db \"select vec_f32('[1, 2, 3, 4, 5]') as v\"",
              "┌─────────────────────────┐\n│ v                       │\n"
              "├─────────────────────────┤\n│ [1, 2, 3, … 2 more] f32 │\n"
              "└─────────────────────────┘\n");
    /* Commands and SQL share what the process has open, whoever was first. */
    run(0, "mneme a.db \"select rowid from knn('notes', '[1, 2]', 1)\" '.near world' .stats");
    run(0, "mneme -memory 8MiB a.db .stats \"select rowid from knn('notes', '[1, 2]', 1)\"");
    CHECK_HAS(out, "cap 8.0 MiB");
    run_says(1, "mneme a.db '.recall notes --memory 8MiB'", "are the shell's own: mneme -memory");
    put_text("more.csv", "id,body,embedding\n7,seven,\"[7,7]\"\n");
    run_shows(
        "mneme a.db '.import more.csv notes' 'select * from notes where id = 7' \"select rowid "
        "from knn('notes', '[7, 7]', 1)\"",
        "imported 1 row into notes in ...\n7|seven|[7,7]\n7\n");
    run_says(1, "mneme a.db '.import more.csv notes'", "UNIQUE constraint failed: notes.id");
    run(0, "mneme a.db '.import more.csv notes --replace'");
    put_text("bad.csv", "id,body,embedding\n8,eight,\"[8,x]\"\n");
    run_says(1, "mneme a.db '.import bad.csv notes'", "bad.csv: record 1 (line 2): ");
    run_shows("mneme b.db 'create virtual table v using mneme(id integer primary key, embedding "
              "float[2], body text)' '.import more.csv v' 'select * from v'",
              "imported 1 row into v in ...\n7|[7,7]|seven\n");
}

/* ---- Import and export ----------------------------------------------------------------------- */

TEST(import_makes_what_the_file_holds)
{
    put_text("p.csv", "id,name,price\n1,Ann,1.5\n2,\"B, C\",2\n3,,\n");
    run_shows("mneme a.db '.import p.csv people' '.schema people' 'select * from people'",
              "imported 3 rows into the new table people in ...\n"
              "CREATE TABLE \"people\"(\"id\" INTEGER PRIMARY KEY, \"name\" TEXT, \"price\" "
              "REAL);\n1|Ann|1.5\n2|B, C|2.0\n3||\n");
    put_text("l.jsonl", "{\"a\":1}\n{\"a\":2,\"b\":\"x\",\"c\":[1,2]}\n");
    run_shows("mneme a.db '.import l.jsonl l' 'select * from l'",
              "imported 2 rows into the new table l in ...\n1||\n2|x|[1,2]\n");
    put_docs();
    run(0, "mneme a.db '.import docs.jsonl docs' .info");
    CHECK_HAS(out, "docs.vector");
    run_shows("mneme a.db '.import docs.jsonl plain --table' 'select id, vector from plain'",
              "imported 3 rows into the new table plain in ...\n1|[0,0.1]\n2|[0.9,0.2]\n"
              "3|[0.1,0.3]\n");
    put_text("w.txt", "north 0 1\neast 1 0\n");
    run_shows("mneme a.db '.import w.txt w --table' 'select id, length(vector) from w'",
              "imported 2 rows into the new table w in ...\nnorth|8\neast|8\n");
    run_shows("mneme a.db 'create table x(word text, embedding blob, n)' '.import w.txt x' 'select "
              "word, length(embedding) from x'",
              "imported 2 rows into x in ...\nnorth|8\neast|8\n");
}

TEST(import_reads_every_format_into_a_table)
{
    static const char *const files[] = {"v.fvecs", "v.bvecs", "v.ivecs", "v.fbin", "v.u8bin",
                                        "v.npy",   "v.jsonl", "v.csv",   "v.txt"};
    put_text("w.csv", "id,vector\n1,\"[1,2]\"\n2,\"[3,4]\"\n");
    run(0, "mneme import app.db v w.csv");
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        char command[400];
        bool lines = strstr(files[i], "csv") || strstr(files[i], "json");
        snprintf(command, sizeof command,
                 "mneme app.db '.export v %s' 'drop table if exists t' '.import %s t --table' "
                 "\"select group_concat(%s, ';') from t\" | tail -1",
                 files[i], files[i], lines ? "vector" : "vec_to_json(vector)");
        run(0, command);
        if (strcmp(out, "[1,2];[3,4]\n") != 0 &&
            strcmp(out, "[1.000000,2.000000];[3.000000,4.000000]\n") != 0)
            test_fail(__FILE__, __LINE__, "%s: %s%s", files[i], out, err);
    }
}

TEST(import_takes_all_or_nothing)
{
    run(0, "mneme a.db 'create table t(id integer primary key, n integer check(n < 10))'");
    put_text("bad.csv", "id,n\n1,1\n2,99\n");
    run_says(1, "mneme a.db '.import bad.csv t'",
             "bad.csv: record 2 (line 3): CHECK constraint failed: n < 10; nothing was imported");
    put_text("cut.csv", "id,n\n1,1\n2\n");
    run_says(1, "mneme a.db '.import cut.csv t'",
             "cut.csv: line 3: 1 fields, but the header has 2");
    put_text("name.csv", "id,m\n1,1\n");
    run_says(1, "mneme a.db '.import name.csv t'", "'m' is no column of t");
    run_shows("mneme a.db 'select count(*) from t'", "0\n");
    run(1, "mneme a.db '.import cut.csv t --partial'");
    run_shows("mneme a.db 'select * from t'", "1|1\n");
    run_says(1, "mneme a.db '.import nope.csv t'", "nope.csv");
    run_shows("mneme a.db begin '.import name.csv q' rollback .tables",
              "imported 1 row into the new table q in ...\nt\n");
}

TEST(export_writes_tables_collections_and_queries)
{
    put_docs();
    run_shows("mneme app.db '.export docs d.npy' '.export docs d.csv'",
              "exported 3 rows to d.npy as npy in ...\nexported 3 rows to d.csv as csv in ...\n");
    run(0, "mneme app.db 'create virtual table v using mneme(e float[2])' \"insert into v(e) "
           "values('[1,2]'), (null)\"");
    run_says(0, "mneme app.db '.export v v.csv'",
             "1 rows have no vector in 'v' and were left out");
    run(0, "mneme app.db 'create table t(a, b)' \"insert into t values(1, 'x,y'), (2, null)\"");
    run_shows("mneme app.db '.export t t.csv' && cat t.csv", "a,b\n1,\"x,y\"\n2,\n");
    run_shows("mneme app.db '.export SELECT a FROM t WHERE a > 1 q.json' && cat q.json",
              "[{\"a\":2}]\n");
    run_says(1,
             "mneme app.db '.export SELECT nope FROM t q2.json'; ls q2.json* 2>/dev/null; exit 1",
             "no such column: nope");
    CHECK_STR(out, "");
    run_says(1, "mneme app.db '.export dosc t.csv'", "no such table: dosc; did you mean docs?");
}

TEST(a_dump_makes_the_same_database)
{
    put_docs();
    run(0, "mneme app.db 'create table t(a integer primary key autoincrement, b, c as (b + 1))' "
           "'insert into t(b) values(0.1), (null), (1e300), (9e999)' \"insert into t(b) values("
           "'it''s'), (x'00ff')\" 'create virtual table f using fts5(x)' \"insert into f "
           "values('hello world')\" 'create index tb on t(b)' 'delete from t where a = 2'");
    run(0, "mneme app.db .dump >d.sql && mneme new.db -f d.sql && mneme new.db .dump >e.sql && cmp "
           "d.sql e.sql");
    run_shows(
        "mneme new.db \"select x from f where f match 'hello'\" 'select quote(b) from t where "
        "a <> 3' 'select count(*) from docs' .verify",
        "hello world\n0.1\n...\n'it''s'\nX'00FF'\n3\n...no problem found in ...\n");
    run(0,
        "mneme app.db '.dump t' | sqlite3 plain.db && sqlite3 plain.db 'select count(*) from t'");
    CHECK_STR(out, "5\n");
    run(0,
        "mneme v.db 'create virtual table v using mneme(id integer primary key, e float[2], lang "
        "text)' \"insert into v values(1, '[1, 0]', 'en'), (2, '[0, 1]', 'de')\" && mneme v.db "
        ".dump >v.sql && mneme w.db -f v.sql");
    run_shows("mneme w.db \"select id, lang, e from v where e match '[0, 1]' and k = 1\" .verify",
              "2|de|[0,1]\n...no problem found in ...\n");
}

/* ---- Limits ---------------------------------------------------------------------------------- */

TEST(safe_keeps_to_one_file)
{
    static const char *const unsafe[] = {
        "attach 'x.db' as x",
        "vacuum into 'x.db'",
        ".shell true",
        ".read x",
        ".output x",
        ".open x",
        ".import x y",
        ".backup x",
        ".cd /",
        ".edit",
        ".load x",
        ".once x",
        ".export a x",
        ".search docs --queries x",
        ".get docs --from x",
        ".near 1 docs -Q x",
        "\\! true",
        "\\i x",
        ".param set :v @x",
    };
    put_docs();
    run(0, "mv app.db a.db && mneme a.db 'create table t(a)'");
    for (size_t i = 0; i < sizeof unsafe / sizeof *unsafe; i++) {
        char command[200];
        snprintf(command, sizeof command, "mneme -safe a.db \"%s\"", unsafe[i]);
        run(1, command);
    }
    run_shows("mneme -safe a.db vacuum 'select 1' && ls",
              "1\na.db\ndocs.jsonl\nerr.txt\nout.txt\n");
}

TEST(a_signal_interrupts_a_script_and_ends_it)
{
    run(130, "(sleep 0.4; kill -INT $(cat pid)) & sh -c 'echo $$ >pid; exec mneme a.db \"with "
             "recursive c(x) as (values(1) union all select x + 1 from c) select count(*) from c\" "
             "\"select 2\"'");
    CHECK_STR(out, "");
    CHECK_HAS(err, "interrupted");
}

TEST(a_prompt_without_a_terminal_is_plain)
{
    run(0, "printf 'select\\n1;\\nselekt;\\nselect 2;\\nexit\\n' | mneme -interactive -list a.db");
    CHECK_HAS(out, "mneme> ");
    CHECK_HAS(out, "...> 1\n");
    CHECK_HAS(out, "2\n");
    CHECK_HAS(err, "near \"selekt\": syntax error");
    CHECK(!strchr(out, '\x1b') && !strchr(err, '\x1b'));
}

TEST_MAIN

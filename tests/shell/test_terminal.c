/* The SQL shell as a person meets it: in a terminal that tmux plays. Keys are sent, and the screen
 * is looked at until it shows what is expected. Skipped where tmux is missing. */
#include "tests/shell/run_fixture.h"

#include <stdarg.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { PATIENCE_MS = 10000 };

static int server; /* each has a socket of its own: one that is going would refuse the next */
static char screen[1 << 16]; /* as last looked at; lines without trailing blanks */

__attribute__((format(printf, 1, 2))) static void tmux(const char *format, ...)
{
    char arguments[4096], command[5000];
    va_list args;
    va_start(args, format);
    vsnprintf(arguments, sizeof arguments, format, args);
    va_end(args);
    snprintf(command, sizeof command, "unset TMUX; tmux -u -f /dev/null -S tmux%d %s", server,
             arguments);
    run(0, command);
}

/* Starts `command`; what a failed test leaves ends by itself. */
static void start(const char *command)
{
    if (in_shell("command -v tmux") != 0)
        test_skip("tmux is not installed");
    char script[1024];
    snprintf(script, sizeof script,
             "export HOME=\"$PWD\" XDG_STATE_HOME=\"$PWD/state\" XDG_CONFIG_HOME=\"$PWD/config\"\n"
             "trap : INT\n(sleep 100; kill -HUP $$) &\n%s\necho \"ended with $?\"\nsleep 100\n",
             command);
    server++;
    put_text("session.sh", script);
    tmux("new-session -d -x 80 -y 24 'sh session.sh'");
}

static void stop(void)
{
    tmux("kill-server");
}

/* Text as typed. tmux takes a last semicolon for itself, unless it is escaped. */
static void type(const char *text)
{
    char quoted[2048];
    size_t n = 0;
    for (const char *p = text; *p; p++) {
        if (*p == '\'')
            n += (size_t)snprintf(quoted + n, sizeof quoted - n, "'\\''");
        else if (*p == ';' && !p[1])
            n += (size_t)snprintf(quoted + n, sizeof quoted - n, "\\;");
        else
            quoted[n++] = *p;
        CHECK(n + 8 < sizeof quoted);
    }
    quoted[n] = 0;
    tmux("send-keys -l -- '%s'", quoted);
}

static void key(const char *name)
{
    tmux("send-keys %s", name);
}

static void line(const char *text)
{
    type(text);
    key("Enter");
}

static void look(const char *options)
{
    tmux("capture-pane -p %s", options);
    size_t n = 0;
    for (const char *p = out; *p; p++) {
        while (*p == '\n' && n && screen[n - 1] == ' ')
            n--;
        screen[n++] = *p;
    }
    while (n && (screen[n - 1] == '\n' || screen[n - 1] == ' '))
        n--;
    screen[n] = 0;
}

static bool ends_with(const char *text)
{
    size_t n = strlen(text), all = strlen(screen);
    return all >= n && strcmp(screen + all - n, text) == 0;
}

static void wait_a_little(void)
{
    struct timespec t = {.tv_nsec = 20000000};
    nanosleep(&t, NULL);
}

/* Until the screen ends so. A prompt waits for input: its blank is not seen. */
static void shows_at_end(int line_number, const char *text)
{
    for (int ms = 0; ms < PATIENCE_MS; ms += 25) {
        look("");
        if (ends_with(text))
            return;
        wait_a_little();
    }
    test_fail(__FILE__, line_number, "the screen does not end with:\n%s\nbut shows:\n%s", text,
              screen);
}

static void shows_somewhere(int line_number, const char *options, const char *text)
{
    for (int ms = 0; ms < PATIENCE_MS; ms += 25) {
        look(options);
        if (strstr(screen, text))
            return;
        wait_a_little();
    }
    test_fail(__FILE__, line_number, "the screen lacks:\n%s\nbut shows:\n%s", text, screen);
}

#define ENDS(text) shows_at_end(__LINE__, text)
#define SEES(text) shows_somewhere(__LINE__, "", text)
#define SEES_RAW(text) shows_somewhere(__LINE__, "-e", text) /* with escape sequences */

/* Ctrl-C at the prompt. It is a signal, and would overtake keys that nobody has read yet. */
static void drop(void)
{
    key("C-c");
    ENDS("^C\nmneme>");
}

static void put_docs(void)
{
    run(0, "mneme app.db 'create table docs(id integer primary key, lang text, year integer)' "
           "\"insert into docs values(1, 'en', 1990), (2, 'fr', 2001), (3, 'de', 2010)\"");
}

/* ---- ----------------------------------------------------------------------------------------- */

TEST(a_statement_is_typed_over_several_lines)
{
    put_docs();
    start("mneme -list app.db");
    SEES(".help lists the commands");
    line("select id");
    ENDS("mneme> select id\n  ...>");
    line("from docs");
    line("");
    line("where year > 2000;");
    ENDS("mneme> select id\n  ...> from docs\n  ...>\n  ...> where year > 2000;\n2\n3\nmneme>");
    line("select ';' as semicolon, /* ; */ 1;");
    ENDS(";|1\nmneme>");
    line(".print dots need no semicolon");
    ENDS("dots need no semicolon\nmneme>");
    line("quit");
    ENDS("ended with 0");
    stop();
}

TEST(up_takes_a_half_typed_entry_back)
{
    put_docs();
    start("mneme -list app.db");
    SEES("mneme>");
    line("select idd");
    line("from docs;x");
    ENDS("from docs;x\n  ...>");
    drop();
    line("select idd,");
    line("lang");
    ENDS("mneme> select idd,\n  ...> lang\n  ...>");
    key("Up");
    ENDS("mneme> select idd,\nlang");
    key("Up");
    key("End");
    key("Home");
    for (int i = 0; i < 9; i++)
        key("Right");
    key("BSpace"); /* lines are moved between, the d is gone */
    key("Down");
    key("C-e");
    line(" from docs where id = 2;");
    ENDS("mneme> select id,\nlang from docs where id = 2;\n2|fr\nmneme>");
    stop();
}

TEST(the_history_survives_and_has_whole_entries)
{
    put_docs();
    start("mneme -list app.db");
    SEES("mneme>");
    line("select 1 +");
    line("1;");
    ENDS("2\nmneme>");
    line("select 'twice';");
    line(" select 'not kept';");
    line("select 'twice';");
    line("select 'back\\slash';");
    ENDS("back\\slash\nmneme>");
    key("C-d");
    ENDS("ended with 0");
    stop();
    slurp("state/mneme/history", screen, sizeof screen);
    CHECK_STR(screen, "select 1 +\\n1;\nselect 'twice';\n"
                      "select 'back\\\\slash';\n");
    struct stat st;
    CHECK(stat(test_path("state/mneme/history"), &st) == 0 && (st.st_mode & 0777) == 0600);
    CHECK(stat(test_path("state/mneme"), &st) == 0 && (st.st_mode & 0777) == 0700);

    start("mneme -list app.db");
    SEES("mneme>");
    key("Up");
    ENDS("mneme> select 'back\\slash';");
    key("Up");
    ENDS("mneme> select 'twice';");
    key("Up");
    ENDS("mneme> select 1 +\n1;");
    key("C-e");
    key("Enter");
    ENDS("\n2\nmneme>");
    key("C-r");
    type("wic");
    SEES("select 'twice';");
    key("Enter");
    ENDS("twice\nmneme>");
    stop();
}

TEST(tab_completes)
{
    put_docs();
    put_text("docs.csv", "id\n1\n");
    run(0, "mkdir folder");
    run(0, "mneme app.db 'create table \"odd name\"(a, b)'");
    start("mneme -list app.db");
    SEES("mneme>");
    type("sel");
    key("Tab");
    ENDS("mneme> select");
    type("ye");
    key("Tab");
    type(" fr");
    key("Tab");
    type("do");
    key("Tab");
    ENDS("mneme> select year from docs");
    type(" d where d.la");
    key("Tab");
    ENDS("where d.lang");
    line(" = 'fr';");
    ENDS("2001\nmneme>");
    type("SELECT coun");
    key("Tab");
    ENDS("mneme> SELECT count(");
    line("*) FROM docs;");
    ENDS("3\nmneme>");
    type("select * from od");
    key("Tab");
    ENDS("from \"odd name\"");
    drop();
    type(".tim");
    key("Tab");
    ENDS("mneme> .time");
    key("Tab");
    SEES("timeout  timer");
    type("r ");
    key("Tab");
    key("Tab");
    SEES("on   off");
    drop();
    type(".import do");
    key("Tab");
    ENDS(".import docs.csv");
    drop();
    type(".cd fo");
    key("Tab");
    ENDS(".cd folder/");
    drop();
    type(".mode js");
    key("Tab");
    ENDS("mneme> .mode json");
    drop();
    put_text("words.txt", "north 0 1\nnortheast 1 1\neast 1 0\n");
    line(".import words.txt words");
    SEES("imported 3 rows");
    type(".near no");
    key("Tab");
    ENDS(".near north");
    type("e");
    key("Tab");
    type("wo");
    key("Tab");
    type(" --ex");
    key("Tab");
    ENDS(".near northeast words --ex");
    drop();
    type("select 'fro");
    key("Tab");
    ENDS("mneme> select 'fro");
    stop();
}

TEST(ctrl_c_interrupts_a_query_and_keeps_the_shell)
{
    start("mneme -list app.db");
    SEES("mneme>");
    line(
        "with recursive c(x) as (values(1) union all select x + 1 from c) select count(*) from c;");
    SEES("running for "); /* after half a second */
    key("C-c");
    ENDS("mneme: interrupted\nmneme>");
    look("");
    CHECK(!strstr(screen, "running"));
    line("select 6 * 7;");
    ENDS("42\nmneme>");
    line("select 1,");
    type("half");
    ENDS("...> half");
    drop();
    ENDS("...> half^C\nmneme>");
    line("select 8;");
    ENDS("8\nmneme>");
    line(".watch 1");
    ENDS(".watch 1\n8");
    key("C-c");
    ENDS("mneme: interrupted\nmneme>");
    line("select 9;");
    ENDS("9\nmneme>");
    stop();
}

TEST(pasted_text_runs_only_with_enter)
{
    start("mneme -list app.db");
    SEES("mneme>");
    put_text("paste.txt", "select 'one';\nselect 'two\x1b[31m';\n");
    tmux("load-buffer paste.txt");
    tmux("paste-buffer -p -r");
    ENDS("mneme> select 'one';\nselect 'two[31m';"); /* and no colour */
    key("Enter");
    ENDS("select 'two[31m';\none\ntwo[31m\nmneme>");
    key("Up");
    ENDS("mneme> select 'one';\nselect 'two[31m';");
    stop();
}

TEST(a_table_fits_the_terminal)
{
    put_docs();
    start("mneme app.db");
    SEES("mneme>");
    line("select * from docs;");
    SEES("│ INTEGER │ TEXT │ INTEGER │");
    ENDS("3 rows\nmneme>");
    line("with recursive c(x) as (values(1) union all select x + 1 from c where x < 1234) select x "
         "from c;");
    ENDS("│ 1234 │\n└──────┘\n1,234 rows, 40 shown; .limit 0 shows all\nmneme>");
    line("select hex(zeroblob(60)) as wide, 'x' as narrow;");
    SEES("00\nnarrow = x");
    line("select hex(zeroblob(60)) as wide, 'x' as narrow from docs;");
    SEES("000… │ x      │");
    line("select 1 as a, char(27) || '[31mred' as b;");
    SEES("│ 1 │ \\x1b[31mred │");
    line("select lnag from docs;");
    ENDS("mneme: no such column: lnag\n  select lnag from docs;\n         ^\n  did you mean "
         "lang?\nmneme>");
    line("begin;");
    ENDS("mneme*>");
    line("rollback;");
    ENDS("mneme>");
    line("\\x");
    line("select 1 as a;");
    ENDS("expanded display is on\nmneme> select 1 as a;\na = 1\nmneme>");
    stop();
}

TEST(colours_are_for_those_who_want_them)
{
    start("mneme app.db");
    SEES("mneme>");
    line("select 1 as bold;");
    SEES_RAW("\x1b[1mbold");
    stop();
    start("env NO_COLOR=1 mneme app.db");
    SEES("mneme>");
    line("select 1 as bold;");
    ENDS("1 row\nmneme>");
    look("-e");
    CHECK(!strchr(screen, '\x1b'));
    stop();
    start("env TERM=dumb mneme app.db"); /* no editor: lines as they are */
    SEES("mneme>");
    line("select 1 +");
    line("2 as bold;");
    SEES("  ...> 2 as bold;");
    ENDS("│    3 │\n└──────┘\n1 row\nmneme>");
    key("C-c");
    ENDS("^C\nmneme>");
    line("select 4;");
    ENDS("│ 4 │\n└───┘\n1 row\nmneme>");
    key("C-d");
    SEES("ended with 0");
    stop();
}

TEST(the_line_survives_a_stop_and_a_new_size)
{
    start("env PS1='sh> ' bash --norc -i");
    ENDS("sh>");
    line("mneme -list app.db");
    SEES("mneme>");
    type("select 40 +");
    ENDS("mneme> select 40 +");
    key("C-z");
    ENDS("sh>");
    line("fg");
    ENDS("mneme> select 40 +");
    tmux("resize-window -x 60 -y 20");
    ENDS("mneme> select 40 +");
    line(" 2;");
    ENDS("mneme> select 40 + 2;\n42\nmneme>");
    line(".shell kill -TERM $PPID");
    ENDS("sh>");
    line("stty -a | grep -o '[-]*echo '");
    ENDS("echo\nsh>");
    look("");
    CHECK(!strstr(screen, "-echo\nsh>"));
    stop();
}

TEST(the_rc_file_is_read_by_people_alone)
{
    run(0, "mkdir -p config/mneme");
    put_text("config/mneme/mnemerc", ".mode csv\n.headers on\n");
    start("mneme app.db");
    SEES("mneme>");
    line("select 1 as a, 'x y' as b;");
    ENDS("a,b\n1,x y\nmneme>");
    stop();
    run(0, "XDG_CONFIG_HOME=$PWD/config mneme app.db 'select 1 as a'");
    CHECK_STR(out, "1\n");
}

TEST_MAIN

/* The program `mneme`: one table of commands, one way in and out; what is no command is the SQL
 * shell's (repl.c).
 *
 * A command is a `struct command` in its own cmd_*.c: its options, its help and its function. main
 * finds it by its first word, lets options.c fill its struct, and runs it. Exit codes are in
 * shell.h and in `mneme help`. */
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "src/shell/print.h"
#include "src/shell/repl.h"
#include "src/shell/shell.h"

static const struct command *const commands[] = {
    &cmd_import,  &cmd_search,  &cmd_get,    &cmd_delete, &cmd_export, &cmd_create,
    &cmd_drop,    &cmd_list,    &cmd_info,   &cmd_stats,  &cmd_fold,   &cmd_recall,
    &cmd_rebuild, &cmd_compact, &cmd_verify, &cmd_backup, &cmd_truth,
};

enum { N_COMMANDS = sizeof commands / sizeof *commands };

const struct command *command_find(const char *name)
{
    for (size_t i = 0; i < N_COMMANDS; i++)
        if (strcmp(commands[i]->name, name) == 0)
            return commands[i];
    return NULL;
}

size_t command_count(void)
{
    return N_COMMANDS;
}

const struct command *command_at(size_t i)
{
    return commands[i];
}

static void help_all(void)
{
    out_printf("Mneme: a vector database in a SQLite file.\n\n"
               "usage: mneme PATH [SQL or .command]...   the SQL shell\n"
               "       mneme COMMAND DB ... [options]    one thing, then the end\n");
    out_heading("Commands");
    for (size_t i = 0; i < N_COMMANDS; i++)
        out_printf("  %-8s  %s\n", commands[i]->name, commands[i]->summary);
    out_printf("\n`mneme help COMMAND` or `mneme COMMAND --help` says more, `mneme PATH -help`\n"
               "all of the shell; `mneme --version`. A file named like a command: ./search.\n");
    out_heading("Examples");
    out_printf("  mneme app.db\n"
               "  mneme app.db \"SELECT count(*) FROM words\"\n"
               "  mneme import app.db words glove.txt --metric cosine --dtype f16\n"
               "  mneme search app.db words --word ocean --k 5\n"
               "  mneme stats app.db\n");
    out_heading("Exit codes");
    out_printf("  0    done\n"
               "  1    problems were found, the row is not there, or a statement of SQL failed\n"
               "  2    the command line is wrong\n"
               "  3    it could not be done; the message says why\n"
               "  130  interrupted\n");
}

static int unknown_command(const char *word)
{
    const char *names[N_COMMANDS + 1];
    for (size_t i = 0; i < N_COMMANDS; i++)
        names[i] = commands[i]->name;
    names[N_COMMANDS] = "help";
    const char *near = nearest_word(word, names, N_COMMANDS + 1);
    if (near)
        return usage_error("unknown command %s; did you mean %s?", word, near);
    return usage_error("unknown command %s; `mneme help` lists the commands, and `mneme ./%s` "
                       "opens a database of that name",
                       word, word);
}

/* A word that is no command opens the shell, if it looks like a file or is one: a mistyped command
 * must not make a database. */
static bool is_database(const char *word)
{
    struct stat st;
    return strpbrk(word, "./:") != NULL || (stat(word, &st) == 0 && !S_ISDIR(st.st_mode));
}

static int help(int argc, char **argv)
{
    if (argc > 1)
        return usage_error("help: one argument too many: %s (usage: mneme help [COMMAND])",
                           argv[1]);
    const struct command *command = argc ? command_find(argv[0]) : NULL;
    if (argc && !command)
        return unknown_command(argv[0]);
    if (command)
        options_help(command);
    else
        help_all();
    return 0;
}

/* argv[0] is the command's name. */
int command_run(const struct command *command, int argc, char **argv)
{
    void *given = need(calloc(1, command->size));
    char **args = need(calloc((size_t)argc + 1, sizeof *args));
    size_t n;
    int code = options_parse(command, argc - 1, argv + 1, given, args, &n);
    if (!code && ((struct common *)given)->help)
        options_help(command);
    else if (!code)
        code = command->run(command, given, args, n);
    options_free(command, given);
    free(args);
    free(given);
    return code;
}

static int program(int argc, char **argv)
{
    if (argc < 2) {
        help_all();
        return EXIT_USAGE;
    }
    const char *word = argv[1];
    if (strcmp(word, "help") == 0)
        return help(argc - 2, argv + 2);
    if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0)
        return help(argc > 2 && argv[2][0] != '-' ? 1 : 0, argv + 2);
    if (strcmp(word, "--version") == 0 || strcmp(word, "-V") == 0) {
        out_printf("mneme %s (SQLite %s)\n", mn_version(), sqlite3_libversion());
        return 0;
    }
    const struct command *command = command_find(word);
    if (command)
        return command_run(command, argc - 1, argv + 1);
    if (word[0] == '-' || is_database(word))
        return repl_main(argc - 1, argv + 1);
    return unknown_command(word);
}

int main(int argc, char **argv)
{
    out_init();
    interrupt_init();
    int code = program(argc, argv);
    if (code == EXIT_INTERRUPTED)
        (void)interrupted_exit("interrupted");
    int finish = out_finish();
    return code ? code : finish;
}

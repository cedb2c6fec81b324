/* Options, figures, result lines, files and random numbers of the bench. */
#include "bench/bench.h"

#include <errno.h>
#include <ftw.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "bench/peers/driver.h"

int bench_fail(const char *format, ...)
{
    va_list args;
    fputs("mneme_bench: ", stderr);
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
    return 1;
}

/* ---- Options ------------------------------------------------------------------------------- */

bool size_parse(const char *text, uint64_t *out)
{
    static const struct {
        const char *unit;
        uint64_t bytes;
    } units[] = {
        {"", 1},           {"B", 1},           {"KB", 1000},
        {"MB", 1000000},   {"GB", 1000000000}, {"KiB", 1u << 10},
        {"MiB", 1u << 20}, {"GiB", 1u << 30},
    };
    char *end;
    errno = 0;
    unsigned long long number = strtoull(text, &end, 10);
    if (errno != 0 || end == text || *text == '-')
        return false;
    for (size_t i = 0; i < sizeof units / sizeof *units; i++)
        if (strcmp(end, units[i].unit) == 0)
            return !__builtin_mul_overflow((uint64_t)number, units[i].bytes, out);
    return false;
}

static bool count_parse(const char *text, uint64_t *out)
{
    char *end;
    errno = 0;
    *out = strtoull(text, &end, 10);
    return errno == 0 && end != text && *end == 0 && *text != '-';
}

static void opts_help(const char *about, const struct opt *opts, size_t n)
{
    printf("%s\n", about);
    for (size_t i = 0; i < n; i++) {
        char left[64];
        if (!opts[i].help)
            continue;
        int len = opts[i].value ? (int)strcspn(opts[i].value, "!") : 0;
        snprintf(left, sizeof left, "%s%s%.*s", opts[i].name, len ? " " : "", len,
                 opts[i].value ? opts[i].value : "");
        printf("  %-24s %s", left, opts[i].help);
        if (opts[i].value && opts[i].value[len] == '!')
            printf(" (required)");
        else if ((opts[i].kind == OPT_COUNT || opts[i].kind == OPT_SIZE) &&
                 *(uint64_t *)opts[i].out != 0)
            printf(" (%" PRIu64 ")", *(uint64_t *)opts[i].out);
        else if (opts[i].kind == OPT_TEXT && *(const char **)opts[i].out)
            printf(" (%s)", *(const char **)opts[i].out);
        printf("\n");
    }
}

/* Puts one value into its place; false after a sentence. */
static bool opt_take(const struct opt *o, const char *value)
{
    uint64_t number;
    switch (o->kind) {
    case OPT_COUNT:
    case OPT_SIZE:
        if (!(o->kind == OPT_SIZE ? size_parse : count_parse)(value, &number) || number < o->min ||
            number > o->max) {
            bench_fail("%s is '%s'; it may be %" PRIu64 " to %" PRIu64 "%s", o->name, value, o->min,
                       o->max, o->kind == OPT_SIZE ? " bytes, as in 512MB" : "");
            return false;
        }
        *(uint64_t *)o->out = number;
        return true;
    case OPT_METRIC:
        if (mn_metric_parse(value, o->out) && *(mn_metric *)o->out != MN_HAMMING)
            return true;
        bench_fail("%s is '%s'; it may be l2, ip or cosine", o->name, value);
        return false;
    case OPT_DTYPE:
        if (mn_dtype_parse(value, o->out) && *(mn_dtype *)o->out != MN_BIT)
            return true;
        bench_fail("%s is '%s'; it may be f32, f16, bf16 or i8", o->name, value);
        return false;
    case OPT_TEXT:
        *(const char **)o->out = value;
        return true;
    case OPT_FLAG:
        break;
    }
    return true;
}

enum opts_result opts_parse(const char *about, const struct opt *opts, size_t n, int argc,
                            char **argv)
{
    bool seen[64] = {false};
    for (int i = 1; i < argc; i++) {
        size_t o = 0;
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            opts_help(about, opts, n);
            return OPTS_HELP;
        }
        while (o < n && strcmp(argv[i], opts[o].name) != 0)
            o++;
        if (o == n || o >= sizeof seen) {
            bench_fail("%s: no option '%s'; --help lists them", argv[0], argv[i]);
            return OPTS_WRONG;
        }
        seen[o] = true;
        if (opts[o].kind == OPT_FLAG) {
            *(bool *)opts[o].out = true;
            continue;
        }
        if (i + 1 == argc) {
            bench_fail("%s: %s wants a value", argv[0], argv[i]);
            return OPTS_WRONG;
        }
        if (!opt_take(&opts[o], argv[++i]))
            return OPTS_WRONG;
    }
    for (size_t o = 0; o < n; o++)
        if (opts[o].value && strchr(opts[o].value, '!') && !seen[o]) {
            bench_fail("%s: %s is missing; --help lists the options", argv[0], opts[o].name);
            return OPTS_WRONG;
        }
    return OPTS_GO;
}

bool list_has(const char *list, const char *word)
{
    size_t len = strlen(word);
    for (const char *p = list; p && *p; p += strcspn(p, ","), p += *p == ',')
        if (strncmp(p, word, len) == 0 && (p[len] == ',' || p[len] == 0))
            return true;
    return false;
}

bool list_checked(const char *option, const char *list, const char *const *words)
{
    for (const char *p = list; *p; p += strcspn(p, ","), p += *p == ',') {
        size_t i = 0, len = strcspn(p, ",");
        while (words[i] && (strlen(words[i]) != len || strncmp(words[i], p, len) != 0))
            i++;
        if (!words[i]) {
            bench_fail("%s has '%.*s'; --help lists the words", option, (int)len, p);
            return false;
        }
    }
    return true;
}

/* ---- Figures ------------------------------------------------------------------------------- */

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double median_of(double *values, size_t n)
{
    if (n == 0)
        return 0;
    qsort(values, n, sizeof *values, compare_doubles);
    return n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

void figure_add(struct figure *f, double value)
{
    if (f->n < MAX_PASSES)
        f->values[f->n++] = value;
}

double figure_median(const struct figure *f)
{
    struct figure copy = *f;
    return median_of(copy.values, copy.n);
}

double figure_min(const struct figure *f)
{
    double least = f->n ? f->values[0] : 0;
    for (size_t i = 1; i < f->n; i++)
        least = f->values[i] < least ? f->values[i] : least;
    return least;
}

double figure_max(const struct figure *f)
{
    double most = f->n ? f->values[0] : 0;
    for (size_t i = 1; i < f->n; i++)
        most = f->values[i] > most ? f->values[i] : most;
    return most;
}

void json_put_number(json_t *object, const char *name, double value)
{
    char digits[40];
    snprintf(digits, sizeof digits, "%.5g", value);
    json_object_set_new(object, name, json_real(strtod(digits, NULL)));
}

void json_put_figure(json_t *object, const char *name, const struct figure *f)
{
    char longer[80];
    json_put_number(object, name, figure_median(f));
    snprintf(longer, sizeof longer, "%s_min", name);
    json_put_number(object, longer, figure_min(f));
    snprintf(longer, sizeof longer, "%s_max", name);
    json_put_number(object, longer, figure_max(f));
}

/* ---- Results ------------------------------------------------------------------------------- */

/* First line that a program prints, or "" if it fails. argv[0] is looked up in PATH. */
static void program_line(char *const argv[], char *out, size_t room)
{
    int fds[2], status = -1;
    ssize_t len = 0, got = 0;
    *out = 0;
    if (pipe(fds) != 0)
        return;
    pid_t pid = fork();
    if (pid == 0) {
        dup2(fds[1], 1);
        close(fds[0]);
        close(fds[1]);
        if (!freopen("/dev/null", "w", stderr))
            _exit(126);
        execvp(argv[0], argv);
        _exit(127);
    }
    close(fds[1]);
    while (pid > 0 && (size_t)len + 1 < room &&
           (got = read(fds[0], out + len, room - 1 - (size_t)len)) > 0)
        len += got;
    close(fds[0]);
    out[len] = 0;
    if (pid < 0 || waitpid(pid, &status, 0) != pid || status != 0)
        *out = 0;
    out[strcspn(out, "\n")] = 0;
}

/* The commit of the tree that holds this program, "-dirty" behind it if files differ. A program
 * that was taken to another machine is told it by MNEME_COMMIT. */
static void commit_of_program(char *out, size_t room)
{
    char exe[4096];
    const char *told = getenv("MNEME_COMMIT");
    if (told && *told) {
        snprintf(out, room, "%s", told);
        return;
    }
    ssize_t len = readlink("/proc/self/exe", exe, sizeof exe - 1);
    *out = 0;
    if (len > 0) {
        exe[len] = 0;
        *strrchr(exe, '/') = 0;
        program_line((char *const[]){"git", "-C", exe, "describe", "--always", "--dirty",
                                     "--exclude", "*", "--abbrev=12", NULL},
                     out, room);
    }
    if (!*out)
        snprintf(out, room, "unknown");
}

static void cpu_model(char *out, size_t room)
{
    char line[256];
    FILE *f = fopen("/proc/cpuinfo", "r");
    snprintf(out, room, "unknown");
    while (f && fgets(line, sizeof line, f)) {
        char *colon = strchr(line, ':');
        if (strncmp(line, "model name", 10) == 0 && colon) {
            colon[1 + strcspn(colon + 1, "\n")] = 0;
            snprintf(out, room, "%s", colon + 2);
            break;
        }
    }
    if (f)
        fclose(f);
}

static json_t *machine_json(void)
{
    char cpu[200], kernel[200];
    struct utsname u;
    cpu_model(cpu, sizeof cpu);
    snprintf(kernel, sizeof kernel, "unknown");
    if (uname(&u) == 0)
        snprintf(kernel, sizeof kernel, "%s %.100s", u.sysname, u.release);
    return json_pack("{s:s, s:I, s:s}", "cpu", cpu, "cores",
                     (json_int_t)sysconf(_SC_NPROCESSORS_ONLN), "kernel", kernel);
}

/* Options that change no figure are left out of the command that a line tells. */
static bool is_place(const char *option)
{
    static const char *const places[] = {"--json", "--work", "--label", "--data", "--peers-dir"};
    for (size_t i = 0; i < sizeof places / sizeof *places; i++)
        if (strcmp(option, places[i]) == 0)
            return true;
    return false;
}

int results_open(struct results *r, const char *path, const char *label, int argc, char **argv)
{
    size_t len;
    r->path = path;
    r->label = label;
    len = (size_t)snprintf(r->command, sizeof r->command, "mneme_bench");
    for (int i = 0; i < argc && len < sizeof r->command; i++) {
        if (is_place(argv[i]))
            i++;
        else
            len += (size_t)snprintf(r->command + len, sizeof r->command - len, " %s", argv[i]);
    }
    if (path && !(r->file = fopen(path, "w")))
        return bench_fail("%s: cannot be written: %s", path, strerror(errno));
    return 0;
}

int results_line(struct results *r, json_t *line)
{
    char commit[64], when[32];
    time_t now = time(NULL);
    struct tm utc;
    int rc = 0;
    if (!r->file || !line) {
        json_decref(line);
        return 0;
    }
    commit_of_program(commit, sizeof commit);
    strftime(when, sizeof when, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &utc));
    if (r->label)
        json_object_set_new(line, "label", json_string(r->label));
    if (r->data)
        json_object_set_new(line, "data", json_string(r->data));
    json_object_set_new(line, "command", json_string(r->command));
    json_object_set_new(line, "commit", json_string(commit));
#ifdef __clang__
    json_object_set_new(line, "compiler", json_string(__VERSION__));
#else
    json_object_set_new(line, "compiler", json_string("gcc " __VERSION__));
#endif
    json_object_set_new(line, "machine", machine_json());
    json_object_set_new(line, "time", json_string(when));
    if (json_dumpf(line, r->file, JSON_COMPACT | JSON_REAL_PRECISION(6)) != 0 ||
        fputc('\n', r->file) == EOF)
        rc = bench_fail("%s: cannot be written: %s", r->path, strerror(errno));
    json_decref(line);
    return rc;
}

int results_close(struct results *r)
{
    FILE *f = r->file;
    r->file = NULL;
    if (f && fclose(f) != 0)
        return bench_fail("%s: cannot be written: %s", r->path, strerror(errno));
    return 0;
}

/* ---- Files --------------------------------------------------------------------------------- */

int work_open(const char *parent, char *out, size_t room)
{
    if (!parent)
        parent = getenv("TMPDIR");
    if (!parent || !*parent)
        parent = "/var/tmp";
    if ((size_t)snprintf(out, room, "%s/mneme_bench.XXXXXX", parent) >= room || !mkdtemp(out))
        return bench_fail("%s: no folder can be made there: %s; name another with --work", parent,
                          strerror(errno));
    return 0;
}

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *where)
{
    (void)st;
    (void)kind;
    (void)where;
    return remove(path);
}

void work_close(const char *dir)
{
    if (dir && *dir)
        nftw(dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

uint64_t file_bytes(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 ? (uint64_t)st.st_size : 0;
}

const char *filesystem_name(const char *path)
{
    struct statfs fs;
    if (statfs(path, &fs) != 0)
        return "unknown";
    switch ((unsigned long)fs.f_type) { /* linux/magic.h */
    case 0xef53:
        return "ext4";
    case 0x58465342:
        return "xfs";
    case 0x9123683e:
        return "btrfs";
    case 0x01021994:
        return "tmpfs";
    case 0x794c7630:
        return "overlay";
    default:
        return "other";
    }
}

bool peer_path(const char *peers_dir, const char *file, char *out, size_t room)
{
    char exe[4096];
    ssize_t len = readlink("/proc/self/exe", exe, sizeof exe - 1);
    if (peers_dir) {
        snprintf(out, room, "%s/%s", peers_dir, file);
    } else if (len > 0) {
        exe[len] = 0;
        *strrchr(exe, '/') = 0;
        snprintf(out, room, "%s/peers/%s", exe, file);
    }
    return len > 0 && access(out, R_OK) == 0;
}

/* ---- Random numbers ------------------------------------------------------------------------ */

uint64_t bench_rand(struct bench_rng *r)
{
    uint64_t z = r->state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

int32_t bench_normal(struct bench_rng *r)
{
    int32_t sum = 0;
    for (int i = 0; i < 3; i++) {
        uint64_t u = bench_rand(r);
        sum += (int32_t)(u & 0xffff) + (int32_t)(u >> 16 & 0xffff) + (int32_t)(u >> 32 & 0xffff) +
               (int32_t)(u >> 48);
    }
    return sum - 6 * 65535; /* variance 12 x 65536^2 / 12 */
}

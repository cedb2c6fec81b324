/* What an embedder writes first. Exit 0 only if every answer is right. */
#include <mneme.h>

#include <stdio.h>
#include <string.h>

int main(int argc, char **argv)
{
    const char *version = mn_version();
    (void)argc;
    (void)argv;
    if (strcmp(mn_status_name(MN_BUSY), "busy") != 0 || !version[0]) {
        fprintf(stderr, "mneme %s: a status has the wrong name\n", version);
        return 1;
    }
    printf("mneme %s\n", version);
    return 0;
}

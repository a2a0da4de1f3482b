/* Times the start of small commands from a small program.
 *
 *   spawn ROUNDS LIMIT_SECONDS NAME=COMMAND...
 *
 * Every round starts each command once, with posix_spawn, in a fresh random order, and waits for it, so that noise
 * hits all of them alike. A tenth of the rounds (at least 3) come first and are not counted. COMMAND is split at
 * spaces. Prints one line a command, in microseconds:
 *
 *   NAME wall_p50 wall_p90 call_p50 call_p90 rounds
 *
 * wall: from before posix_spawn to after waitpid. call: posix_spawn alone. After LIMIT_SECONDS it stops early and
 * reports the rounds it has. A command that does not exit with 0 is an error. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { MAX_COMMANDS = 32, MAX_WORDS = 32 };

extern char **environ;

struct command {
    const char *name;
    char *words[MAX_WORDS + 1];
    double *wall, *call;
};

static double now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e6 + t.tv_nsec / 1e3;
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double percentile(double *sorted, int n, int percent) {
    int i = n * percent / 100;
    return sorted[i < n ? i : n - 1];
}

static void parse(struct command *c, char *text) {
    char *equals = strchr(text, '='), *rest, *word;
    if (!equals) {
        fprintf(stderr, "spawn: not NAME=COMMAND: %s\n", text);
        exit(2);
    }
    *equals = 0;
    c->name = text;
    int n = 0;
    for (word = strtok_r(equals + 1, " ", &rest); word && n < MAX_WORDS; word = strtok_r(NULL, " ", &rest))
        c->words[n++] = word;
    if (n == 0) {
        fprintf(stderr, "spawn: %s has no command\n", text);
        exit(2);
    }
}

static void once(struct command *c, posix_spawn_file_actions_t *files, int slot) {
    pid_t pid;
    int status;
    double start = now_us();
    int failed = posix_spawn(&pid, c->words[0], files, NULL, c->words, environ);
    double called = now_us();
    if (failed) {
        fprintf(stderr, "spawn: %s: %s\n", c->words[0], strerror(failed));
        exit(1);
    }
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR) {
            perror("spawn: waitpid");
            exit(1);
        }
    double end = now_us();
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
        fprintf(stderr, "spawn: %s ended with status 0x%x\n", c->name, status);
        exit(1);
    }
    if (slot >= 0) {
        c->wall[slot] = end - start;
        c->call[slot] = called - start;
    }
}

int main(int argc, char **argv) {
    static struct command commands[MAX_COMMANDS];
    int rounds = argc > 3 ? atoi(argv[1]) : 0, n = argc - 3;
    if (rounds < 1 || rounds > 100000 || n > MAX_COMMANDS) {
        fprintf(stderr, "usage: spawn ROUNDS LIMIT_SECONDS NAME=COMMAND...\n");
        return 2;
    }
    double limit_us = atof(argv[2]) * 1e6;
    for (int i = 0; i < n; i++) {
        parse(&commands[i], argv[i + 3]);
        commands[i].wall = calloc(rounds, sizeof(double));
        commands[i].call = calloc(rounds, sizeof(double));
        if (!commands[i].wall || !commands[i].call)
            return 1;
    }
    posix_spawn_file_actions_t files;
    posix_spawn_file_actions_init(&files);
    posix_spawn_file_actions_addopen(&files, 0, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_addopen(&files, 1, "/dev/null", O_WRONLY, 0);

    int order[MAX_COMMANDS], done = 0, warm = rounds / 10 < 3 ? 3 : rounds / 10;
    for (int i = 0; i < n; i++)
        order[i] = i;
    srand(1);
    double start = now_us();
    for (int round = -warm; round < rounds; round++) {
        for (int i = n - 1; i > 0; i--) {
            int j = rand() % (i + 1), t = order[i];
            order[i] = order[j];
            order[j] = t;
        }
        for (int i = 0; i < n; i++)
            once(&commands[order[i]], &files, round);
        if (round >= 0)
            done = round + 1;
        if (done > 0 && now_us() - start > limit_us)
            break;
    }
    for (int i = 0; i < n; i++) {
        struct command *c = &commands[i];
        qsort(c->wall, done, sizeof(double), ascending);
        qsort(c->call, done, sizeof(double), ascending);
        printf("%s %.1f %.1f %.1f %.1f %d\n", c->name, percentile(c->wall, done, 50), percentile(c->wall, done, 90),
               percentile(c->call, done, 50), percentile(c->call, done, 90), done);
    }
    return 0;
}

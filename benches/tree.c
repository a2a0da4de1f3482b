/* A tree of sleeping processes, to be ended by somebody else.
 *
 *   tree N [detach]
 *
 * Below this process it makes N more (at most 5000), each with up to eight children of its own; every second one calls
 * setsid. With `detach` those are double-forked as well, so that nobody's list of children names them any more. When
 * all N live it writes one byte to stdout; then it waits for a byte or the end of stdin, and exits. All die of SIGTERM
 * at once, and each gives up by itself after ALARM_SECONDS, so that nothing stays if a measurement goes wrong. */
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

enum { FANOUT = 8, LIMIT = 5000, ALARM_SECONDS = 120 };

static int born[2];

static void say(int fd) {
    if (write(fd, "x", 1) != 1)
        _exit(1);
}

static void node(int i, int n, int detach);

static void start(int i, int n, int detach) {
    int away = detach && i % 2;
    pid_t pid = fork();
    if (pid < 0) {
        perror("tree: fork");
        _exit(1);
    }
    if (pid > 0) {
        if (away)
            waitpid(pid, NULL, 0);
        return;
    }
    if (i % 2)
        setsid();
    if (away) {
        pid = fork();
        if (pid != 0)
            _exit(pid < 0);
    }
    node(i, n, detach);
}

/* Processes are numbered from 1; the children of i are 8i+1 .. 8i+8, those of the root (0) are 1 .. 8. */
static void node(int i, int n, int detach) {
    alarm(ALARM_SECONDS);
    for (int child = FANOUT * i + 1; child <= FANOUT * i + FANOUT && child <= n; child++)
        start(child, n, detach);
    if (i == 0)
        return;
    say(born[1]);
    close(born[0]);
    close(born[1]);
    for (;;)
        pause();
}

int main(int argc, char **argv) {
    int n = argc > 1 ? atoi(argv[1]) : -1;
    if (n < 0 || n > LIMIT) {
        fprintf(stderr, "usage: tree N [detach]\n");
        return 2;
    }
    if (pipe(born) < 0)
        return 1;
    node(0, n, argc > 2);
    close(born[1]);
    char byte;
    for (int seen = 0; seen < n; seen++)
        if (read(born[0], &byte, 1) != 1)
            return 1;
    say(1);
    if (read(0, &byte, 1) < 0)
        return 1;
    return 0;
}

/* Times the end of one process tree, from the request until the kernel knows none of its processes.
 *
 *   ending exit   COMMAND...         COMMAND runs `tree` under an owner; the request is a byte that lets `tree` exit
 *   ending cgroup DIRECTORY TREE...  TREE runs in a new cgroup in DIRECTORY; the request is a write to cgroup.kill
 *   ending self   COMMAND...         COMMAND makes and ends a tree by itself and prints "START END" in nanoseconds
 *
 * Prints "MICROSECONDS SURVIVORS". This process is a subreaper, so whatever an owner loses comes here and is seen: it
 * counts as a survivor, and is killed before this program ends. The clock stops when all that was to end has been
 * reaped, zombies too. In mode `self` COMMAND's own exit is not timed. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { READY_MS = 30000, LIMIT_SECONDS = 60 };

static char group[PATH_MAX];
static int give_up; /* set by SIGALRM, SIGTERM, SIGINT */

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void stop(int signal) {
    (void)signal;
    give_up = 1;
}

/* Kills and reaps all that is left below; returns how many there were. Only direct children are signalled: their pids
 * cannot be reused before this process reaps them. What they orphan becomes a direct child in turn. */
static int end_rest(void) {
    int count = 0;
    for (;;) {
        char path[64], line[1 << 16];
        snprintf(path, sizeof path, "/proc/self/task/%d/children", (int)getpid());
        FILE *file = fopen(path, "r");
        if (file) {
            size_t n = fread(line, 1, sizeof line - 1, file);
            fclose(file);
            line[n] = 0;
            for (char *at = line, *next; *at; at = next) {
                pid_t pid = strtol(at, &next, 10);
                if (next == at)
                    break;
                kill(pid, SIGKILL);
            }
        }
        if (waitpid(-1, NULL, 0) > 0)
            count++;
        else if (errno == ECHILD)
            return count;
    }
}

static void fail(const char *what) {
    fprintf(stderr, "ending: %s: %s\n", what, strerror(errno));
    end_rest();
    if (*group)
        rmdir(group);
    exit(1);
}

/* Reaps children until `last` has gone (or, with 0, until there is none), and remembers when the last other one went. */
static int reap(pid_t last, int *status, int64_t *other) {
    for (;;) {
        int s;
        pid_t pid = waitpid(-1, &s, 0);
        if (pid < 0 && errno == ECHILD)
            return 0;
        if (pid < 0 && give_up)
            return -1;
        if (pid > 0 && pid == last) {
            *status = s;
            return 0;
        }
        if (pid > 0)
            *other = now_ns();
    }
}

static int write_file(const char *name, const char *text) {
    char path[PATH_MAX + 32];
    snprintf(path, sizeof path, "%s/%s", group, name);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    int ok = write(fd, text, strlen(text)) > 0;
    close(fd);
    return ok ? 0 : -1;
}

int main(int argc, char **argv) {
    int by_group = argc > 3 && !strcmp(argv[1], "cgroup"), self = argc > 2 && !strcmp(argv[1], "self");
    if (!by_group && !self && !(argc > 2 && !strcmp(argv[1], "exit"))) {
        fprintf(stderr, "usage: ending exit|self COMMAND... | ending cgroup DIRECTORY TREE...\n");
        return 2;
    }
    struct sigaction act = {.sa_handler = stop};
    sigaction(SIGALRM, &act, NULL);
    sigaction(SIGTERM, &act, NULL);
    sigaction(SIGINT, &act, NULL);
    signal(SIGPIPE, SIG_IGN);
    alarm(LIMIT_SECONDS);
    prctl(PR_SET_CHILD_SUBREAPER, 1);

    int in[2], out[2];
    if (pipe2(in, O_CLOEXEC) < 0 || pipe2(out, O_CLOEXEC) < 0)
        fail("pipe");
    if (by_group) {
        snprintf(group, sizeof group, "%s/hostler-bench-%d", argv[2], (int)getpid());
        if (mkdir(group, 0755) < 0) {
            *group = 0;
            fail("mkdir of a cgroup");
        }
    }
    pid_t pid = fork();
    if (pid < 0)
        fail("fork");
    if (pid == 0) {
        signal(SIGPIPE, SIG_DFL);
        dup2(in[0], 0);
        dup2(out[1], 1);
        if (by_group && write_file("cgroup.procs", "0") < 0)
            _exit(125);
        execvp(argv[by_group ? 3 : 2], argv + (by_group ? 3 : 2));
        _exit(127);
    }
    close(in[0]);
    close(out[1]);

    int status = 0;
    int64_t start = 0, end, other = 0;
    char line[128] = "";
    if (!self) {
        struct pollfd ready = {.fd = out[0], .events = POLLIN};
        if (poll(&ready, 1, READY_MS) != 1 || read(out[0], line, 1) != 1) {
            errno = ENODATA;
            fail("the tree did not come up");
        }
        start = now_ns();
        if (by_group ? write_file("cgroup.kill", "1") < 0 : write(in[1], "x", 1) != 1)
            fail("the request to end");
    }
    /* An owner has ended its tree when it returns; for cgroup.kill the tree is all there is. */
    if (reap(by_group ? 0 : pid, &status, &other) < 0) {
        errno = ETIME;
        fail("waiting for the end");
    }
    end = now_ns();
    if (!by_group && status != 0) {
        fprintf(stderr, "ending: the command ended with status 0x%x\n", status);
        end_rest();
        return 1;
    }
    if (self) {
        long long s, e;
        ssize_t n = read(out[0], line, sizeof line - 1);
        if (n <= 0 || sscanf(line, "%lld %lld", &s, &e) != 2)
            fail("the command's times");
        start = s;
        end = other > e ? other : e;
    }
    /* Zombies handed up at the last moment are not survivors. */
    while (waitpid(-1, NULL, WNOHANG) > 0)
        ;
    int survivors = end_rest();
    if (*group && rmdir(group) < 0)
        fail("rmdir of the cgroup");
    printf("%.1f %d\n", (end - start) / 1e3, survivors);
    return 0;
}

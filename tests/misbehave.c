/*
 * misbehave: a program that leaves processes behind in every way known, for the tests of Hostler.
 *
 *   misbehave list                  each shape: name, ready lines it writes, living processes it has at the least, heavy or light
 *   misbehave alone SHAPE           the shape under a main process that stays
 *   misbehave direct SHAPE          this very process takes the shape
 *   misbehave wide N [SHAPE...]     N shapes side by side
 *   misbehave deep N [SHAPE...]     N levels, each with a shape and the next level
 *   misbehave mixed                 every shape at once
 * and the small tools of misbehave_tools.h; the shapes are in misbehave_shapes.h.
 *
 * From the environment:
 *   HOSTLER_TEST_MARK    what the test knows its processes by; also the last argument of whatever is executed
 *   MISBEHAVE_READY      file to which a line `shape pid` is appended once that shape stands
 *   MISBEHAVE_GO         FIFO; the main process exits when the test opens it for writing (never, where it isn't set)
 *   MISBEHAVE_EXIT       the main process's exit status
 *   MISBEHAVE_STUBBORN   the main process ignores TERM, HUP and INT too
 *   MISBEHAVE_BEAT       file of eight bytes, counted up by the shapes whose processes live too briefly to be listed
 *   MISBEHAVE_HOSTLER    the hostler binary, for the nested one
 *
 * Whatever happens, each process is ended by a kernel timer after LIFE seconds, stopped or not: a failing test leaves
 * nothing behind for long.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define LIFE 180  /* seconds that a process may live */
#define SPREE 20  /* seconds that one may go on making others */
#define FORKS 4000 /* how many those may be */

static char self[PATH_MAX], ready_path[PATH_MAX], mark[128], go_path[PATH_MAX], hostler[PATH_MAX];
static char *argv_start;
static size_t argv_len;
static _Atomic unsigned long *beat, own_beat;
static struct timespec begun;

static _Noreturn void die(const char *what) {
    dprintf(2, "misbehave: %s: %s\n", what, strerror(errno));
    _exit(99);
}

static void nap(long ms) {
    struct timespec t = {ms / 1000, ms % 1000 * 1000000};
    nanosleep(&t, NULL);
}

static long elapsed(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec - begun.tv_sec;
}

/* Arms this process's end: SIGKILL from the kernel, which neither a mask, nor SIG_IGN, nor a stop keeps away. */
static void arm(void) {
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGKILL};
    struct itimerspec when = {.it_value = {LIFE, 0}};
    timer_t timer;
    if (timer_create(CLOCK_MONOTONIC, &event, &timer) || timer_settime(timer, 0, &when, NULL)) die("timer");
}

static pid_t spawn(void) {
    pid_t pid = fork();
    if (pid < 0) die("fork");
    if (pid == 0) arm();
    return pid;
}

static void append(const char *path, const char *line) {
    if (!*path) return;
    int fd = open(path, O_WRONLY | O_APPEND | O_CLOEXEC);
    if (fd < 0) die(path);
    if (write(fd, line, strlen(line)) < 0) die("write");
    close(fd);
}

static void ready(const char *name) {
    char line[256];
    snprintf(line, sizeof line, "%s %d\n", name, getpid());
    append(ready_path, line);
}

static _Noreturn void hold(void) {
    for (;;) pause();
}

static void ignore(void) {
    signal(SIGTERM, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    signal(SIGINT, SIG_IGN);
}

/* Goes on as a child whose parent is gone. */
static void orphan(void) {
    pid_t parent = getpid();
    if (spawn()) _exit(0);
    while (getppid() == parent) nap(1);
}

/* Becomes a leaf by exec: `misbehave leaf SHAPE READY MARK`. */
static _Noreturn void exec_leaf(const char *name, char *const env[]) {
    char *argv[] = {self, "leaf", (char *)name, ready_path, mark, NULL};
    execve(self, argv, env);
    die("exec");
}

#include "misbehave_shapes.h"

static const struct shape *shape_called(const char *name) {
    for (int i = 0; i < SHAPES; i++)
        if (!strcmp(shapes[i].name, name)) return &shapes[i];
    dprintf(2, "misbehave: no shape `%s`\n", name);
    _exit(98);
}

static void start(const struct shape *shape) {
    if (spawn() == 0) {
        shape->run();
        _exit(0);
    }
}

/* The nth of the named shapes, or of the light ones where none is named. */
static const struct shape *choose(int n, char **names, int count) {
    static const struct shape *light[SHAPES];
    int lights = 0;
    if (count) return shape_called(names[n % count]);
    for (int i = 0; i < SHAPES; i++)
        if (!shapes[i].heavy) light[lights++] = &shapes[i];
    return light[n % lights];
}

/* The main process, once its shapes are on their way. */
static _Noreturn void stay(void) {
    if (getenv("MISBEHAVE_STUBBORN")) ignore();
    ready("main");
    if (!*go_path) hold();
    while (open(go_path, O_RDONLY) < 0)
        if (errno != EINTR) die(go_path);
    _exit(getenv("MISBEHAVE_EXIT") ? atoi(getenv("MISBEHAVE_EXIT")) : 0);
}

#include "misbehave_tools.h"

static void from_environment(const char *name, char *to, size_t size) {
    const char *value = getenv(name);
    if (value) snprintf(to, size, "%s", value);
}

int main(int argc, char **argv) {
    clock_gettime(CLOCK_MONOTONIC, &begun);
    arm();
    argv_start = argv[0];
    argv_len = argv[argc - 1] + strlen(argv[argc - 1]) + 1 - argv[0];
    if (readlink("/proc/self/exe", self, sizeof self - 1) < 0) snprintf(self, sizeof self, "%s", argv[0]);
    from_environment("MISBEHAVE_READY", ready_path, sizeof ready_path);
    from_environment("HOSTLER_TEST_MARK", mark, sizeof mark);
    from_environment("MISBEHAVE_GO", go_path, sizeof go_path);
    from_environment("MISBEHAVE_HOSTLER", hostler, sizeof hostler);
    beat = &own_beat;
    if (getenv("MISBEHAVE_BEAT")) {
        int fd = open(getenv("MISBEHAVE_BEAT"), O_RDWR | O_CLOEXEC);
        void *at = mmap(NULL, sizeof *beat, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (at == MAP_FAILED) die("beat");
        close(fd);
        beat = at;
    }
    const char *verb = argc > 1 ? argv[1] : "";
    if (!strcmp(verb, "list")) {
        for (const struct shape *s = shapes; s < shapes + SHAPES; s++)
            printf("%s %d %d %s\n", s->name, s->lines, s->living, s->heavy ? "heavy" : "light");
        return 0;
    }
    if (!strcmp(verb, "leaf") && argc == 5) {
        snprintf(ready_path, sizeof ready_path, "%s", argv[3]);
        ignore();
        ready(argv[2]);
        if (!strcmp(argv[2], "stopped-job")) raise(SIGSTOP);
        hold();
    }
    if (!strcmp(verb, "direct") && argc == 3) {
        shape_called(argv[2])->run();
        return 0;
    }
    if (!strcmp(verb, "alone") && argc == 3) {
        start(shape_called(argv[2]));
        stay();
    }
    if (!strcmp(verb, "mixed")) {
        for (int i = 0; i < SHAPES; i++) start(&shapes[i]);
        stay();
    }
    if (!strcmp(verb, "wide") && argc >= 3) {
        for (int i = 0; i < atoi(argv[2]); i++) start(choose(i, argv + 3, argc - 3));
        stay();
    }
    if (!strcmp(verb, "deep") && argc >= 3) {
        int levels = atoi(argv[2]), level = 1;
        for (; level <= levels; level++) {
            start(choose(level - 1, argv + 3, argc - 3));
            if (level < levels && spawn()) break;
        }
        if (level == 1) stay();
        hold();
    }
    return misbehave_tools(verb, argc, argv);
}

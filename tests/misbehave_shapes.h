/*
 * The shapes of misbehave, and the table of them. Part of misbehave.c.
 */

static void shape_ignores(void) { ignore(); ready("ignores"); hold(); }

static void shape_blocks(void) {
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, NULL);
    ready("blocks");
    hold();
}

static void shape_stopped(void) {
    pid_t child = spawn();
    if (child == 0)
        for (ignore();;) raise(SIGSTOP);
    int status;
    if (waitpid(child, &status, WUNTRACED) != child || !WIFSTOPPED(status)) die("stopped");
    ready("stopped");
    hold();
}

static void shape_double_fork(void) { orphan(); ready("double-fork"); hold(); }

static void shape_setsid(void) { orphan(); setsid(); ignore(); ready("setsid"); hold(); }

static void shape_closed(void) {
    orphan();
    setsid();
    for (int fd = 0; fd < 1024; fd++) close(fd);
    ready("closed");
    hold();
}

static void shape_scrubbed(void) {
    char *none[] = {NULL};
    orphan();
    setsid();
    exec_leaf("scrubbed", none);
}

/* Calls itself a keeper, in both of its names. */
static void shape_renamed(void) {
    orphan();
    prctl(PR_SET_NAME, "hostler-keeper");
    memset(argv_start, 0, argv_len);
    strncpy(argv_start, "hostler-keeper", argv_len - 1);
    ignore();
    ready("renamed");
    hold();
}

/* Everyone makes new ones, never many at a time. */
static void shape_forks(void) {
    struct counts { _Atomic long alive, total; } *n =
        mmap(NULL, sizeof *n, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (n == MAP_FAILED) die("mmap");
    ignore();
    n->alive = 1;
    ready("forks");
    for (unsigned turn = getpid();; turn++) {
        for (int status; waitpid(-1, &status, WNOHANG) > 0;)
            if (WIFSIGNALED(status)) n->alive--;
        if (elapsed() < SPREE && n->alive < 24 && ++n->total < FORKS) {
            n->alive++;
            ++*beat;
            if (spawn() == 0) turn = getpid();
        }
        nap(5);
        if (turn % 16 == 0 && n->alive > 8) {
            n->alive--;
            _exit(0);
        }
    }
}

static void shape_pipe_holder(void) {
    orphan();
    signal(SIGPIPE, SIG_IGN);
    ready("pipe-holder");
    hold();
}

static void shape_wrapper(void) {
    char *argv[] = {"sh", "-c", "\"$0\" leaf wrapper \"$1\" \"$2\" & exit 0", self, ready_path, mark, NULL};
    execve("/bin/sh", argv, environ);
    die("sh");
}

static void shape_vfork(void) {
    pid_t child = vfork();
    if (child == 0) exec_leaf("vfork", environ);
    ignore();
    hold();
}

/* The parent stands in the kernel, in state D, until the child it vforked is gone. */
static void shape_vfork_held(void) {
    long child = syscall(SYS_clone, CLONE_VFORK | SIGCHLD, 0, 0, 0, 0);
    if (child < 0) die("clone");
    if (child == 0) {
        arm();
        ignore();
        ready("vfork-held");
    }
    hold();
}

static void *thread_spawning(void *arg) {
    if (spawn() == 0) exec_leaf("threads", environ);
    if (!arg) hold();
    return NULL;
}

static void shape_threads(void) {
    pthread_t thread;
    for (int i = 0; i < 4; i++)
        if (pthread_create(&thread, NULL, thread_spawning, NULL)) die("thread");
    hold();
}

static void *thread_brief(void *arg) {
    if (spawn() == 0) hold();
    return arg;
}

static void shape_brief_thread(void) {
    pthread_t thread;
    if (pthread_create(&thread, NULL, thread_brief, NULL) || pthread_join(thread, NULL)) die("thread");
    ready("brief-thread");
    hold();
}

/* The first thread is gone, so the kernel shows the process as a zombie; it lives all the same. */
static void *thread_left(void *arg) {
    for (char state = 0; state != 'Z'; nap(1)) {
        char text[512] = "";
        int fd = open("/proc/self/stat", O_RDONLY | O_CLOEXEC);
        if (fd < 0 || read(fd, text, sizeof text - 1) < 0) break;
        close(fd);
        char *end = strrchr(text, ')');
        state = end ? end[2] : 'Z';
    }
    ready("headless");
    hold();
    return arg;
}

static void shape_headless(void) {
    pthread_t thread;
    ignore();
    if (pthread_create(&thread, NULL, thread_left, NULL)) die("thread");
    pthread_exit(NULL);
}

static void shape_subreaper(void) {
    orphan();
    setsid();
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    ignore();
    for (int i = 0; i < 2; i++)
        if (spawn() == 0) {
            orphan();
            if (getppid() == 1) die("not reaped by the subreaper");
            ready("subreaper");
            hold();
        }
    for (;;)
        if (waitpid(-1, NULL, 0) < 0) pause();
}

static void on_alarm(int signal) { _exit(signal); }

static void shape_pidns(void) {
    if (unshare(CLONE_NEWUSER | CLONE_NEWPID)) {
        ready("pidns-not-allowed");
        hold();
    }
    if (spawn() == 0) {
        /* The first process of a namespace is not ended by its own timer's SIGKILL. */
        signal(SIGALRM, on_alarm);
        alarm(LIFE);
        if (spawn() == 0) {
            ignore();
            ready("pidns");
        }
    }
    hold();
}

static void shape_ptracer(void) {
    pid_t child = spawn();
    if (child == 0) {
        ptrace(PTRACE_TRACEME, 0, NULL, NULL);
        for (;;) raise(SIGSTOP);
    }
    int status;
    if (waitpid(child, &status, 0) != child || !WIFSTOPPED(status)) die("ptrace");
    ignore();
    ready("ptracer");
    hold();
}

static void shape_zombie(void) {
    siginfo_t info;
    ignore();
    for (int i = 0; i < 3; i++) {
        pid_t child = spawn();
        if (child == 0) _exit(3);
        if (waitid(P_PID, child, &info, WEXITED | WNOWAIT)) die("waitid");
    }
    ready("zombie");
    hold();
}

static void shape_full_pipe(void) {
    static char block[65536];
    int ends[2];
    signal(SIGPIPE, SIG_IGN);
    if (pipe(ends)) die("pipe");
    if (spawn() == 0) {
        fcntl(ends[1], F_SETFL, O_NONBLOCK);
        while (write(ends[1], block, sizeof block) > 0) {}
        ready("full-pipe");
        fcntl(ends[1], F_SETFL, 0);
        for (;;)
            if (write(ends[1], block, sizeof block) < 0) nap(1);
    }
    hold();
}

static void shape_nested(void) {
    char *argv[] = {hostler, "run", "--", self, "leaf", "nested", ready_path, mark, NULL};
    if (!*hostler) {
        ready("nested-not-given");
        hold();
    }
    execve(hostler, argv, environ);
    die("hostler");
}

/* A command line tool that starts itself again, detached, and is done. */
static void shape_reexec(void) {
    if (spawn() == 0) {
        setsid();
        signal(SIGHUP, SIG_IGN);
        exec_leaf("reexec", environ);
    }
    _exit(0);
}

static void shape_eof_spin(void) {
    int ends[2];
    char byte;
    if (pipe(ends)) die("pipe");
    close(ends[1]);
    nice(19);
    ready("eof-spin");
    while (read(ends[0], &byte, 1) == 0) sched_yield();
    hold();
}

/* Each link makes the next and is gone: whoever looks, then kills, is too late for it. */
static void shape_chain(void) {
    ignore();
    ready("chain");
    while (elapsed() < SPREE) {
        ++*beat;
        if (spawn()) _exit(0);
    }
}

static void shape_respawner(void) {
    int made = 0;
    ignore();
    for (; made < 3; made++)
        if (spawn() == 0) {
            signal(SIGTERM, SIG_DFL);
            hold();
        }
    ready("respawner");
    while (elapsed() < SPREE && made < FORKS) {
        if (waitpid(-1, NULL, 0) < 0) break;
        ++*beat;
        made++;
        if (spawn() == 0) {
            signal(SIGTERM, SIG_DFL);
            hold();
        }
    }
    hold();
}

static void shape_stderr_sleep(void) {
    orphan();
    close(0);
    close(1);
    ready("stderr-sleep");
    execlp("sleep", "sleep", "175", NULL);
    die("sleep");
}

/* When a process was started, in clock ticks since boot; -1 where it is gone. */
static long long started(pid_t pid) {
    char path[64], text[1024] = "";
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return -1;
    ssize_t length = read(fd, text, sizeof text - 1);
    close(fd);
    char *field = length > 0 ? strrchr(text, ')') : NULL;
    /* The name is the second field; this is the 22nd. */
    for (int at = 2; field && at < 22; at++) field = strchr(field + 1, ' ');
    return field ? atoll(field + 1) : -1;
}

/* A parent and its child of the same clock tick: who asks which of them is older is told neither. */
static void shape_same_tick(void) {
    ignore();
    for (int round = 0; round < 1000; round++) {
        pid_t parent = spawn();
        if (parent == 0) {
            pid_t child = spawn();
            if (child == 0) {
                if (started(getpid()) != started(getppid())) _exit(1);
                ready("same-tick");
                hold();
            }
            if (started(child) == started(getpid())) hold();
            waitpid(child, NULL, 0);
            _exit(1);
        }
        /* It ends only if it has to be tried again. */
        waitpid(parent, NULL, 0);
    }
    die("no two of the same tick");
}

/* A group whose leader is gone: getpgid() of the leader fails. */
static void shape_no_leader(void) {
    setpgid(0, 0);
    orphan();
    ignore();
    ready("no-leader");
    hold();
}

/* An interactive shell in a terminal, with two background jobs, one of them stopped. */
static void shape_terminal_jobs(void) {
    int master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
    char name[64], lines[3 * PATH_MAX];
    if (master < 0 || grantpt(master) || unlockpt(master) || ptsname_r(master, name, sizeof name)) die("pty");
    if (spawn() == 0) {
        setsid();
        int slave = open(name, O_RDWR);
        if (slave < 0) die(name);
        for (int fd = 0; fd < 3; fd++) dup2(slave, fd);
        if (slave > 2) close(slave);
        execlp("bash", "bash", "--norc", "--noprofile", "--noediting", "-i", NULL);
        die("bash");
    }
    const char *leaf = "\"%s\" leaf %s \"%s\" %s &\n";
    int at = snprintf(lines, sizeof lines, "unset HISTFILE\n");
    at += snprintf(lines + at, sizeof lines - at, leaf, self, "terminal-jobs", ready_path, mark);
    snprintf(lines + at, sizeof lines - at, leaf, self, "stopped-job", ready_path, mark);
    if (write(master, lines, strlen(lines)) < 0) die("write");
    for (char drain[4096];;)
        if (read(master, drain, sizeof drain) <= 0) hold();
}

static const struct shape {
    const char *name;
    void (*run)(void);
    int lines, living, heavy; /* heavy: busy all the time, so few of it at a time */
} shapes[] = {
    {"ignores", shape_ignores, 1, 1, 0},
    {"blocks", shape_blocks, 1, 1, 0},
    {"stopped", shape_stopped, 1, 2, 0},
    {"double-fork", shape_double_fork, 1, 1, 0},
    {"setsid", shape_setsid, 1, 1, 0},
    {"closed", shape_closed, 1, 1, 0},
    {"scrubbed", shape_scrubbed, 1, 1, 0},
    {"renamed", shape_renamed, 1, 1, 0},
    {"forks", shape_forks, 1, 1, 1},
    {"pipe-holder", shape_pipe_holder, 1, 1, 0},
    {"wrapper", shape_wrapper, 1, 1, 0},
    {"vfork", shape_vfork, 1, 2, 0},
    {"vfork-held", shape_vfork_held, 1, 2, 0},
    {"threads", shape_threads, 4, 5, 0},
    {"brief-thread", shape_brief_thread, 1, 2, 0},
    {"headless", shape_headless, 1, 1, 0},
    {"subreaper", shape_subreaper, 2, 3, 0},
    {"pidns", shape_pidns, 1, 1, 0},
    {"ptracer", shape_ptracer, 1, 2, 0},
    {"zombie", shape_zombie, 1, 1, 0},
    {"full-pipe", shape_full_pipe, 1, 2, 0},
    {"nested", shape_nested, 1, 1, 1},
    {"reexec", shape_reexec, 1, 1, 0},
    {"eof-spin", shape_eof_spin, 1, 1, 1},
    {"chain", shape_chain, 1, 0, 1},
    {"respawner", shape_respawner, 1, 3, 1},
    {"stderr-sleep", shape_stderr_sleep, 1, 1, 0},
    {"no-leader", shape_no_leader, 1, 1, 0},
    {"same-tick", shape_same_tick, 1, 3, 0},
    {"terminal-jobs", shape_terminal_jobs, 2, 4, 1},
};
#define SHAPES (int)(sizeof shapes / sizeof *shapes)

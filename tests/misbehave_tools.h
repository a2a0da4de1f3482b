/*
 * The small tools of misbehave: what a test needs of a command besides misbehaving. Part of misbehave.c.
 *
 *   exit N | die N                    exit with a status, or die of a signal
 *   signals LOG                       append the number of each signal received to LOG, until told to go
 *   sizes LOG                         append the terminal's size to LOG, now and at each SIGWINCH
 *   fds | state                       print the descriptors, or what else a process inherits
 *   alloc BYTES [N]                   hold that much memory, in each of N processes
 *   bomb N                            fork up to N children; append `forked HOW-MANY` when there are no more
 *   tick MS N                         print N lines, one each MS
 *   zombie-owner                      print the pid of a child that becomes a zombie when told to go
 *   recycle PID                       be a bystander under that very pid; needs CAP_CHECKPOINT_RESTORE in the namespace
 *   send N PID [COUNT]                send signal N to a process, or to the group -PID, COUNT times
 *   write-endlessly                   to standard output, ignoring SIGPIPE
 *   filtered ERRNO CMD...             execute CMD under a filter that refuses clone3 and close_range, as old containers' do
 *   refused CALL ERRNO CMD...         execute CMD under a filter that refuses pidfd_open or pidfd_send_signal
 */

static void *tool_go(void *arg) {
    while (open(go_path, O_RDONLY) < 0)
        if (errno != EINTR) die(go_path);
    _exit(0);
    return arg;
}

static int tool_signals(const char *log) {
    sigset_t all;
    pthread_t thread;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, NULL);
    if (*go_path && pthread_create(&thread, NULL, tool_go, NULL)) die("thread");
    ready("signals");
    for (siginfo_t info;;) {
        char line[32];
        if (sigwaitinfo(&all, &info) < 0) continue;
        snprintf(line, sizeof line, "%d\n", info.si_signo);
        append(log, line);
    }
    return 0;
}

static int tool_sizes(const char *log) {
    sigset_t winch;
    pthread_t thread;
    sigemptyset(&winch);
    sigaddset(&winch, SIGWINCH);
    sigprocmask(SIG_BLOCK, &winch, NULL);
    if (*go_path && pthread_create(&thread, NULL, tool_go, NULL)) die("thread");
    ready("sizes");
    for (int signal;;) {
        struct winsize size = {0};
        char line[32];
        if (ioctl(0, TIOCGWINSZ, &size)) die("TIOCGWINSZ");
        snprintf(line, sizeof line, "%d %d\n", size.ws_row, size.ws_col);
        append(log, line);
        sigwait(&winch, &signal);
    }
    return 0;
}

static int tool_fds(void) {
    for (int fd = 0; fd < 1024; fd++) {
        char path[64], target[PATH_MAX] = "";
        int flags = fcntl(fd, F_GETFD);
        if (flags < 0) continue;
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        if (readlink(path, target, sizeof target - 1) < 0) strcpy(target, "?");
        printf("%d %s %#x %#x\n", fd, target, flags, fcntl(fd, F_GETFL));
    }
    return 0;
}

static void print_lines_of(const char *path, const char *const *keys) {
    char line[4096];
    FILE *file = fopen(path, "re");
    while (file && fgets(line, sizeof line, file))
        for (const char *const *key = keys; *key; key++)
            if (!strncmp(line, *key, strlen(*key))) fputs(line, stdout);
    if (file) fclose(file);
}

static int tool_state(void) {
    static const char *const status[] = {"Umask", "Uid", "Gid", "Groups", "SigBlk", "SigIgn", "SigCgt", "SigPnd", "ShdPnd", "Cap",
                                         "NoNewPrivs", "Seccomp:", "Cpus_allowed_list", "Mems_allowed_list", "CoreDumping", NULL};
    static const char *const any[] = {"", NULL};
    char cwd[PATH_MAX];
    int number = 0;
    printf("cwd %s\n", getcwd(cwd, sizeof cwd) ? cwd : strerror(errno));
    printf("nice %d\n", getpriority(PRIO_PROCESS, 0));
    printf("scheduler %d\n", sched_getscheduler(0));
    printf("io priority %ld\n", syscall(SYS_ioprio_get, 1, 0));
    printf("dumpable %d\n", prctl(PR_GET_DUMPABLE));
    printf("securebits %d\n", prctl(PR_GET_SECUREBITS));
    printf("timer slack %d\n", prctl(PR_GET_TIMERSLACK));
    prctl(PR_GET_CHILD_SUBREAPER, &number);
    printf("subreaper %d\n", number);
    printf("session %s\n", getsid(0) == getpid() ? "own" : "inherited");
    printf("group %s\n", getpgrp() == getpid() ? "own" : "inherited");
    print_lines_of("/proc/self/status", status);
    print_lines_of("/proc/self/limits", any);
    print_lines_of("/proc/self/oom_score_adj", any);
    print_lines_of("/proc/self/personality", any);
    for (char **variable = environ; *variable; variable++) printf("env %s\n", *variable);
    return 0;
}

static int tool_alloc(size_t bytes, int processes) {
    for (int i = 1; i < processes; i++)
        if (spawn() == 0) break;
    const size_t step = 1 << 20;
    for (size_t done = 0; done < bytes; done += step) {
        char *at = mmap(NULL, step, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (at == MAP_FAILED) die("mmap");
        memset(at, 1, step);
    }
    ready("alloc");
    hold();
}

static int tool_bomb(int count) {
    int made = 0;
    for (; made < count; made++) {
        pid_t pid = fork();
        if (pid < 0) break;
        if (pid == 0) {
            arm();
            hold();
        }
    }
    char line[64];
    snprintf(line, sizeof line, "forked %d\n", made);
    append(ready_path, line);
    hold();
}

static int tool_tick(int ms, int count) {
    for (int i = 0; i < count; i++) {
        nap(ms);
        if (write(1, "tick\n", 5) < 0) return 1;
    }
    return 0;
}

static int tool_zombie_owner(void) {
    siginfo_t info;
    pid_t child = spawn();
    if (child == 0) {
        while (open(go_path, O_RDONLY) < 0)
            if (errno != EINTR) die(go_path);
        _exit(0);
    }
    printf("%d\n", child);
    fflush(stdout);
    waitid(P_PID, child, &info, WEXITED | WNOWAIT);
    ready("zombie-owner");
    hold();
}

static int tool_recycle(pid_t wanted) {
    for (int tries = 0; tries < 1000; tries++) {
        int fd = open("/proc/sys/kernel/ns_last_pid", O_WRONLY | O_CLOEXEC);
        if (fd < 0) die("ns_last_pid");
        if (dprintf(fd, "%d", wanted - 1) < 0) die("ns_last_pid");
        pid_t pid = fork();
        close(fd);
        if (pid < 0) die("fork");
        if (pid == 0) {
            arm();
            if (getpid() != wanted) _exit(0);
            exec_leaf("recycled", environ);
        }
        if (pid == wanted) hold();
        waitpid(pid, NULL, 0);
    }
    ready("not-recycled");
    return 1;
}

static int tool_write_endlessly(void) {
    static char block[65536];
    signal(SIGPIPE, SIG_IGN);
    ready("write-endlessly");
    for (;;)
        if (write(1, block, sizeof block) < 0) nap(1);
    return 0;
}

static int tool_send(int signal, pid_t to, int count) {
    for (; count > 0; count--)
        if (kill(to, signal)) return errno;
    return 0;
}

static int tool_filtered(unsigned one, unsigned other, unsigned error, char **command) {
    struct sock_filter steps[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, one, 1, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, other, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | error),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog filter = {sizeof steps / sizeof *steps, steps};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter)) die("seccomp");
    execvp(*command, command);
    die(*command);
}

static int misbehave_tools(const char *verb, int argc, char **argv) {
    const char *first = argc > 2 ? argv[2] : "";
    const int second = argc > 3 ? atoi(argv[3]) : 1;
    if (!strcmp(verb, "exit")) return atoi(first);
    if (!strcmp(verb, "die")) {
        struct rlimit none = {0, 0};
        setrlimit(RLIMIT_CORE, &none);
        signal(atoi(first), SIG_DFL);
        raise(atoi(first));
        return 97;
    }
    if (!strcmp(verb, "signals")) return tool_signals(first);
    if (!strcmp(verb, "sizes")) return tool_sizes(first);
    if (!strcmp(verb, "fds")) return tool_fds();
    if (!strcmp(verb, "state")) return tool_state();
    if (!strcmp(verb, "alloc")) return tool_alloc(strtoul(first, NULL, 10), second);
    if (!strcmp(verb, "bomb")) return tool_bomb(atoi(first));
    if (!strcmp(verb, "tick")) return tool_tick(atoi(first), second);
    if (!strcmp(verb, "zombie-owner")) return tool_zombie_owner();
    if (!strcmp(verb, "recycle")) return tool_recycle(atoi(first));
    if (!strcmp(verb, "send")) return tool_send(atoi(first), second, argc > 4 ? atoi(argv[4]) : 1);
    if (!strcmp(verb, "filtered") && argc > 3)
        return tool_filtered(SYS_clone3, SYS_close_range, (unsigned)atoi(first), argv + 3);
    if (!strcmp(verb, "refused") && argc > 4) {
        const unsigned call = strcmp(first, "pidfd_open") ? SYS_pidfd_send_signal : SYS_pidfd_open;
        return tool_filtered(call, call, (unsigned)second, argv + 4);
    }
    if (!strcmp(verb, "write-endlessly")) return tool_write_endlessly();
    dprintf(2, "misbehave: what is `%s`?\n", verb);
    return 96;
}

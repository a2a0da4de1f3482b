// Uses a lot of one thing: `hog memory MIB`, `hog processes N`, `hog cpu`.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int main(int count, char **words) {
    size_t amount = count > 2 ? strtoul(words[2], NULL, 10) : 0;
    if (count < 2) return 2;
    if (!strcmp(words[1], "memory")) {
        volatile char *held = malloc(amount << 20);
        for (size_t at = 0; held && at < amount << 20; at += 4096) held[at] = 1;
        puts("held");
    } else if (!strcmp(words[1], "processes")) {
        size_t made = 0;
        for (size_t i = 0; i < amount; i++) {
            int pid = fork();
            if (pid == 0) {
                pause();
                _exit(0);
            }
            made += pid > 0;
        }
        printf("made %zu\n", made);
    } else {
        for (volatile size_t i = 0;; i++) {}
    }
    fflush(stdout);
    sleep(1);
    return 0;
}

/* The loops that are timed: the same program on every file system, and no interpreter in the way.
 *
 *   probe walk DIR      lstat everything below DIR
 *   probe stat DIR      lstat each file named on standard input (relative to DIR)
 *   probe small DIR     open, read, close each file named on standard input (relative to DIR)
 *   probe whole FILE    read FILE from its beginning, 1 MiB a call
 *   probe pages FILE N  read N single pages at places spread over FILE, without read-ahead
 *
 * Prints the seconds of the loop and how many things it touched.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <err.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static char buffer[1 << 20];
static long touched;

static void walk(int directory) {
    DIR *stream = fdopendir(directory);
    if (!stream) err(1, "fdopendir");
    for (struct dirent *entry; (entry = readdir(stream));) {
        struct stat found;
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
        if (fstatat(directory, entry->d_name, &found, AT_SYMLINK_NOFOLLOW)) err(1, "%s", entry->d_name);
        touched++;
        if (S_ISDIR(found.st_mode)) {
            int below = openat(directory, entry->d_name, O_RDONLY | O_DIRECTORY);
            if (below < 0) err(1, "%s", entry->d_name);
            walk(below);
        }
    }
    closedir(stream);
}

static void small(int directory, char *names, char *end) {
    for (char *name = names; name < end; name += strlen(name) + 1) {
        int file = openat(directory, name, O_RDONLY);
        if (file < 0 || read(file, buffer, sizeof buffer) <= 0) err(1, "%s", name);
        close(file);
        touched++;
    }
}

static void stat_each(int directory, char *names, char *end) {
    for (char *name = names; name < end; name += strlen(name) + 1) {
        struct stat found;
        if (fstatat(directory, name, &found, AT_SYMLINK_NOFOLLOW)) err(1, "%s", name);
        touched++;
    }
}

static void whole(int file) {
    for (ssize_t got; (got = read(file, buffer, sizeof buffer));) {
        if (got < 0) err(1, "read");
        touched += got;
    }
}

static void pages(int file, long count) {
    off_t all = lseek(file, 0, SEEK_END) / 4096;
    if (posix_fadvise(file, 0, 0, POSIX_FADV_RANDOM) || all < count) errx(1, "%ld pages", (long)all);
    for (; touched < count; touched++)
        if (pread(file, buffer, 4096, touched * (all / count) * 4096) != 4096) err(1, "pread");
}

static char *names, *names_end;

static void take_names(void) {
    size_t room = 1 << 24, got;
    names = names_end = malloc(room);
    while ((got = fread(names_end, 1, room - (names_end - names), stdin))) {
        names_end += got;
        if (names_end == names + room) errx(1, "too many names");
    }
    for (char *c = names; c < names_end; c++)
        if (*c == '\n') *c = 0;
}

int main(int argc, char **argv) {
    struct timespec begin, end;
    if (argc < 3) errx(2, "usage: see the source");
    if (argv[1][0] == 's') take_names();
    clock_gettime(CLOCK_MONOTONIC, &begin);
    int at = open(argv[2], O_RDONLY);
    if (at < 0) err(1, "%s", argv[2]);
    if (!strcmp(argv[1], "walk")) walk(at);
    else if (!strcmp(argv[1], "small")) small(at, names, names_end);
    else if (!strcmp(argv[1], "stat")) stat_each(at, names, names_end);
    else if (!strcmp(argv[1], "whole")) whole(at);
    else pages(at, atol(argv[3]));
    clock_gettime(CLOCK_MONOTONIC, &end);
    printf("%.9f %ld\n", end.tv_sec - begin.tv_sec + (end.tv_nsec - begin.tv_nsec) / 1e9, touched);
}

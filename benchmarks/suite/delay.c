/* A TCP forwarder that makes a path longer, and no narrower.
 *
 *   delay LISTEN_ADDRESS LISTEN_PORT TARGET_PORT ONE_WAY_MICROSECONDS BUFFER_BYTES
 *
 * Every byte is handed on a fixed time after it came, in either direction; a new
 * connection's first bytes wait a round trip longer, as the handshake would have taken.
 * Of each direction up to BUFFER_BYTES are on their way, which must exceed rate x delay.
 * The target is on 127.0.0.1. One thread; ends with SIGTERM.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { CONNECTIONS = 512, SEGMENTS = 8192, PIECE = 128 << 10 };
static const long long NEVER = 1LL << 62;

struct segment {
    long long due; /* nanoseconds of CLOCK_MONOTONIC */
    size_t bytes;
};

/* One direction: a ring of bytes, and when each run of them is due. */
struct way {
    int from, to;
    char *ring;
    size_t start, held;
    struct segment segments[SEGMENTS];
    size_t first, count;
    int ended, closed; /* nothing more comes; and that was handed on */
    long long end_due, not_before;
};

struct connection {
    struct way up, down;
};

static struct connection *connections[CONNECTIONS];
static int connection_count;
static long long delay;
static size_t capacity;

static long long now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static long long due_time(const struct way *way) {
    if (way->count)
        return way->segments[way->first].due;
    return way->ended && !way->closed ? way->end_due : NEVER;
}

static int has_room(const struct way *way) {
    return !way->ended && way->held < capacity && way->count < SEGMENTS;
}

/* Returns -1 when the connection is broken. */
static int take_in(struct way *way) {
    size_t end = (way->start + way->held) % capacity;
    size_t room = capacity - way->held;
    if (room > capacity - end)
        room = capacity - end;
    if (room > PIECE)
        room = PIECE;
    ssize_t got = recv(way->from, way->ring + end, room, MSG_DONTWAIT);
    if (got < 0)
        return errno == EAGAIN || errno == EINTR ? 0 : -1;
    long long at = now();
    if (at < way->not_before)
        at = way->not_before;
    if (got == 0) {
        way->ended = 1;
        way->end_due = at + delay;
        return 0;
    }
    way->segments[(way->first + way->count++) % SEGMENTS] =
        (struct segment){at + delay, (size_t)got};
    way->held += (size_t)got;
    return 0;
}

static int hand_on(struct way *way, long long at) {
    while (way->count && way->segments[way->first].due <= at) {
        struct segment *segment = &way->segments[way->first];
        size_t amount = segment->bytes;
        if (amount > capacity - way->start)
            amount = capacity - way->start;
        ssize_t sent = send(way->to, way->ring + way->start, amount, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent < 0)
            return errno == EAGAIN || errno == EINTR ? 0 : -1;
        way->start = (way->start + (size_t)sent) % capacity;
        way->held -= (size_t)sent;
        segment->bytes -= (size_t)sent;
        if (segment->bytes == 0) {
            way->first = (way->first + 1) % SEGMENTS;
            way->count--;
        }
    }
    if (way->ended && !way->closed && !way->count && way->end_due <= at) {
        way->closed = 1;
        shutdown(way->to, SHUT_WR);
    }
    return 0;
}

static int connect_to(int port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof address)) {
        close(fd);
        return -1;
    }
    return fd;
}

static void prepare(struct way *way, int from, int to, long long not_before) {
    *way = (struct way){.from = from, .to = to, .not_before = not_before};
    way->ring = malloc(capacity);
    if (!way->ring)
        abort();
}

static void welcome(int listener, int port) {
    int client = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    if (client < 0)
        return;
    int server = connection_count < CONNECTIONS ? connect_to(port) : -1;
    if (server < 0) {
        close(client);
        return;
    }
    int one = 1;
    setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(server, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    struct connection *made = malloc(sizeof *made);
    if (!made)
        abort();
    prepare(&made->up, client, server, now() + 2 * delay);
    prepare(&made->down, server, client, 0);
    connections[connection_count++] = made;
}

static void drop(int index) {
    struct connection *gone = connections[index];
    close(gone->up.from);
    close(gone->up.to);
    free(gone->up.ring);
    free(gone->down.ring);
    free(gone);
    connections[index] = connections[--connection_count];
}

/* Bytes that are due but find no room are waited for with POLLOUT, not by the clock. */
static short wanted(const struct way *in, const struct way *out, long long at) {
    return (short)((has_room(in) ? POLLIN : 0) |
                   (out->count && out->segments[out->first].due <= at ? POLLOUT : 0));
}

static void wait_for_events(struct pollfd *polled, int listener) {
    long long at = now(), next = NEVER;
    polled[0] = (struct pollfd){.fd = listener, .events = POLLIN};
    for (int i = 0; i < connection_count; i++) {
        struct way *ways[] = {&connections[i]->up, &connections[i]->down};
        for (int side = 0; side < 2; side++) {
            short events = wanted(ways[side], ways[!side], at);
            /* without wishes also no POLLHUP, which would make this spin */
            polled[1 + 2 * i + side] =
                (struct pollfd){.fd = events ? ways[side]->from : -1, .events = events};
            long long due = due_time(ways[side]);
            if (due > at && due < next)
                next = due;
        }
    }
    struct timespec timeout = {0};
    if (next != NEVER) {
        timeout.tv_sec = (next - at) / 1000000000LL;
        timeout.tv_nsec = (next - at) % 1000000000LL;
    }
    ppoll(polled, 1 + 2 * (nfds_t)connection_count, next == NEVER ? NULL : &timeout, NULL);
}

static int serve(struct connection *connection, short client, short server) {
    if ((client & (POLLIN | POLLHUP | POLLERR)) && has_room(&connection->up) &&
        take_in(&connection->up))
        return -1;
    if ((server & (POLLIN | POLLHUP | POLLERR)) && has_room(&connection->down) &&
        take_in(&connection->down))
        return -1;
    long long at = now();
    if (hand_on(&connection->up, at) || hand_on(&connection->down, at))
        return -1;
    return connection->up.closed && connection->down.closed ? -1 : 0;
}

int main(int argc, char **argv) {
    if (argc != 6) {
        fprintf(stderr, "usage: delay ADDRESS PORT TARGET_PORT MICROSECONDS BUFFER_BYTES\n");
        return 2;
    }
    delay = atoll(argv[4]) * 1000;
    capacity = (size_t)atoll(argv[5]);
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons((uint16_t)atoi(argv[2]))};
    int one = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (inet_pton(AF_INET, argv[1], &address.sin_addr) != 1 ||
        setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) ||
        bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 128)) {
        perror("delay");
        return 1;
    }
    struct pollfd *polled = calloc(1 + 2 * CONNECTIONS, sizeof *polled);
    if (!polled)
        abort();
    for (;;) {
        int count = connection_count;
        wait_for_events(polled, listener);
        for (int i = count - 1; i >= 0; i--)
            if (serve(connections[i], polled[1 + 2 * i].revents, polled[2 + 2 * i].revents))
                drop(i);
        if (polled[0].revents & POLLIN)
            welcome(listener, atoi(argv[3]));
    }
}

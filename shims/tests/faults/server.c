/* An echo server, of a stream and of datagrams, that goes on whatever goes wrong: `server ADDR PORT`. It says `ready`, and
 * `CALL: NAME` for every error that is not merely "not now", the first time that it sees it. SIGTERM ends it with 0. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define MOST 4096
#define ROOM 65536

/* What a connection has not taken back yet; while there is any, no more is read from it. */
struct connection {
    char *bytes;
    size_t from, to;
};

static struct connection connections[MOST];
static int epoll;
static volatile sig_atomic_t stop;

static void stopped(int signal) {
    (void)signal;
    stop = 1;
}

static void said(const char *call) {
    static char seen[16][256];
    static const char *calls[16];
    int number = errno, slot = 0;
    while (slot < 15 && calls[slot] != NULL && strcmp(calls[slot], call) != 0) slot++;
    calls[slot] = call;
    if (number < 0 || number > 255 || seen[slot][number]++) return;
    const char *name = strerrorname_np(number);
    printf("%s: %s\n", call, name == NULL ? "unknown" : name);
    fflush(stdout);
}

static int not_now(void) { return errno == EAGAIN || errno == EINTR; }

static void drop(int fd) {
    free(connections[fd].bytes);
    connections[fd].bytes = NULL;
    if (close(fd) != 0) said("close");
}

/* Waits for what a connection has to do next. */
static void expect(int operation, int fd, unsigned events) {
    struct epoll_event event = {.events = events, .data.fd = fd};
    if (epoll_ctl(epoll, operation, fd, &event) != 0) {
        said("epoll_ctl");
        drop(fd);
    }
}

/* Takes a piece and gives it back, or as much of it as goes. */
static void serve(int fd) {
    struct connection *one = &connections[fd];
    int waited = one->from < one->to;
    if (!waited) {
        ssize_t got = recv(fd, one->bytes, ROOM, 0);
        if (got < 0 && not_now()) return;
        if (got <= 0) {
            if (got < 0) said("recv");
            drop(fd);
            return;
        }
        one->from = 0;
        one->to = (size_t)got;
    }
    while (one->from < one->to) {
        ssize_t sent = send(fd, one->bytes + one->from, one->to - one->from, MSG_NOSIGNAL);
        if (sent < 0 && not_now()) {
            if (!waited) expect(EPOLL_CTL_MOD, fd, EPOLLOUT);
            return;
        }
        if (sent < 0) {
            said("send");
            drop(fd);
            return;
        }
        one->from += (size_t)sent;
    }
    if (waited) expect(EPOLL_CTL_MOD, fd, EPOLLIN);
}

static void welcome(int listener) {
    for (;;) {
        int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
        if (fd < 0) {
            if (!not_now()) {
                said("accept");
                usleep(1000);
            }
            return;
        }
        if (fd >= MOST || (connections[fd].bytes = malloc(ROOM)) == NULL) {
            close(fd);
            continue;
        }
        connections[fd].from = connections[fd].to = 0;
        expect(EPOLL_CTL_ADD, fd, EPOLLIN);
    }
}

static void datagrams(int fd) {
    char bytes[2048];
    for (int i = 0; i < 64; i++) {
        struct sockaddr_in from;
        socklen_t length = sizeof from;
        ssize_t got = recvfrom(fd, bytes, sizeof bytes, MSG_DONTWAIT, (struct sockaddr *)&from, &length);
        if (got < 0) {
            if (!not_now()) said("recvfrom");
            return;
        }
        if (sendto(fd, bytes, (size_t)got, MSG_DONTWAIT, (struct sockaddr *)&from, length) < 0 && !not_now())
            said("sendto");
    }
}

static int must(const char *call, int result) {
    if (result >= 0) return result;
    said(call);
    exit(3);
}

int main(int count, char **args) {
    if (count < 3) return 2;
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_port = htons((unsigned short)atoi(args[2]))};
    if (inet_pton(AF_INET, args[1], &addr.sin_addr) != 1) return 2;
    struct sigaction action = {.sa_handler = stopped};
    sigaction(SIGTERM, &action, NULL);
    int one = 1, listener = must("socket", socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0));
    int udp = must("socket", socket(AF_INET, SOCK_DGRAM, 0));
    must("setsockopt", setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one));
    must("bind", bind(listener, (struct sockaddr *)&addr, sizeof addr));
    must("bind", bind(udp, (struct sockaddr *)&addr, sizeof addr));
    must("listen", listen(listener, 512));
    epoll = must("epoll_create", epoll_create1(0));
    struct epoll_event events[64], event = {.events = EPOLLIN, .data.fd = listener};
    must("epoll_ctl", epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event));
    event.data.fd = udp;
    must("epoll_ctl", epoll_ctl(epoll, EPOLL_CTL_ADD, udp, &event));
    printf("ready\n");
    fflush(stdout);
    while (!stop) {
        int ready = epoll_wait(epoll, events, 64, 100);
        if (ready < 0) {
            if (!not_now()) {
                said("epoll_wait");
                usleep(10000);
            }
            continue;
        }
        for (int i = 0; i < ready; i++) {
            int fd = events[i].data.fd;
            if (fd == listener) welcome(fd);
            else if (fd == udp) datagrams(fd);
            else if (connections[fd].bytes != NULL) serve(fd);
        }
    }
    return 0;
}

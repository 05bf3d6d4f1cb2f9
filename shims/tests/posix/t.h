/* What every program here is made of: a server and a client that check what they see, and end with 0 only if all of it
 * was right. `PROGRAM server ADDR` says `ready PORT` and serves; `PROGRAM client ADDR PORT` is its peer. */
#ifndef T_H
#define T_H
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/select.h>
#include <sys/sendfile.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define UNUSED __attribute__((unused))

/* Ends the program, which has failed. */
__attribute__((noreturn, format(printf, 3, 4))) static void t_fail(const char *file, int line, const char *format, ...) {
    int saved = errno;
    va_list args;
    va_start(args, format);
    fprintf(stderr, "%s:%d: ", file, line);
    vfprintf(stderr, format, args);
    fprintf(stderr, " (errno %d: %s)\n", saved, strerror(saved));
    va_end(args);
    fflush(NULL);
    _exit(1);
}

#define CHECK(what)                                                                                                    \
    do {                                                                                                               \
        if (!(what)) t_fail(__FILE__, __LINE__, "%s", #what);                                                          \
    } while (0)

/* Two integers are the same. */
#define EQ(is, should)                                                                                                 \
    do {                                                                                                               \
        long long is_ = (long long)(is), should_ = (long long)(should);                                                \
        if (is_ != should_) t_fail(__FILE__, __LINE__, "%s is %lld, not %lld", #is, is_, should_);                     \
    } while (0)

/* A call that must not fail; its result. */
#define OK(call)                                                                                                       \
    ({                                                                                                                 \
        long long result_ = (long long)(call);                                                                         \
        if (result_ < 0) t_fail(__FILE__, __LINE__, "%s", #call);                                                      \
        result_;                                                                                                       \
    })

/* A call that must fail, and how. */
#define FAILS(call, error)                                                                                             \
    do {                                                                                                               \
        errno = 0;                                                                                                     \
        long long result_ = (long long)(call);                                                                         \
        if (result_ != -1) t_fail(__FILE__, __LINE__, "%s is %lld, not a failure", #call, result_);                    \
        if (errno != (error)) t_fail(__FILE__, __LINE__, "%s: not %s", #call, #error);                                 \
    } while (0)

/* A call that must block until it is interrupted, or time out, within bounds. */
#define TAKES(least, most, call)                                                                                       \
    do {                                                                                                               \
        long begin_ = t_ms();                                                                                          \
        call;                                                                                                          \
        long took_ = t_ms() - begin_;                                                                                  \
        if (took_ < (least) || took_ > (most)) t_fail(__FILE__, __LINE__, "%s took %ld ms", #call, took_);             \
    } while (0)

/* Where the server is. */
static struct sockaddr_storage t_addr;
static socklen_t t_addr_len;

static void server(void);
static void client(void);

UNUSED static long t_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

UNUSED static void t_sleep(long ms) {
    struct timespec left = {ms / 1000, ms % 1000 * 1000000};
    while (nanosleep(&left, &left) != 0 && errno == EINTR) {}
}

UNUSED static uint16_t t_port(const void *addr) {
    const struct sockaddr *any = addr;
    return ntohs(any->sa_family == AF_INET ? ((const struct sockaddr_in *)addr)->sin_port
                                           : ((const struct sockaddr_in6 *)addr)->sin6_port);
}

UNUSED static void t_set_port(void *addr, uint16_t port) {
    struct sockaddr *any = addr;
    if (any->sa_family == AF_INET) ((struct sockaddr_in *)addr)->sin_port = htons(port);
    else ((struct sockaddr_in6 *)addr)->sin6_port = htons(port);
}

/* The address of what has the server's, without its port. */
UNUSED static int t_same_host(const void *a, const void *b) {
    const struct sockaddr_storage *one = a, *other = b;
    if (one->ss_family != other->ss_family) return 0;
    if (one->ss_family == AF_INET)
        return ((const struct sockaddr_in *)a)->sin_addr.s_addr == ((const struct sockaddr_in *)b)->sin_addr.s_addr;
    return memcmp(&((const struct sockaddr_in6 *)a)->sin6_addr, &((const struct sockaddr_in6 *)b)->sin6_addr, 16) == 0;
}

UNUSED static int t_family(void) { return t_addr.ss_family; }

/* A socket of the server's, bound to where it is to be; the port is found when there is none yet. */
UNUSED static int t_bind(int type) {
    int fd = OK(socket(t_family(), type, 0)), one = 1;
    OK(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one));
    OK(bind(fd, (struct sockaddr *)&t_addr, t_addr_len));
    socklen_t length = sizeof t_addr;
    OK(getsockname(fd, (struct sockaddr *)&t_addr, &length));
    return fd;
}

/* The client may come. */
UNUSED static void t_ready(void) {
    printf("ready %d\n", t_port(&t_addr));
    fflush(stdout);
}

UNUSED static int t_listen(void) {
    int fd = t_bind(SOCK_STREAM);
    OK(listen(fd, 1024));
    t_ready();
    return fd;
}

UNUSED static int t_accept(int listener) { return OK(accept(listener, NULL, NULL)); }

UNUSED static int t_connect(void) {
    int fd = OK(socket(t_family(), SOCK_STREAM, 0));
    OK(connect(fd, (struct sockaddr *)&t_addr, t_addr_len));
    return fd;
}

UNUSED static void t_nonblock(int fd) { OK(fcntl(fd, F_SETFL, OK(fcntl(fd, F_GETFL)) | O_NONBLOCK)); }

/* Bytes by their place in a stream. */
UNUSED static unsigned char t_at(size_t place) { return (unsigned char)(place * 31 + (place >> 8) * 7 + (place >> 16)); }

UNUSED static void t_fill(unsigned char *bytes, size_t length, size_t place) {
    for (size_t i = 0; i < length; i++) bytes[i] = t_at(place + i);
}

UNUSED static void t_verify(const unsigned char *bytes, size_t length, size_t place) {
    for (size_t i = 0; i < length; i++)
        if (bytes[i] != t_at(place + i)) t_fail(__FILE__, __LINE__, "byte %zu is %d, not %d", place + i, bytes[i], t_at(place + i));
}

UNUSED static void t_send(int fd, const void *bytes, size_t length) {
    for (size_t done = 0; done < length;) done += OK(write(fd, (const char *)bytes + done, length - done));
}

UNUSED static void t_receive(int fd, void *bytes, size_t length) {
    for (size_t done = 0; done < length;) {
        ssize_t got = OK(read(fd, (char *)bytes + done, length - done));
        if (got == 0) t_fail(__FILE__, __LINE__, "the end after %zu of %zu bytes", done, length);
        done += got;
    }
}

/* So many bytes of a stream. */
UNUSED static void t_send_stream(int fd, size_t length, size_t place) {
    unsigned char chunk[16384];
    while (length > 0) {
        size_t part = length < sizeof chunk ? length : sizeof chunk;
        t_fill(chunk, part, place);
        t_send(fd, chunk, part);
        length -= part;
        place += part;
    }
}

UNUSED static void t_receive_stream(int fd, size_t length, size_t place) {
    unsigned char chunk[16384];
    while (length > 0) {
        size_t part = length < sizeof chunk ? length : sizeof chunk;
        t_receive(fd, chunk, part);
        t_verify(chunk, part, place);
        length -= part;
        place += part;
    }
}

/* One side tells the other how far it is. */
UNUSED static void t_tell(int fd, char what) { EQ(write(fd, &what, 1), 1); }

#define t_await(fd, what)                                                                                              \
    do {                                                                                                               \
        char got_ = 0;                                                                                                 \
        EQ(read(fd, &got_, 1), 1);                                                                                     \
        EQ(got_, what);                                                                                                \
    } while (0)

/* The peer has ended its side. */
#define t_await_end(fd)                                                                                                \
    do {                                                                                                               \
        char got_ = 0;                                                                                                 \
        EQ(read(fd, &got_, 1), 0);                                                                                     \
    } while (0)

/* What poll says of one descriptor. */
UNUSED static int t_poll(int fd, short events, int timeout) {
    struct pollfd one = {.fd = fd, .events = events};
    return OK(poll(&one, 1, timeout)) == 0 ? 0 : one.revents;
}

UNUSED static void t_ignore(int signal) { (void)signal; }

UNUSED static void t_handle(int number, int flags) {
    struct sigaction action = {.sa_handler = t_ignore, .sa_flags = flags};
    OK(sigaction(number, &action, NULL));
}

/* SIGALRM once, after so long. */
UNUSED static void t_alarm(long ms) {
    struct itimerval timer = {.it_value = {ms / 1000, ms % 1000 * 1000}};
    OK(setitimer(ITIMER_REAL, &timer, NULL));
}

/* A number that the compiler does not see through, for calls that it would rather not see made. */
UNUSED static long t_opaque(long number) {
    __asm__ volatile("" : "+r"(number));
    return number;
}

/* A child has ended well. */
UNUSED static void t_reap(pid_t pid) {
    int status = 0;
    EQ(OK(waitpid(pid, &status, 0)), pid);
    if (status != 0) t_fail(__FILE__, __LINE__, "child %d: status %#x", pid, status);
}

UNUSED static void t_join(pthread_t thread) { EQ(pthread_join(thread, NULL), 0); }

/* Another process of this program may be given more to do. */
static char **t_args;

int main(int count, char **args) {
    t_args = args;
    if (count < 3) return 2;
    struct addrinfo hints = {.ai_flags = AI_NUMERICHOST, .ai_socktype = SOCK_STREAM}, *found = NULL;
    if (getaddrinfo(args[2], NULL, &hints, &found) != 0) return 2;
    memcpy(&t_addr, found->ai_addr, found->ai_addrlen);
    t_addr_len = found->ai_addrlen;
    freeaddrinfo(found);
    if (strcmp(args[1], "server") == 0) {
        server();
    } else {
        if (count < 4) return 2;
        t_set_port(&t_addr, (uint16_t)atoi(args[3]));
        client();
    }
    return 0;
}
#endif

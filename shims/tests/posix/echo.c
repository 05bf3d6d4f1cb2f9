// Blocking reads and writes both ways, of every length around a segment's, and an end in each direction.
// also: ipv6
#include "t.h"

static const size_t LENGTHS[] = {1, 2, 511, 512, 513, 1447, 1448, 1449, 1460, 1461, 4096, 65535, 65536, 1 << 20};
#define COUNT (sizeof LENGTHS / sizeof *LENGTHS)

static void server(void) {
    int listener = t_listen(), fd = t_accept(listener);
    static char bytes[100000];
    for (ssize_t got; (got = OK(read(fd, bytes, sizeof bytes))) > 0;) t_send(fd, bytes, got);
    // An end stays one.
    t_await_end(fd);
    OK(close(fd));
    OK(close(listener));
}

static void client(void) {
    int fd = t_connect();
    size_t place = 0;
    for (size_t i = 0; i < COUNT; i++) {
        // A mebibyte fits on its way: the server sends while it is sent to.
        for (size_t left = LENGTHS[i]; left > 0;) {
            size_t part = left < 32768 ? left : 32768;
            t_send_stream(fd, part, place);
            t_receive_stream(fd, part, place);
            place += part;
            left -= part;
        }
    }
    OK(shutdown(fd, SHUT_WR));
    t_await_end(fd);
    OK(close(fd));
    FAILS(close(fd), EBADF);
    FAILS(read(fd, &place, 1), EBADF);
}

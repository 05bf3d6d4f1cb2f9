// A child for each connection, which the parent accepted and closes.
// except catnip: a connection stays with the process that accepted it, as its state is in that process's memory
#include "t.h"

#define CONNECTIONS 10

static void serve(int fd) {
    char byte;
    while (OK(read(fd, &byte, 1)) == 1) t_tell(fd, (char)(byte + 1));
    OK(shutdown(fd, SHUT_WR));
    _exit(0);
}

static void server(void) {
    int listener = t_listen();
    for (int i = 0; i < CONNECTIONS; i++) {
        int fd = t_accept(listener);
        pid_t pid = OK(fork());
        if (pid == 0) {
            OK(close(listener));
            serve(fd);
        }
        OK(close(fd));
        t_reap(pid);
    }
}

static void client(void) {
    for (int i = 0; i < CONNECTIONS; i++) {
        int fd = t_connect();
        pid_t pid = OK(fork());
        if (pid == 0) {
            // A child goes on with what its parent connected.
            t_tell(fd, 'a');
            t_await(fd, 'b');
            _exit(0);
        }
        t_reap(pid);
        t_tell(fd, 'x');
        t_await(fd, 'y');
        OK(shutdown(fd, SHUT_WR));
        t_await_end(fd);
        OK(close(fd));
    }
}

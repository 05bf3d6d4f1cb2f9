// A connection given to another program as its standard input and output, as inetd does.
// except catnip: a connection stays with the process that accepted it, as its state is in that process's memory
#include "t.h"

static void server(void) {
    int listener = t_listen();
    for (int i = 0; i < 3; i++) {
        int fd = t_accept(listener);
        pid_t pid = OK(fork());
        if (pid == 0) {
            OK(dup2(fd, 0));
            OK(dup2(fd, 1));
            execl("/bin/cat", "cat", (char *)NULL);
            _exit(1);
        }
        OK(close(fd));
        t_reap(pid);
    }
}

static void client(void) {
    for (int i = 0; i < 3; i++) {
        int fd = t_connect();
        t_send_stream(fd, 100000, 0);
        OK(shutdown(fd, SHUT_WR));
        t_receive_stream(fd, 100000, 0);
        t_await_end(fd);
        OK(close(fd));
    }
}

// More clients at once than are accepted: none is lost, and each is served in the end.
#include "t.h"

#define CLIENTS 64

static void server(void) {
    int listener = t_bind(SOCK_STREAM);
    OK(listen(listener, CLIENTS));
    t_ready();
    // The server is late.
    t_sleep(150);
    for (int i = 0; i < CLIENTS; i++) {
        int fd = t_accept(listener);
        char byte;
        t_receive(fd, &byte, 1);
        t_tell(fd, byte);
        OK(close(fd));
    }
}

static void client(void) {
    int fds[CLIENTS];
    for (int i = 0; i < CLIENTS; i++) {
        fds[i] = OK(socket(t_family(), SOCK_STREAM | SOCK_NONBLOCK, 0));
        if (connect(fds[i], (struct sockaddr *)&t_addr, t_addr_len) != 0) EQ(errno, EINPROGRESS);
    }
    struct pollfd set[CLIENTS];
    for (int i = 0; i < CLIENTS; i++) {
        EQ(t_poll(fds[i], POLLOUT, 20000), POLLOUT);
        t_tell(fds[i], (char)i);
        set[i] = (struct pollfd){.fd = fds[i], .events = POLLIN};
    }
    for (int left = CLIENTS; left > 0;) {
        CHECK(OK(poll(set, CLIENTS, 20000)) > 0);
        for (int i = 0; i < CLIENTS; i++) {
            if (set[i].revents == 0) continue;
            t_await(fds[i], (char)i);
            set[i].fd = -1;
            left--;
        }
    }
}

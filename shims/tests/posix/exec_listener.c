// A listener that was made by another program, as by systemd or before an upgrade: exec keeps it, and it accepts.
// except catnip server: a listener is of the process that uses it, and exec is its end
#include "t.h"

static void serve(int listener) {
    int on = 0;
    socklen_t length = sizeof on;
    OK(getsockopt(listener, SOL_SOCKET, SO_ACCEPTCONN, &on, &length));
    EQ(on, 1);
    for (int i = 0; i < 3; i++) {
        EQ(t_poll(listener, POLLIN, 20000), POLLIN);
        int fd = t_accept(listener);
        t_await(fd, 'a');
        t_tell(fd, 'b');
        t_await_end(fd);
        OK(close(fd));
    }
}

static void server(void) {
    const char *number = getenv("T_LISTENER");
    if (number != NULL) {
        serve(atoi(number));
        return;
    }
    int listener = t_bind(SOCK_STREAM);
    OK(listen(listener, 16));
    CHECK(listener >= 3);
    char text[16];
    snprintf(text, sizeof text, "%d", listener);
    OK(setenv("T_LISTENER", text, 1));
    t_ready();
    OK(execv("/proc/self/exe", t_args));
}

static void client(void) {
    for (int i = 0; i < 3; i++) {
        int fd = t_connect();
        t_tell(fd, 'a');
        t_await(fd, 'b');
        OK(close(fd));
    }
}

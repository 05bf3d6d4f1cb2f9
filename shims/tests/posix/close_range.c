// Many descriptors closed at once: the peers see it, and numbers in between that are no sockets go as well.
#include "t.h"
#include <linux/close_range.h>

#define MANY 20

static void closer(int (*next)(void)) {
    int fds[MANY], pipes[2], keep = next();
    OK(pipe(pipes));
    EQ(dup2(keep, 500), 500);
    for (int i = 0; i < MANY; i++) {
        int fd = next();
        fds[i] = 600 + i;
        EQ(dup2(fd, fds[i]), fds[i]);
        OK(close(fd));
    }
    EQ(dup2(pipes[0], 620), 620);
    t_tell(500, 'n');
    t_await(500, 'n');
    // Marked only: all still there.
    OK(close_range(600, 640, CLOSE_RANGE_CLOEXEC));
    for (int i = 0; i < MANY; i++) {
        EQ(OK(fcntl(fds[i], F_GETFD)), FD_CLOEXEC);
        t_tell(fds[i], 'm');
    }
    FAILS(close_range(640, 600, 0), EINVAL);
    OK(close_range(600, 640, 0));
    for (int i = 0; i < MANY; i++) FAILS(write(fds[i], "x", 1), EBADF);
    FAILS(read(620, pipes, 1), EBADF);
    // What the numbers stand for next has nothing to do with what they stood for.
    EQ(dup2(pipes[0], 600), 600);
    EQ(write(pipes[1], "p", 1), 1);
    EQ(t_poll(600, POLLIN, 0), POLLIN);
    t_await(600, 'p');
    t_tell(500, 'd');
    t_await(500, 'd');
    closefrom(100);
    FAILS(write(500, "x", 1), EBADF);
    t_tell(keep, 'k');
    t_await(keep, 'k');
}

static void peer(int (*next)(void)) {
    int fds[MANY], keep = next();
    for (int i = 0; i < MANY; i++) fds[i] = next();
    t_await(keep, 'n');
    t_tell(keep, 'n');
    for (int i = 0; i < MANY; i++) {
        t_await(fds[i], 'm');
        t_await_end(fds[i]);
        OK(close(fds[i]));
    }
    t_await(keep, 'd');
    t_tell(keep, 'd');
    t_await(keep, 'k');
    t_tell(keep, 'k');
}

static int listener;

static int accepting(void) { return t_accept(listener); }

static void server(void) {
    listener = t_listen();
    EQ(dup2(listener, 50), 50);
    OK(close(listener));
    listener = 50;
    closer(accepting);
    peer(accepting);
}

static void client(void) {
    peer(t_connect);
    closer(t_connect);
}

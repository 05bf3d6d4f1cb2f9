// What is none of the shim's affair works as ever: pipes, files, UNIX sockets and what is sent through them, and calls on
// the wrong kind of descriptor.
#include "t.h"

static void unix_sockets(void) {
    int pair[2], pipes[2];
    OK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
    OK(pipe(pipes));
    // A descriptor goes with a message.
    union {
        char bytes[CMSG_SPACE(sizeof(int))];
        struct cmsghdr header;
    } control;
    struct iovec part = {"f", 1};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(header), &pipes[1], sizeof(int));
    EQ(sendmsg(pair[0], &message, 0), 1);
    char byte;
    part.iov_base = &byte;
    message.msg_controllen = sizeof control;
    EQ(recvmsg(pair[1], &message, MSG_CMSG_CLOEXEC), 1);
    header = CMSG_FIRSTHDR(&message);
    CHECK(header != NULL && header->cmsg_type == SCM_RIGHTS);
    int sent;
    memcpy(&sent, CMSG_DATA(header), sizeof sent);
    t_tell(sent, 'x');
    t_await(pipes[0], 'x');

    struct sockaddr_un name = {.sun_family = AF_UNIX};
    snprintf(name.sun_path + 1, sizeof name.sun_path - 1, "demi-posix-%d", getpid());
    int listener = OK(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)), one = OK(socket(AF_UNIX, SOCK_STREAM, 0));
    OK(bind(listener, (struct sockaddr *)&name, sizeof name));
    OK(listen(listener, 4));
    OK(connect(one, (struct sockaddr *)&name, sizeof name));
    int other = OK(accept4(listener, NULL, NULL, SOCK_NONBLOCK));
    t_tell(one, 'u');
    t_await(other, 'u');
    int size = 0;
    socklen_t length = sizeof size;
    OK(getsockopt(other, SOL_SOCKET, SO_PEERCRED, &(struct ucred){0}, &(socklen_t){sizeof(struct ucred)}));
    OK(getsockopt(other, SOL_SOCKET, SO_SNDBUF, &size, &length));
    CHECK(size > 0);
}

static void wrong(int fd) {
    int pipes[2];
    char byte;
    OK(pipe(pipes));
    FAILS(bind(pipes[0], (struct sockaddr *)&t_addr, t_addr_len), ENOTSOCK);
    FAILS(listen(pipes[0], 1), ENOTSOCK);
    FAILS(accept(pipes[0], NULL, NULL), ENOTSOCK);
    FAILS(connect(pipes[0], (struct sockaddr *)&t_addr, t_addr_len), ENOTSOCK);
    FAILS(shutdown(pipes[0], SHUT_WR), ENOTSOCK);
    FAILS(recv(pipes[0], &byte, 1, 0), ENOTSOCK);
    FAILS(accept(fd, NULL, NULL), EINVAL);
    FAILS(listen(9999, 1), EBADF);
    FAILS(accept(-1, NULL, NULL), EBADF);
    FAILS(send(-1, "x", 1, 0), EBADF);
    FAILS(recv(INT_MAX, &byte, 1, 0), EBADF);
    FAILS(read(-5, &byte, 1), EBADF);
    FAILS(close(-1), EBADF);
    FAILS(shutdown(9999, SHUT_RD), EBADF);
    FAILS(ioctl(9999, FIONREAD, &byte), EBADF);
    FAILS(fcntl(9999, F_GETFL), EBADF);
    FAILS(dup(9999), EBADF);
    FAILS(setsockopt(9999, SOL_SOCKET, SO_KEEPALIVE, &byte, 4), EBADF);
    FAILS(fsync(fd), EINVAL);
    FAILS(ftruncate(fd, 0), EINVAL);
}

static void binding(void) {
    int fd = OK(socket(t_family(), SOCK_STREAM, 0)), other = OK(socket(t_family(), SOCK_STREAM, 0));
    FAILS(bind(fd, (struct sockaddr *)&t_addr, 2), EINVAL);
    FAILS(bind(fd, (struct sockaddr *)&t_addr, t_addr_len), EADDRINUSE);
    struct sockaddr_storage addr = t_addr;
    // An address that nobody here has: 192.0.2.1.
    if (t_family() == AF_INET) {
        ((struct sockaddr_in *)&addr)->sin_addr.s_addr = htonl(0xc0000201);
        FAILS(bind(fd, (struct sockaddr *)&addr, t_addr_len), EADDRNOTAVAIL);
    }
    addr = t_addr;
    t_set_port(&addr, 0);
    OK(bind(fd, (struct sockaddr *)&addr, t_addr_len));
    FAILS(bind(fd, (struct sockaddr *)&addr, t_addr_len), EINVAL);
    OK(listen(fd, 1));
    // Twice is allowed.
    OK(listen(fd, 5));
    FAILS(connect(fd, (struct sockaddr *)&t_addr, t_addr_len), EISCONN);
    FAILS(accept(other, NULL, NULL), EINVAL);
    OK(close(fd));
    OK(close(other));
    FAILS(socket(t_family(), SOCK_STREAM, 250), EPROTONOSUPPORT);
    FAILS(socket(t_family(), 77, 0), EINVAL);
    FAILS(socket(250, SOCK_STREAM, 0), EAFNOSUPPORT);
}

static void server(void) {
    int listener = t_listen(), fd = t_accept(listener);
    unix_sockets();
    wrong(fd);
    binding();
    t_tell(fd, 'a');
    t_await(fd, 'b');
}

static void client(void) {
    int fd = t_connect();
    unix_sockets();
    wrong(fd);
    t_await(fd, 'a');
    t_tell(fd, 'b');
}

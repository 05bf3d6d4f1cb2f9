// FIONREAD and FIONBIO; fcntl's flags, which duplicates share and which they do not; the 64-bit names.
// flags: -D_FILE_OFFSET_BITS=64
#include "t.h"
#include <linux/sockios.h>

static void look(int fd) {
    int count = -1, on = 1, off = 0, unsent = -1;
    char bytes[64];
    OK(ioctl(fd, FIONREAD, &count));
    EQ(count, 0);
    t_tell(fd, 'g');
    for (int i = 0; i < 1000 && count < 50; i++) {
        t_sleep(2);
        OK(ioctl(fd, FIONREAD, &count));
    }
    EQ(count, 50);
    t_receive(fd, bytes, 20);
    OK(ioctl(fd, SIOCINQ, &count));
    EQ(count, 30);
    t_receive(fd, bytes, 30);
    OK(ioctl(fd, FIONREAD, &count));
    EQ(count, 0);

    // Whether it waits belongs to what duplicates share; whether exec closes it does not.
    int other = OK(dup(fd));
    OK(ioctl(fd, FIONBIO, &on));
    EQ(OK(fcntl(other, F_GETFL)) & O_NONBLOCK, O_NONBLOCK);
    FAILS(read(other, bytes, 1), EAGAIN);
    OK(fcntl(other, F_SETFL, O_RDWR));
    EQ(OK(fcntl(fd, F_GETFL)) & O_NONBLOCK, 0);
    OK(ioctl(other, FIONBIO, &on));
    FAILS(recv(fd, bytes, 1, 0), EAGAIN);
    OK(ioctl(fd, FIONBIO, &off));
    EQ(OK(fcntl(fd, F_GETFL)) & (O_NONBLOCK | O_ACCMODE), O_RDWR);
    OK(ioctl(other, FIOCLEX));
    EQ(OK(fcntl(other, F_GETFD)), FD_CLOEXEC);
    EQ(OK(fcntl(fd, F_GETFD)), 0);
    OK(ioctl(other, FIONCLEX));
    EQ(OK(fcntl(other, F_GETFD)), 0);
    OK(close(other));
    OK(ioctl(fd, SIOCOUTQ, &unsent));
    CHECK(unsent >= 0 && unsent <= 1);
    FAILS(ioctl(fd, TIOCGWINSZ, bytes), ENOTTY);
    // It is a socket to whoever asks.
    struct stat status;
    OK(fstat(fd, &status));
    CHECK(S_ISSOCK(status.st_mode));
    EQ(isatty(fd), 0);
    t_tell(fd, 'e');
}

static void give(int fd) {
    char bytes[50] = "";
    t_await(fd, 'g');
    t_send(fd, bytes, sizeof bytes);
    t_await(fd, 'e');
}

static void server(void) {
    int fd = t_accept(t_listen());
    look(fd);
    give(fd);
}

static void client(void) {
    int fd = t_connect();
    give(fd);
    look(fd);
}

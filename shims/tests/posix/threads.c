// A thread for each connection, and on each connection one thread that writes while another reads.
#include "t.h"

#define CONNECTIONS 8
#define BYTES (512u << 10)

static void *write_all(void *fd) {
    t_send_stream((int)(intptr_t)fd, BYTES, 0);
    OK(shutdown((int)(intptr_t)fd, SHUT_WR));
    return NULL;
}

static void *both(void *argument) {
    int fd = (int)(intptr_t)argument;
    pthread_t writer;
    EQ(pthread_create(&writer, NULL, write_all, argument), 0);
    t_receive_stream(fd, BYTES, 0);
    t_await_end(fd);
    t_join(writer);
    OK(close(fd));
    return NULL;
}

static void all(int listener) {
    pthread_t threads[CONNECTIONS];
    for (int i = 0; i < CONNECTIONS; i++) {
        int fd = listener < 0 ? t_connect() : t_accept(listener);
        EQ(pthread_create(&threads[i], NULL, both, (void *)(intptr_t)fd), 0);
    }
    for (int i = 0; i < CONNECTIONS; i++) t_join(threads[i]);
}

static void server(void) { all(t_listen()); }

static void client(void) { all(-1); }

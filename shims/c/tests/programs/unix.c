/* UNIX-domain sockets, where the libOS has them: `PATH` is where one may be. */
#include "common.h"

#include <sys/un.h>

int main(int argc, char *const argv[])
{
    CHECK(argc >= 2);
    init(argc, argv);
    struct sockaddr_un addr = {.sun_family = AF_UNIX}, name;
    CHECK(strlen(argv[1]) < sizeof addr.sun_path);
    strcpy(addr.sun_path, argv[1]);
    int listening, qd;
    demi_qtoken_t accept, connect;
    OK(demi_socket(&listening, AF_UNIX, SOCK_STREAM, 0));
    OK(demi_bind(listening, (struct sockaddr *)&addr, sizeof addr));
    OK(demi_listen(listening, 1));
    socklen_t len = sizeof name;
    OK(demi_getsockname(listening, (struct sockaddr *)&name, &len));
    CHECK(strcmp(name.sun_path, argv[1]) == 0 && len == offsetof(struct sockaddr_un, sun_path) + strlen(argv[1]) + 1);
    OK(demi_socket(&qd, AF_UNIX, SOCK_STREAM, 0));
    OK(demi_accept(&accept, listening));
    OK(demi_connect(&connect, qd, (struct sockaddr *)&addr, sizeof addr));
    done(connect, DEMI_OPC_CONNECT);
    demi_qresult_t qr = done(accept, DEMI_OPC_ACCEPT);
    CHECK(qr.qr_value.ares.addr.sin_family == AF_UNIX);
    push(qd, "by name");
    streams(qr.qr_value.ares.qd, "by name", 7);
    return 0;
}

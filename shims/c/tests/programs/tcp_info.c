/* TCP_INFO and SO_ERROR: what is told of connections. */
#include "common.h"

#include <linux/tcp.h>

static struct tcp_info info(int qd)
{
    struct tcp_info info;
    socklen_t len = sizeof info;
    memset(&info, 0xaa, sizeof info);
    OK(demi_getsockopt(qd, IPPROTO_TCP, TCP_INFO, &info, &len));
    CHECK(len >= offsetof(struct tcp_info, tcpi_snd_wnd) && len <= sizeof info);
    return info;
}

static int failure(int qd)
{
    int error = -1;
    socklen_t len = sizeof error;
    OK(demi_getsockopt(qd, SOL_SOCKET, SO_ERROR, &error, &len));
    CHECK(len == sizeof error);
    return error;
}

int main(int argc, char *const argv[])
{
    enum { LISTEN = 10, ESTABLISHED = 1, FIN_WAIT_1 = 4, FIN_WAIT_2 = 5, CLOSE_WAIT = 8 };
    init(argc, argv);
    struct sockaddr_storage addr;
    socklen_t len;
    int listening = listener(AF_INET, &addr, &len), both[2];
    CHECK(info(listening).tcpi_state == LISTEN && info(listening).tcpi_sacked == 16);
    join(listening, &addr, len, both);
    for (int turn = 0; turn < 10; turn++) {
        push(both[0], "question");
        streams(both[1], "question", 8);
        push(both[1], "answer");
        streams(both[0], "answer", 6);
    }
    for (int end = 0; end < 2; end++) {
        struct tcp_info now = info(both[end]);
        CHECK(now.tcpi_state == ESTABLISHED);
        CHECK(now.tcpi_snd_mss >= 500 && now.tcpi_pmtu > now.tcpi_snd_mss);
        CHECK(now.tcpi_snd_cwnd > 0 && now.tcpi_rtt > 0 && now.tcpi_rtt < 10000000 && now.tcpi_rto >= 1000);
        CHECK(now.tcpi_options & TCPI_OPT_SACK && now.tcpi_options & TCPI_OPT_TIMESTAMPS);
        CHECK(now.tcpi_bytes_acked >= 50 && now.tcpi_snd_wnd > 1000 && now.tcpi_lost == 0);
        CHECK(failure(both[end]) == 0);
    }

    /* As much as there is room for, and nothing behind it. */
    unsigned char begin[16];
    memset(begin, 0xaa, sizeof begin);
    len = 9;
    OK(demi_getsockopt(both[0], IPPROTO_TCP, TCP_INFO, begin, &len));
    CHECK(len == 9 && begin[0] == ESTABLISHED && begin[9] == 0xaa);

    OK(demi_shutdown(both[0], SHUT_WR));
    ends(both[1]);
    CHECK(info(both[1]).tcpi_state == CLOSE_WAIT);
    demi_qresult_t qr;
    RETURNS(ETIMEDOUT, demi_wait(&qr, start_pop(both[0]), &(struct timespec){.tv_nsec = 20000000}));
    CHECK(info(both[0]).tcpi_state == FIN_WAIT_1 || info(both[0]).tcpi_state == FIN_WAIT_2);

    /* A connection that nobody takes, and what has none. */
    int refused, datagrams = bound(AF_INET, SOCK_DGRAM, &addr, &len);
    demi_qtoken_t qt;
    OK(demi_socket(&refused, AF_INET, SOCK_STREAM, 0));
    OK(demi_connect(&qt, refused, (struct sockaddr *)&addr, len));
    fails(qt, ECONNREFUSED);
    int error = failure(refused);
    CHECK(error == 0 || error == ECONNREFUSED);
    CHECK(failure(datagrams) == 0);
    int returned = demi_getsockopt(datagrams, IPPROTO_TCP, TCP_INFO, begin, &len);
    CHECK(returned == EOPNOTSUPP || returned == ENOPROTOOPT);
    return 0;
}

/* Datagrams over both families: pushto, the sender's address, empty ones, connected sockets. */
#include "common.h"

static void answer(int domain)
{
    struct sockaddr_storage server_addr, client_addr;
    socklen_t len;
    int server = bound(domain, SOCK_DGRAM, &server_addr, &len);
    int client = bound(domain, SOCK_DGRAM, &client_addr, &len);

    demi_qtoken_t qt;
    demi_sgarray_t sga = array("question", 8);
    OK(demi_pushto(&qt, client, &sga, (struct sockaddr *)&server_addr, len));
    OK(demi_sgafree(&sga));
    done(qt, DEMI_OPC_PUSH);

    /* To whom it came from, with the array that came, whose address programs take as it lies. */
    demi_qresult_t qr = done(start_pop(server), DEMI_OPC_POP);
    holds(&qr.qr_value.sga, "question");
    CHECK(qr.qr_value.sga.sga_addr.sin_family == domain);
    CHECK(qr.qr_value.sga.sga_addr.sin_port == ((struct sockaddr_in *)&client_addr)->sin_port);
    CHECK(memcmp(&qr.qr_value.sga.sga_addr, &client_addr, domain == AF_INET ? 8 : 24) == 0);
    OK(demi_pushto(&qt, server, &qr.qr_value.sga, (struct sockaddr *)&qr.qr_value.sga.sga_addr, len));
    OK(demi_sgafree(&qr.qr_value.sga));
    done(qt, DEMI_OPC_PUSH);
    pops(client, "question");

    /* One without bytes is an element like any other. */
    sga = array("x", 1);
    sga.sga_segs[0].sgaseg_len = 0;
    OK(demi_pushto(&qt, client, &sga, (struct sockaddr *)&server_addr, len));
    OK(demi_sgafree(&sga));
    done(qt, DEMI_OPC_PUSH);
    qr = done(start_pop(server), DEMI_OPC_POP);
    CHECK(qr.qr_value.sga.sga_segs[0].sgaseg_len == 0 && qr.qr_value.sga.sga_addr.sin_family == domain);
    OK(demi_sgafree(&qr.qr_value.sga));

    /* Nowhere to go to. */
    sga = array("x", 1);
    int started = demi_push(&qt, client, &sga);
    if (started == 0)
        fails(qt, ENOTCONN);
    else
        RETURNS(ENOTCONN, started);
    OK(demi_connect(&qt, client, (struct sockaddr *)&server_addr, len));
    done(qt, DEMI_OPC_CONNECT);
    OK(demi_push(&qt, client, &sga));
    done(qt, DEMI_OPC_PUSH);
    OK(demi_sgafree(&sga));
    pops(server, "x");

    /* Several at once, each whole. */
    demi_qtoken_t pushes[16];
    demi_qresult_t results[16];
    for (int i = 0; i < 16; i++)
        pushes[i] = start_push(client, "sixteen times", 13 - i % 3);
    OK(demi_wait_all(results, pushes, 16, &patience));
    for (int i = 0; i < 16; i++) {
        qr = done(start_pop(server), DEMI_OPC_POP);
        CHECK(qr.qr_value.sga.sga_segs[0].sgaseg_len == (uint32_t)(13 - i % 3));
        OK(demi_sgafree(&qr.qr_value.sga));
    }
    OK(demi_close(client));
    OK(demi_close(server));
}

int main(int argc, char *const argv[])
{
    init(argc, argv);
    answer(AF_INET);
    answer(AF_INET6);
    CHECK(counter("arrays_lent") == 0);
    return 0;
}

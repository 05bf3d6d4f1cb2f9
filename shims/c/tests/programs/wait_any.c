/* An echo server of many connections around demi_wait_any, in the manner of the public examples, and its clients in the
 * same loop. */
#include "common.h"

enum { CONNECTIONS = 32, ROUNDS = 50, MOST = 4 * CONNECTIONS };

struct operation {
    demi_qtoken_t qt;
    int is_client;
    int round;
};

static struct operation operations[MOST];
static demi_qtoken_t tokens[MOST];
static int outstanding;

static void add(demi_qtoken_t qt, int is_client, int round)
{
    CHECK(outstanding < MOST);
    tokens[outstanding] = qt;
    operations[outstanding++] = (struct operation){qt, is_client, round};
}

static struct operation take(int offset)
{
    struct operation taken = operations[offset];
    outstanding--;
    operations[offset] = operations[outstanding];
    tokens[offset] = tokens[outstanding];
    return taken;
}

int main(int argc, char *const argv[])
{
    init(argc, argv);
    struct sockaddr_storage addr;
    socklen_t len;
    int listening = listener(AF_INET, &addr, &len), finished = 0;

    for (int i = 0; i < CONNECTIONS; i++) {
        int ends[2];
        demi_qtoken_t qt;
        join(listening, &addr, len, ends);
        OK(demi_pop(&qt, ends[1]));
        add(qt, 0, 0);
        push(ends[0], "0123456789abcdef");
        OK(demi_pop(&qt, ends[0]));
        add(qt, 1, 1);
    }
    while (finished < CONNECTIONS) {
        demi_qresult_t qr;
        demi_qtoken_t qt;
        int offset = -1;
        OK(demi_wait_any(&qr, &offset, tokens, outstanding, &patience));
        CHECK(offset >= 0 && offset < outstanding && qr.qr_qt == tokens[offset]);
        struct operation operation = take(offset);
        if (qr.qr_opcode == DEMI_OPC_PUSH)
            continue;
        CHECK(qr.qr_opcode == DEMI_OPC_POP);
        holds(&qr.qr_value.sga, "0123456789abcdef");
        if (operation.is_client && operation.round == ROUNDS) {
            OK(demi_sgafree(&qr.qr_value.sga));
            finished++;
            continue;
        }
        OK(demi_push(&qt, qr.qr_qd, &qr.qr_value.sga));
        OK(demi_sgafree(&qr.qr_value.sga));
        add(qt, operation.is_client, 0);
        OK(demi_pop(&qt, qr.qr_qd));
        add(qt, operation.is_client, operation.round + 1);
    }
    return 0;
}

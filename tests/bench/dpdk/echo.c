/*
 * Both ends of an exchange of frames over DPDK's net_memif: the same that `raw` does over ours.
 *
 *     echo EAL-OPTIONS -- server
 *     echo EAL-OPTIONS -- client SIZE WINDOW SECONDS COUNT
 *
 * The server sends every frame back in the memory in which it came, with its addresses swapped. A frame without a
 * payload ends the exchange. The client prints one JSON object with the keys of every other client. COUNT 0: SECONDS
 * decide.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include <rte_eal.h>
#include <rte_ethdev.h>
#include <rte_mbuf.h>

/* Ethernet, IPv4, and TCP with timestamps. */
#define HEADERS 66
#define MTU 1500
#define MOST (14 + MTU - HEADERS)
#define BURST 32
#define MBUFS 8191
#define SPARE 8192
#define WARMUP_NS 100000000ull
#define PATIENCE_NS 10000000000ull

static const uint16_t port;
static struct rte_mempool *pool;

static void die(const char *what)
{
	fprintf(stderr, "demi-bench-dpdk: %s\n", what);
	/* DPDK's own way out can meet a peer that has gone. */
	_exit(1);
}

static uint64_t now_ns(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000ull + (uint64_t)now.tv_nsec;
}

/* Fails once nothing has happened for long; looks at the clock only now and then. */
struct guard {
	uint32_t spins;
	uint64_t deadline;
};

static inline void spin(struct guard *guard)
{
	if ((++guard->spins & 0xfff) != 0)
		return;
	uint64_t now = now_ns();
	if (guard->deadline == 0)
		guard->deadline = now + PATIENCE_NS;
	else if (now > guard->deadline)
		die("nothing arrived for 10 s");
}

static void open_port(void)
{
	struct rte_eth_conf conf;
	memset(&conf, 0, sizeof conf);
	pool = rte_pktmbuf_pool_create("frames", MBUFS, 256, 0, RTE_MBUF_DEFAULT_BUF_SIZE, SOCKET_ID_ANY);
	if (pool == NULL)
		die("no memory for frames");
	if (rte_eth_dev_count_avail() != 1)
		die("needs exactly one --vdev=net_memif…");
	if (rte_eth_dev_configure(port, 1, 1, &conf) != 0 ||
	    rte_eth_rx_queue_setup(port, 0, 1024, SOCKET_ID_ANY, NULL, pool) != 0 ||
	    rte_eth_tx_queue_setup(port, 0, 1024, SOCKET_ID_ANY, NULL) != 0 || rte_eth_dev_start(port) != 0)
		die("the port does not start");
}

static void await_link(void)
{
	struct rte_eth_link link;
	uint64_t begin = now_ns();
	do {
		if (now_ns() - begin > PATIENCE_NS)
			die("no peer for 10 s");
		memset(&link, 0, sizeof link);
		rte_eth_link_get_nowait(port, &link);
	} while (link.link_status != RTE_ETH_LINK_UP);
}

static inline void send_all(struct rte_mbuf **frames, uint16_t count)
{
	struct guard guard = {0, 0};
	uint16_t sent = 0;
	while (sent < count) {
		uint16_t more = rte_eth_tx_burst(port, 0, frames + sent, count - sent);
		sent += more;
		if (more == 0)
			spin(&guard);
	}
}

static inline void swap_addresses(struct rte_mbuf *frame)
{
	struct rte_ether_hdr *header = rte_pktmbuf_mtod(frame, struct rte_ether_hdr *);
	struct rte_ether_addr to = header->dst_addr;
	header->dst_addr = header->src_addr;
	header->src_addr = to;
}

static struct rte_mbuf *new_frame(uint32_t payload)
{
	struct rte_mbuf *frame = rte_pktmbuf_alloc(pool);
	if (frame == NULL)
		die("out of frames");
	char *bytes = rte_pktmbuf_append(frame, (uint16_t)(HEADERS + payload));
	if (bytes == NULL)
		die("a frame does not fit");
	memset(bytes, 0x5a, HEADERS + payload);
	bytes[12] = 8;
	bytes[13] = 0;
	return frame;
}

static void serve(void)
{
	struct rte_mbuf *frames[BURST];
	struct guard guard = {0, 0};
	int begun = 0;
	for (;;) {
		uint16_t count = rte_eth_rx_burst(port, 0, frames, BURST);
		if (count == 0) {
			if (begun)
				spin(&guard);
			continue;
		}
		begun = 1;
		guard = (struct guard){0, 0};
		for (uint16_t at = 0; at < count; at++) {
			if (rte_pktmbuf_pkt_len(frames[at]) <= HEADERS)
				return;
			swap_addresses(frames[at]);
		}
		send_all(frames, count);
	}
}

/* Latencies to three digits. */
#define SUB 1024
#define SHIFTS 40
static uint32_t buckets[(SHIFTS + 1) * SUB + SUB];

static uint32_t bucket_of(uint64_t nanos)
{
	uint32_t shift = 0;
	while (nanos >> shift >= 2 * SUB && shift < SHIFTS)
		shift++;
	return shift * SUB + (uint32_t)RTE_MIN(nanos >> shift, (uint64_t)2 * SUB - 1);
}

/* The greatest value of a bucket. */
static uint64_t value_of(uint32_t bucket)
{
	uint32_t shift = bucket < 2 * SUB ? 0 : bucket / SUB - 1;
	return ((uint64_t)(bucket - shift * SUB + 1) << shift) - 1;
}

static uint64_t quantile(double share, uint64_t total)
{
	uint64_t rank = (uint64_t)(share * (double)total + 0.999999), below = 0;
	for (uint32_t bucket = 0; bucket < RTE_DIM(buckets); bucket++) {
		below += buckets[bucket];
		if (below >= RTE_MAX(rank, (uint64_t)1))
			return value_of(bucket);
	}
	return 0;
}

static uint64_t preemptions(void)
{
	struct rusage usage;
	getrusage(RUSAGE_THREAD, &usage);
	return (uint64_t)usage.ru_nivcsw;
}

/* What came back, ready to be sent again: a queue. */
static struct rte_mbuf *spare[SPARE];
static uint32_t spare_first, spare_count;

static void push_spare(struct rte_mbuf *frame)
{
	if (spare_count == SPARE) {
		rte_pktmbuf_free(frame);
		return;
	}
	spare[(spare_first + spare_count++) % SPARE] = frame;
}

static struct rte_mbuf *take_frame(uint32_t payload)
{
	while (spare_count > 0) {
		struct rte_mbuf *frame = spare[spare_first];
		spare_first = (spare_first + 1) % SPARE;
		spare_count--;
		if (rte_pktmbuf_pkt_len(frame) == HEADERS + payload)
			return frame;
		rte_pktmbuf_free(frame);
	}
	return new_frame(payload);
}

static void send_messages(uint32_t count, uint32_t size)
{
	struct rte_mbuf *frames[BURST];
	uint16_t filled = 0;
	for (uint32_t message = 0; message < count; message++) {
		for (uint32_t left = size; left > 0;) {
			uint32_t payload = RTE_MIN(left, (uint32_t)MOST);
			left -= payload;
			frames[filled++] = take_frame(payload);
			if (filled == BURST) {
				send_all(frames, filled);
				filled = 0;
			}
		}
	}
	send_all(frames, filled);
}

static uint32_t receive(void)
{
	struct rte_mbuf *frames[BURST];
	struct guard guard = {0, 0};
	uint16_t count;
	while ((count = rte_eth_rx_burst(port, 0, frames, BURST)) == 0)
		spin(&guard);
	uint32_t bytes = 0;
	for (uint16_t at = 0; at < count; at++) {
		bytes += rte_pktmbuf_pkt_len(frames[at]) - HEADERS;
		swap_addresses(frames[at]);
		push_spare(frames[at]);
	}
	return bytes;
}

static void measure(uint32_t size, uint32_t window, double seconds, uint64_t wanted)
{
	uint64_t *sent = calloc(window, sizeof *sent);
	if (sent == NULL)
		die("no memory");
	uint64_t first = 0, outstanding = window, total = 0, least = UINT64_MAX, most = 0, partial = 0;
	uint64_t start = now_ns(), begin = start + WARMUP_NS, end = start, before = preemptions();
	int warm = 0, more = 1;
	for (uint32_t at = 0; at < window; at++)
		sent[at] = start;
	send_messages(window, size);
	while (outstanding > 0) {
		partial += receive();
		uint64_t now = now_ns(), whole = partial / size;
		partial %= size;
		if (whole > outstanding)
			die("more came back than was sent");
		for (uint64_t at = 0; at < whole && more; at++) {
			if (!warm) {
				warm = now >= begin;
				begin = warm ? now : begin;
				continue;
			}
			uint64_t nanos = now - sent[(first + at) % window];
			buckets[bucket_of(nanos)]++;
			total++;
			least = RTE_MIN(least, nanos);
			most = RTE_MAX(most, nanos);
			end = now;
			more = wanted > 0 ? total < wanted : (double)(now - begin) < seconds * 1e9;
		}
		first += whole;
		outstanding -= whole;
		if (more && whole > 0) {
			uint64_t at = now_ns();
			for (uint64_t place = 0; place < whole; place++)
				sent[(first + outstanding + place) % window] = at;
			outstanding += whole;
			send_messages((uint32_t)whole, size);
		}
	}
	double took = (double)(end - begin) / 1e9;
	printf("{\"messages\":%" PRIu64 ",\"msgs_per_s\":%.1f,\"min_ns\":%" PRIu64 ",\"p50_ns\":%" PRIu64
	       ",\"p90_ns\":%" PRIu64 ",\"p99_ns\":%" PRIu64 ",\"p999_ns\":%" PRIu64 ",\"max_ns\":%" PRIu64
	       ",\"preemptions\":%" PRIu64 "}\n",
	       total, (double)total / (took > 0 ? took : 1e-9), total > 0 ? least : 0, quantile(0.5, total),
	       quantile(0.9, total), quantile(0.99, total), quantile(0.999, total), most, preemptions() - before);
	fflush(stdout);
	free(sent);
}

static void connect_to_server(void)
{
	await_link();
	/* The server may notice the link later than this end does. */
	struct rte_mbuf *frames[BURST];
	uint64_t begin = now_ns();
	for (int answered = 0; !answered;) {
		if (now_ns() - begin > PATIENCE_NS)
			die("the far end of the device does not answer");
		struct rte_mbuf *question = new_frame(1);
		send_all(&question, 1);
		for (uint64_t asked = now_ns(); now_ns() - asked < 5000000;) {
			uint16_t count = rte_eth_rx_burst(port, 0, frames, BURST);
			rte_pktmbuf_free_bulk(frames, count);
			answered |= count > 0;
		}
	}
}

int main(int argc, char **argv)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	int used = rte_eal_init(argc, argv);
	if (used < 0)
		die("DPDK does not start");
	argc -= used;
	argv += used;
	open_port();
	if (argc == 2 && strcmp(argv[1], "server") == 0) {
		puts("{\"listening\":\"memif\"}");
		fflush(stdout);
		serve();
		_exit(0);
	}
	uint32_t size = argc == 6 ? (uint32_t)strtoul(argv[2], NULL, 10) : 0;
	uint32_t window = argc == 6 ? (uint32_t)strtoul(argv[3], NULL, 10) : 0;
	if (size == 0 || window == 0)
		die("usage: EAL-OPTIONS -- server | EAL-OPTIONS -- client SIZE WINDOW SECONDS COUNT");
	connect_to_server();
	measure(size, window, strtod(argv[4], NULL), strtoull(argv[5], NULL, 10));
	struct rte_mbuf *end = new_frame(0);
	send_all(&end, 1);
	/* The server must have it before this process takes the memory along. */
	usleep(50000);
	_exit(0);
}

/* Drives the table of calls as packetdrill does: packets in and out in one thread, a call that blocks in another.
 * Its arguments are the library and its flags. It ends with 0, or says what was not as it must be. */
#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <unistd.h>

/* The table, in the order and with the types of packetdrill's packetdrill.h. */
struct table {
	void *user;
	void (*free)(void *);
	int (*socket)(void *, int, int, int);
	int (*bind)(void *, int, const struct sockaddr *, socklen_t);
	int (*listen)(void *, int, int);
	int (*accept)(void *, int, struct sockaddr *, socklen_t *);
	int (*connect)(void *, int, const struct sockaddr *, socklen_t);
	ssize_t (*read)(void *, int, void *, size_t);
	ssize_t (*readv)(void *, int, const struct iovec *, int);
	ssize_t (*recv)(void *, int, void *, size_t, int);
	ssize_t (*recvfrom)(void *, int, void *, size_t, int, struct sockaddr *, socklen_t *);
	ssize_t (*recvmsg)(void *, int, struct msghdr *, int);
	ssize_t (*write)(void *, int, const void *, size_t);
	ssize_t (*writev)(void *, int, const struct iovec *, int);
	ssize_t (*send)(void *, int, const void *, size_t, int);
	ssize_t (*sendto)(void *, int, const void *, size_t, int, const struct sockaddr *, socklen_t);
	ssize_t (*sendmsg)(void *, int, const struct msghdr *, int);
	int (*fcntl)(void *, int, int, ...);
	int (*ioctl)(void *, int, unsigned long, ...);
	int (*close)(void *, int);
	int (*shutdown)(void *, int, int);
	int (*getsockopt)(void *, int, int, int, void *, socklen_t *);
	int (*setsockopt)(void *, int, int, int, const void *, socklen_t);
	int (*poll)(void *, struct pollfd *, nfds_t, int);
	int (*netdev_send)(void *, const void *, size_t);
	int (*netdev_receive)(void *, void *, size_t *, long long *);
	int (*usleep)(void *, useconds_t);
	int (*gettimeofday)(void *, struct timeval *, struct timezone *);
	int (*epoll_create)(void *, int);
	int (*epoll_ctl)(void *, int, int, int, struct epoll_event *);
	int (*epoll_wait)(void *, int, struct epoll_event *, int, int);
	int (*pipe)(void *, int[2]);
	ssize_t (*splice)(void *, int, loff_t *, int, loff_t *, size_t, unsigned);
};

static struct table t;
#define CALL(name, ...) t.name(t.user, ##__VA_ARGS__)
#define FAIL(...) (fprintf(stderr, "line %d: ", __LINE__), fprintf(stderr, __VA_ARGS__), fputc('\n', stderr), exit(1))
#define IS(value, wanted) do { \
		long long v_ = (value), w_ = (wanted); \
		if (v_ != w_) FAIL("%s is %lld (errno %d), not %lld", #value, v_, errno, w_); \
	} while (0)
#define FAILS(call, wanted) do { errno = 0; IS(call, -1); IS(errno, wanted); } while (0)

enum { FIN = 1, SYN = 2, RST = 4, PSH = 8, ACK = 16 };

/* One side of a conversation, as the wire has it. */
static const char *const own = "192.168.0.1", *const peer = "192.0.2.1";
static uint16_t own_port = 8080, peer_port = 33333;
static uint32_t peer_next, own_next;

struct segment { uint32_t seq, ack; uint8_t flags; size_t len; char data[4096]; long long at; };

static uint32_t sum(const void *data, size_t len, uint32_t total)
{
	const unsigned char *p = data;
	for (size_t i = 0; i < len; i++)
		total += i % 2 ? p[i] : (uint32_t)p[i] << 8;
	return total;
}

static uint16_t fold(uint32_t total)
{
	while (total >> 16)
		total = (total & 0xffff) + (total >> 16);
	return htons(~total & 0xffff);
}

static void send_segment(uint8_t flags, const char *data)
{
	unsigned char p[2048] = { 0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 6 };
	size_t len = strlen(data), options = flags & SYN ? 4 : 0, tcp = 20 + options + len;
	inet_pton(AF_INET, peer, p + 12);
	inet_pton(AF_INET, own, p + 16);
	*(uint16_t *)(p + 2) = htons(20 + tcp);
	*(uint16_t *)(p + 10) = fold(sum(p, 20, 0));
	*(uint16_t *)(p + 20) = htons(peer_port);
	*(uint16_t *)(p + 22) = htons(own_port);
	*(uint32_t *)(p + 24) = htonl(peer_next);
	*(uint32_t *)(p + 28) = htonl(flags & ACK ? own_next : 0);
	p[32] = (20 + options) << 2;
	p[33] = flags;
	*(uint16_t *)(p + 34) = htons(32000);
	if (options)
		memcpy(p + 40, "\2\4\3\350", 4); /* an MSS of 1000 */
	memcpy(p + 40 + options, data, len);
	*(uint16_t *)(p + 36) = fold(sum(p + 20, tcp, sum(p + 12, 8, 6 + tcp)));
	IS(CALL(netdev_send, p, 20 + tcp), 0);
	peer_next += len + !!(flags & (SYN | FIN));
}

static struct segment receive_segment(uint8_t flags)
{
	unsigned char p[65536];
	struct segment s = { 0 };
	size_t len = sizeof p;
	IS(CALL(netdev_receive, p, &len, &s.at), 0);
	if (len < 40)
		FAIL("no packet came (%zu bytes)", len);
	IS(p[0], 0x45);
	IS(ntohs(*(uint16_t *)(p + 2)), len);
	IS(fold(sum(p, 20, 0)), 0);
	IS(fold(sum(p + 20, len - 20, sum(p + 12, 8, 6 + len - 20))), 0);
	own_port = ntohs(*(uint16_t *)(p + 20));
	IS(ntohs(*(uint16_t *)(p + 22)), peer_port);
	s.seq = ntohl(*(uint32_t *)(p + 24));
	s.ack = ntohl(*(uint32_t *)(p + 28));
	s.flags = p[33];
	size_t header = 20 + (p[32] >> 4) * 4;
	s.len = len - header;
	memcpy(s.data, p + header, s.len < sizeof s.data ? s.len : sizeof s.data);
	IS(s.flags, flags);
	if (flags & SYN)
		own_next = s.seq;
	else
		IS(s.seq, own_next);
	if (flags & ACK)
		IS(s.ack, peer_next);
	own_next += s.len + !!(flags & (SYN | FIN));
	return s;
}

static long long now(void)
{
	struct timeval tv;
	IS(CALL(gettimeofday, &tv, NULL), 0);
	return tv.tv_sec * 1000000LL + tv.tv_usec;
}

static struct sockaddr_in name(const char *ip, uint16_t port)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(port) };
	inet_pton(AF_INET, ip, &a.sin_addr);
	return a;
}

/* A call that blocks, in a thread of its own. */
struct call { int fd; long result; long long ended; char data[64]; pthread_t thread; };

static void *run_accept(void *arg)
{
	struct call *c = arg;
	struct sockaddr_in from;
	socklen_t len = sizeof from;
	c->result = CALL(accept, c->fd, (struct sockaddr *)&from, &len);
	c->ended = now();
	IS(len, sizeof from);
	IS(ntohs(from.sin_port), peer_port);
	return NULL;
}

static void *run_read(void *arg)
{
	struct call *c = arg;
	c->result = CALL(read, c->fd, c->data, sizeof c->data);
	c->ended = now();
	return NULL;
}

static struct call begin(void *(*body)(void *), struct call *c)
{
	if (pthread_create(&c->thread, NULL, body, c))
		FAIL("no thread");
	usleep(50000); /* until it waits, as packetdrill sees to */
	return *c;
}

static void passive(int is_virtual)
{
	struct sockaddr_in any = name("0.0.0.0", 8080);
	int one = 1, listener = CALL(socket, AF_INET, SOCK_STREAM, 0);
	if (listener < 0)
		FAIL("no socket: %s", strerror(errno));
	IS(CALL(setsockopt, listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one), 0);
	IS(CALL(bind, listener, (struct sockaddr *)&any, sizeof any), 0);
	IS(CALL(listen, listener, 5), 0);

	struct call accepting = { .fd = listener };
	begin(run_accept, &accepting);
	peer_next = 1000;
	send_segment(SYN, "");
	receive_segment(SYN | ACK);
	IS(CALL(usleep, 100000), 0);
	send_segment(ACK, "");
	long long established = now();
	IS(CALL(usleep, 100000), 0);
	pthread_join(accepting.thread, NULL);
	int fd = accepting.result;
	if (fd < 0)
		FAIL("accept: %s", strerror(errno));
	/* Woken when the handshake ended, not when the next thing happened. */
	long long late = accepting.ended - established;
	if (late < -1000 || late > (is_virtual ? 1000 : 60000))
		FAIL("accept ended %lld us after the handshake", late);

	struct call reading = { .fd = fd };
	begin(run_read, &reading);
	send_segment(PSH | ACK, "hello");
	receive_segment(ACK);
	IS(CALL(usleep, 1000), 0);
	pthread_join(reading.thread, NULL);
	IS(reading.result, 5);
	IS(memcmp(reading.data, "hello", 5), 0);

	/* What the peer takes, not what was never asked for. */
	int mss = 0;
	socklen_t len = sizeof mss;
	IS(CALL(getsockopt, fd, SOL_TCP, TCP_MAXSEG, &mss, &len), 0);
	IS(mss, 1000);
	IS(len, sizeof mss);

	/* What is not there, or not possible. */
	char c[8];
	FAILS(CALL(recv, fd, c, sizeof c, MSG_DONTWAIT), EAGAIN);
	FAILS(CALL(send, fd, c, sizeof c, MSG_OOB), EOPNOTSUPP);
	FAILS(CALL(write, fd, NULL, 5), EFAULT);
	FAILS(CALL(write, 4000, c, 1), EBADF);
	FAILS(CALL(accept, fd, NULL, NULL), EINVAL);
	FAILS(CALL(bind, fd, (struct sockaddr *)c, 1), EINVAL);
	FAILS(CALL(netdev_send, "\x30", 1), EINVAL);
	FAILS(CALL(setsockopt, fd, SOL_TCP, TCP_CORK, &one, sizeof one), ENOPROTOOPT);
	int flags = CALL(fcntl, fd, F_GETFL);
	IS(flags & O_NONBLOCK, 0);
	IS(CALL(fcntl, fd, F_SETFL, flags | O_NONBLOCK), 0);
	FAILS(CALL(read, fd, c, sizeof c), EAGAIN);

	/* Readiness, and how much. */
	int epfd = CALL(epoll_create, 1), queued = -1;
	struct epoll_event wanted = { .events = EPOLLIN | EPOLLET, .data.u64 = 7 }, told = { 0 };
	IS(CALL(epoll_ctl, epfd, EPOLL_CTL_ADD, fd, &wanted), 0);
	FAILS(CALL(epoll_ctl, epfd, EPOLL_CTL_ADD, fd, &wanted), EEXIST);
	IS(CALL(epoll_wait, epfd, &told, 1, 0), 0);
	send_segment(PSH | ACK, "abc");
	receive_segment(ACK);
	IS(CALL(ioctl, fd, FIONREAD, &queued), 0);
	IS(queued, 3);
	IS(CALL(epoll_wait, epfd, &told, 1, 10), 1);
	IS(told.events, EPOLLIN);
	IS(told.data.u64, 7);
	IS(CALL(epoll_wait, epfd, &told, 1, 10), 0);
	struct pollfd polled = { .fd = fd, .events = POLLIN | POLLOUT };
	IS(CALL(poll, &polled, 1, 0), 1);
	IS(polled.revents, POLLIN | POLLOUT);
	IS(CALL(recv, fd, c, 2, MSG_PEEK), 2);
	IS(CALL(read, fd, c, sizeof c), 3);

	/* Data out, in segments of the peer's size. */
	char *big = malloc(2500);
	memset(big, 'x', 2500);
	struct iovec parts[2] = { { big, 1200 }, { big + 1200, 1300 } };
	IS(CALL(writev, fd, parts, 2), 2500);
	free(big);
	size_t got = 0;
	while (got < 2500) {
		struct segment s = receive_segment(PSH | ACK);
		IS(s.len, got < 2000 ? 1000 : 500);
		IS(s.data[0], 'x');
		got += s.len;
	}
	send_segment(ACK, "");

	/* An orderly end: theirs, then ours. */
	send_segment(FIN | ACK, "");
	receive_segment(ACK);
	IS(CALL(read, fd, c, sizeof c), 0);
	IS(CALL(close, fd), 0);
	FAILS(CALL(read, fd, c, sizeof c), EBADF);
	receive_segment(FIN | ACK);
	send_segment(ACK, "");
	/* Left open, as scripts do: the program closes it, which has to be one of the kernel's. */
	IS(close(listener), 0);
	IS(close(epfd), 0);
}

static void active(void)
{
	struct sockaddr_in to = name(peer, 8080);
	int fd = CALL(socket, AF_INET, SOCK_STREAM | SOCK_NONBLOCK, IPPROTO_TCP);
	peer_port = 8080;
	FAILS(CALL(connect, fd, (struct sockaddr *)&to, sizeof to), EINPROGRESS);
	receive_segment(SYN);
	FAILS(CALL(connect, fd, (struct sockaddr *)&to, sizeof to), EALREADY);
	peer_next = 5000;
	send_segment(SYN | ACK, "");
	receive_segment(ACK);
	int error = -1;
	socklen_t len = sizeof error;
	IS(CALL(getsockopt, fd, SOL_SOCKET, SO_ERROR, &error, &len), 0);
	IS(error, 0);
	IS(CALL(send, fd, "ping", 4, MSG_NOSIGNAL), 4);
	IS(receive_segment(PSH | ACK).len, 4);
	/* Nobody acknowledges: the stack says it again in its time. */
	long long sent = now();
	own_next -= 4;
	long long again = receive_segment(PSH | ACK).at - sent;
	if (again < 5000 || again > 2000000)
		FAIL("sent again after %lld us", again);
	IS(CALL(shutdown, fd, SHUT_WR), 0);
	receive_segment(FIN | ACK);
	/* The peer gives up. */
	send_segment(RST | ACK, "");
	char c;
	FAILS(CALL(read, fd, &c, 1), ECONNRESET);
	IS(CALL(read, fd, &c, 1), 0);
	IS(CALL(close, fd), 0);

	/* Nobody there. */
	fd = CALL(socket, AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	FAILS(CALL(connect, fd, (struct sockaddr *)&to, sizeof to), EINPROGRESS);
	receive_segment(SYN);
	peer_next = 0;
	send_segment(RST | ACK, "");
	IS(CALL(getsockopt, fd, SOL_SOCKET, SO_ERROR, &error, &len), 0);
	IS(error, ECONNREFUSED);
	IS(CALL(close, fd), 0);
}

int main(int argc, char **argv)
{
	if (argc != 3)
		FAIL("usage: %s LIBRARY FLAGS", argv[0]);
	void *library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
	if (!library)
		FAIL("%s", dlerror());
	void (*init)(const char *, struct table *);
	*(void **)&init = dlsym(library, "packetdrill_interface_init");
	if (!init)
		FAIL("%s", dlerror());
	init(argv[2], &t);
	if (!strcmp(argv[2], "nonsense")) {
		FAILS(CALL(socket, AF_INET, SOCK_STREAM, 0), ENODEV);
		CALL(free);
		return 0;
	}
	FAILS(CALL(socket, AF_UNIX, SOCK_STREAM, 0), EAFNOSUPPORT);
	passive(!strstr(argv[2], "real"));
	active();
	CALL(free);
	return 0;
}

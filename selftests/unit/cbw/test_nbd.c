// SPDX-License-Identifier: GPL-2.0-or-later
/* the NBD server, byte by byte what the protocol says: errors, trim, readers that vanish */
#include <endian.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "nbd.h"
#include "nbd-child.h"
#include "nbd-proto.h"

/* ---- a server in a child --------------------------------------------------- */

#define SIZE	(40ull << 20)
#define BAD	(8ull << 20)	/* cannot be read: EIO */
#define GONE	(9ull << 20)	/* was released: ENODATA */
#define HOLES	(16ull << 20)	/* from here on: 1 MiB each of data and zeros */

static unsigned char content(uint64_t at)
{
	return at >= HOLES && at >> 20 & 1 ? 0 : (unsigned char)(at * 2654435761u >> 13 | 1);
}

static int t_read(const struct nbd_source *s, uint64_t offset, void *buf, size_t length,
		  struct cbw_error *err)
{
	bool big = length > NBD_PIECE;
	unsigned char *p = buf;
	unsigned int now;
	size_t i;

	now = big ? __atomic_add_fetch(&told->big, 1, __ATOMIC_SEQ_CST) : 0;
	if (now > told->big_most)
		told->big_most = now;
	assert_true(offset + length <= s->size && (uintptr_t)buf % 4096 == 0);
	if (offset <= BAD && BAD < offset + length)
		return fail_with(err, EIO, "a bad sector");
	if (offset <= GONE && GONE < offset + length)
		return fail_with(err, ENODATA, "it was released");
	for (i = 0; i < length; i++)
		p[i] = content(offset + i);
	if (big)
		__atomic_sub_fetch(&told->big, 1, __ATOMIC_SEQ_CST);
	return 0;
}

static int t_status(const struct nbd_source *s, enum nbd_context context, uint64_t offset,
		    uint64_t length, uint32_t *flags, uint64_t *run, struct cbw_error *err)
{
	uint64_t left = (1u << 20) - offset % (1u << 20);

	(void)s;
	(void)err;
	/* in small steps: what is alike has to be put together */
	left = left < 65536 ? left : 65536;
	*run = left < length ? left : length;
	if (context == NBD_DIRTY_BITMAP)
		*flags = offset >> 20 & 4 ? NBD_STATE_DIRTY : 0;
	else
		*flags = offset >= HOLES && offset >> 20 & 1 ? NBD_STATE_HOLE | NBD_STATE_ZERO : 0;
	return 0;
}

static int t_trim(const struct nbd_source *s, uint64_t offset, uint64_t length,
		  struct cbw_error *err)
{
	(void)s;
	(void)err;
	told->trimmed[told->trims % 8][0] = offset;
	told->trimmed[told->trims % 8][1] = length;
	told->trims++;
	return 0;
}

static void start(bool trim, bool once)
{
	struct nbd_source source = {
		.size = SIZE, .block = 512, .bitmap = "b:1", .read = t_read, .status = t_status,
		.trim = trim ? t_trim : NULL,
	};
	struct nbd_server server = { .source = &source, .name = "vol", .once = once };
	struct nbd_socket sock;
	struct cbw_error err;

	begin_child();
	if (!server_pid) {
		told->ret = nbd_listen(sock_path(), &sock, &err);
		if (!told->ret)
			told->ret = nbd_serve(&server, sock.fd, &err);
		told->readers = server.readers;
		told->broken = server.broken;
		told->failures = server.failures;
		nbd_unlisten(&sock);
		exit(0);
	}
	wait_for_socket();
}

/* ---- a client -------------------------------------------------------------- */

static int client_raw(void)
{
	const struct timeval bound = { .tv_sec = 20 };
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	strcpy(addr.sun_path, sock_path());
	assert_int_equal(connect(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &bound, sizeof(bound));
	return fd;
}

static void get(int fd, void *buf, size_t len)
{
	assert_int_equal(recv(fd, buf, len, MSG_WAITALL), len);
}

static void put(int fd, const void *buf, size_t len)
{
	assert_int_equal(send(fd, buf, len, MSG_NOSIGNAL), len);
}

static void is_closed(int fd)
{
	char c;

	assert_true(recv(fd, &c, 1, 0) <= 0);
	close(fd);
}

static int client_hello(uint32_t flags)
{
	struct {
		uint64_t magic, opts;
		uint16_t flags;
	} __attribute__((packed)) hello;
	int fd = client_raw();

	get(fd, &hello, sizeof(hello));
	assert_int_equal(be64toh(hello.magic), NBD_MAGIC);
	assert_int_equal(be64toh(hello.opts), NBD_OPTS_MAGIC);
	assert_int_equal(be16toh(hello.flags), NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
	put(fd, &(uint32_t){ htobe32(flags) }, 4);
	return fd;
}

static void option(int fd, uint32_t option, const void *data, uint32_t len)
{
	const struct nbd_option_head h = {
		htobe64(NBD_OPTS_MAGIC), htobe32(option), htobe32(len),
	};

	put(fd, &h, sizeof(h));
	if (len)
		put(fd, data, len);
}

/* The type of the next reply, its data in @buf. */
static uint32_t answer(int fd, uint32_t option, void *buf, uint32_t *len)
{
	struct nbd_option_reply r;

	get(fd, &r, sizeof(r));
	assert_int_equal(be64toh(r.magic), NBD_REP_MAGIC);
	assert_int_equal(be32toh(r.option), option);
	*len = be32toh(r.length);
	assert_in_range(*len, 0, 4096);
	if (*len)
		get(fd, buf, *len);
	return be32toh(r.type);
}

static uint32_t expect_answer(int fd, uint32_t opt, uint32_t type)
{
	char buf[4096];
	uint32_t len;

	assert_int_equal(answer(fd, opt, buf, &len), type);
	return len;
}

/* name, and queries up to NULL */
static uint32_t meta(char *buf, const char *name, ...)
{
	uint32_t at = 4 + (uint32_t)strlen(name), nr = 0, nr_at = at;
	const char *q;
	va_list ap;

	*(uint32_t *)buf = htobe32((uint32_t)strlen(name));
	memcpy(buf + 4, name, strlen(name));
	at += 4;
	va_start(ap, name);
	while ((q = va_arg(ap, const char *))) {
		uint32_t len = htobe32((uint32_t)strlen(q));

		memcpy(buf + at, &len, 4);
		memcpy(buf + at + 4, q, strlen(q));
		at += 4 + (uint32_t)strlen(q);
		nr++;
	}
	va_end(ap);
	nr = htobe32(nr);
	memcpy(buf + nr_at, &nr, 4);
	return at;
}

static uint16_t go(int fd, uint32_t opt, const char *name)
{
	char data[256], buf[4096];
	uint32_t len = (uint32_t)strlen(name), n;
	uint16_t flags;
	uint64_t size;

	*(uint32_t *)data = htobe32(len);
	memcpy(data + 4, name, len);
	memset(data + 4 + len, 0, 2);
	option(fd, opt, data, 6 + len);
	assert_int_equal(answer(fd, opt, buf, &n), NBD_REP_INFO);
	assert_int_equal(n, 12);
	memcpy(&size, buf + 2, 8);
	memcpy(&flags, buf + 10, 2);
	assert_int_equal(be64toh(size), SIZE);
	assert_int_equal(answer(fd, opt, buf, &n), NBD_REP_INFO);
	assert_int_equal(n, 14);
	assert_int_equal(answer(fd, opt, buf, &n), NBD_REP_ACK);
	return be16toh(flags);
}

/* Both contexts, unless @contexts is false. */
static int client(bool structured, bool contexts)
{
	int fd = client_hello(NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
	char buf[256];

	if (structured) {
		option(fd, NBD_OPT_STRUCTURED_REPLY, NULL, 0);
		expect_answer(fd, NBD_OPT_STRUCTURED_REPLY, NBD_REP_ACK);
	}
	if (contexts) {
		option(fd, NBD_OPT_SET_META_CONTEXT, buf,
		       meta(buf, "vol", "base:allocation", "x:y", "qemu:dirty-bitmap:b:1", NULL));
		expect_answer(fd, NBD_OPT_SET_META_CONTEXT, NBD_REP_META_CONTEXT);
		expect_answer(fd, NBD_OPT_SET_META_CONTEXT, NBD_REP_META_CONTEXT);
		expect_answer(fd, NBD_OPT_SET_META_CONTEXT, NBD_REP_ACK);
	}
	go(fd, NBD_OPT_GO, "vol");
	return fd;
}

static void request(int fd, uint16_t type, uint16_t flags, uint64_t offset, uint32_t length)
{
	const struct nbd_request r = {
		htobe32(NBD_REQUEST_MAGIC), htobe16(flags), htobe16(type), 0x1122334455667788,
		htobe64(offset), htobe32(length),
	};

	put(fd, &r, sizeof(r));
}

static uint32_t simple_error(int fd)
{
	struct nbd_simple r;

	get(fd, &r, sizeof(r));
	assert_int_equal(be32toh(r.magic), NBD_SIMPLE_MAGIC);
	assert_int_equal(r.cookie, 0x1122334455667788);
	return be32toh(r.error);
}

/* A chunk's type; its content in @buf, of @room. */
static uint16_t get_chunk(int fd, bool *done, void *buf, size_t room, uint32_t *len)
{
	struct nbd_chunk c;

	get(fd, &c, sizeof(c));
	assert_int_equal(be32toh(c.magic), NBD_CHUNK_MAGIC);
	assert_int_equal(c.cookie, 0x1122334455667788);
	*done = be16toh(c.flags) & NBD_REPLY_FLAG_DONE;
	*len = be32toh(c.length);
	assert_true(*len <= room);
	if (*len)
		get(fd, buf, *len);
	return be16toh(c.type);
}

/* The error of a structured reply, which has to come with a text. */
static uint32_t chunk_error(int fd, const char *text)
{
	static char buf[2 << 20];
	uint32_t len, error;
	uint16_t type;
	bool done;

	do {
		type = get_chunk(fd, &done, buf, sizeof(buf) - 1, &len);
	} while (!done && !(type & 0x8000));
	assert_true(type & 0x8000 && done);
	buf[len] = '\0';
	if (!strstr(buf + 6, text))
		fail_msg("'%s' is not in '%s'", text, buf + 6);
	memcpy(&error, buf, 4);
	return be32toh(error);
}

static void disconnect(int fd)
{
	request(fd, NBD_CMD_DISC, 0, 0, 0);
	is_closed(fd);
}

/* ---- tests ---------------------------------------------------------------- */

static void handshake(void **state)
{
	char buf[70000];
	uint32_t len, n;
	int fd;

	(void)state;
	start(false, false);
	fd = client_hello(NBD_FLAG_FIXED_NEWSTYLE);
	/* what is not known, or makes no sense, is answered, and does no harm */
	option(fd, 5, NULL, 0);
	expect_answer(fd, 5, NBD_REP_ERR_UNSUP);
	option(fd, 11, NULL, 0);
	expect_answer(fd, 11, NBD_REP_ERR_UNSUP);
	option(fd, NBD_OPT_STRUCTURED_REPLY, "x", 1);
	expect_answer(fd, NBD_OPT_STRUCTURED_REPLY, NBD_REP_ERR_INVALID);
	memset(buf, 0, sizeof(buf));
	option(fd, NBD_OPT_GO, buf, sizeof(buf));
	expect_answer(fd, NBD_OPT_GO, NBD_REP_ERR_TOO_BIG);
	option(fd, NBD_OPT_GO, "\0\0\0\4ab\0\0", 8);
	expect_answer(fd, NBD_OPT_GO, NBD_REP_ERR_INVALID);
	option(fd, NBD_OPT_GO, "\xff\xff\xff\xff" "ab\0\0", 8);
	expect_answer(fd, NBD_OPT_GO, NBD_REP_ERR_INVALID);
	option(fd, NBD_OPT_GO, "\0\0\0\2ab\0\1", 8);
	expect_answer(fd, NBD_OPT_GO, NBD_REP_ERR_INVALID);
	option(fd, NBD_OPT_GO, "\0\0\0\2ab\0\0", 8);
	expect_answer(fd, NBD_OPT_GO, NBD_REP_ERR_UNKNOWN);
	option(fd, NBD_OPT_LIST, NULL, 0);
	assert_int_equal(answer(fd, NBD_OPT_LIST, buf, &n), NBD_REP_SERVER);
	assert_int_equal(n, 7);
	assert_memory_equal(buf, "\0\0\0\3vol", 7);
	expect_answer(fd, NBD_OPT_LIST, NBD_REP_ACK);
	/* contexts: only with structured replies, by exact name; lists by namespace */
	len = meta(buf, "", "base:allocation", NULL);
	option(fd, NBD_OPT_SET_META_CONTEXT, buf, len);
	expect_answer(fd, NBD_OPT_SET_META_CONTEXT, NBD_REP_ERR_INVALID);
	option(fd, NBD_OPT_STRUCTURED_REPLY, NULL, 0);
	expect_answer(fd, NBD_OPT_STRUCTURED_REPLY, NBD_REP_ACK);
	len = meta(buf, "", "base:", "qemu:dirty-bitmap:other", NULL);
	option(fd, NBD_OPT_SET_META_CONTEXT, buf, len);
	expect_answer(fd, NBD_OPT_SET_META_CONTEXT, NBD_REP_ACK);
	option(fd, NBD_OPT_SET_META_CONTEXT, buf, len - 1);
	expect_answer(fd, NBD_OPT_SET_META_CONTEXT, NBD_REP_ERR_INVALID);
	len = meta(buf, "other", "base:allocation", NULL);
	option(fd, NBD_OPT_SET_META_CONTEXT, buf, len);
	expect_answer(fd, NBD_OPT_SET_META_CONTEXT, NBD_REP_ERR_UNKNOWN);
	len = meta(buf, "vol", NULL);
	option(fd, NBD_OPT_LIST_META_CONTEXT, buf, len);
	assert_int_equal(answer(fd, NBD_OPT_LIST_META_CONTEXT, buf, &n), NBD_REP_META_CONTEXT);
	assert_memory_equal(buf, "\0\0\0\0base:allocation", 19);
	assert_int_equal(answer(fd, NBD_OPT_LIST_META_CONTEXT, buf, &n), NBD_REP_META_CONTEXT);
	assert_memory_equal(buf, "\0\0\0\0qemu:dirty-bitmap:b:1", n);
	expect_answer(fd, NBD_OPT_LIST_META_CONTEXT, NBD_REP_ACK);
	len = meta(buf, "vol", "qemu:", "qemu:dirty-bitmap:", NULL);
	option(fd, NBD_OPT_LIST_META_CONTEXT, buf, len);
	expect_answer(fd, NBD_OPT_LIST_META_CONTEXT, NBD_REP_META_CONTEXT);
	expect_answer(fd, NBD_OPT_LIST_META_CONTEXT, NBD_REP_ACK);
	go(fd, NBD_OPT_INFO, "");
	assert_int_equal(go(fd, NBD_OPT_GO, "vol"), NBD_FLAG_HAS_FLAGS | NBD_FLAG_READ_ONLY |
			 NBD_FLAG_CAN_MULTI_CONN);
	/* the last choice of contexts was none */
	request(fd, NBD_CMD_BLOCK_STATUS, 0, 0, 4096);
	assert_int_equal(chunk_error(fd, "no metadata context"), NBD_EINVAL);
	disconnect(fd);
	/* the old way in, and contexts of another name are none */
	fd = client_hello(NBD_FLAG_FIXED_NEWSTYLE);
	option(fd, NBD_OPT_EXPORT_NAME, "vol", 3);
	get(fd, buf, 134);
	disconnect(fd);
	fd = client_hello(NBD_FLAG_FIXED_NEWSTYLE);
	option(fd, NBD_OPT_EXPORT_NAME, "other", 5);
	is_closed(fd);
	/* who speaks something else is put out */
	fd = client_hello(1u << 5);
	is_closed(fd);
	fd = client_hello(NBD_FLAG_FIXED_NEWSTYLE);
	put(fd, "GET / HTTP/1.1\r\n\r\n", 18);
	is_closed(fd);
	fd = client_hello(NBD_FLAG_FIXED_NEWSTYLE);
	option(fd, NBD_OPT_ABORT, NULL, 0);
	expect_answer(fd, NBD_OPT_ABORT, NBD_REP_ACK);
	is_closed(fd);
	assert_int_equal(stop(SIGTERM), 0);
	assert_int_equal(told->ret, -EINTR);
	assert_int_equal(told->readers, 2);
	assert_int_equal(told->broken, 0);
	assert_int_equal(access(sock_path(), F_OK), -1);
}

/* A read of any kind: what comes is what is there, zeros as holes. */
static void check_read(int fd, uint64_t offset, uint32_t length)
{
	static unsigned char got[33 << 20], buf[(1 << 20) + 8];
	uint64_t seen = 0, at;
	uint32_t len, n, i;
	bool done = false;

	memset(got, 0xee, length);
	request(fd, NBD_CMD_READ, 0, offset, length);
	while (!done) {
		uint16_t type = get_chunk(fd, &done, buf, sizeof(buf), &len);

		memcpy(&at, buf, 8);
		at = be64toh(at);
		if (type == NBD_REPLY_TYPE_OFFSET_HOLE) {
			assert_int_equal(len, 12);
			memcpy(&n, buf + 8, 4);
			n = be32toh(n);
		} else {
			assert_int_equal(type, NBD_REPLY_TYPE_OFFSET_DATA);
			n = len - 8;
		}
		assert_true(at >= offset && at + n <= offset + length);
		if (type == NBD_REPLY_TYPE_OFFSET_HOLE)
			memset(got + (at - offset), 0, n);
		else
			memcpy(got + (at - offset), buf + 8, n);
		seen += n;
	}
	assert_int_equal(seen, length);
	for (i = 0; i < length; i++)
		if (got[i] != content(offset + i))
			fail_msg("byte %u of %llu+%u is wrong", i, (ull)offset, length);
}

static void reads(void **state)
{
	static unsigned char buf[4 << 20];
	int fd;
	size_t i;

	(void)state;
	start(false, false);
	fd = client(true, true);
	check_read(fd, 0, 4096);
	check_read(fd, 1, 1);
	check_read(fd, 12345, 3000000);
	check_read(fd, 10 << 20, 30 << 20);
	check_read(fd, SIZE - 7, 7);
	request(fd, NBD_CMD_READ, 0, SIZE - 7, 8);
	assert_int_equal(chunk_error(fd, "beyond the end"), NBD_EINVAL);
	request(fd, NBD_CMD_READ, 0, UINT64_MAX - 7, 8);
	assert_int_equal(chunk_error(fd, "beyond the end"), NBD_EINVAL);
	request(fd, NBD_CMD_READ, 0, 0, 0);
	assert_int_equal(chunk_error(fd, "nothing"), NBD_EINVAL);
	request(fd, NBD_CMD_READ, 0, 0, (32 << 20) + 1);
	assert_int_equal(chunk_error(fd, "32 MiB"), NBD_EINVAL);
	request(fd, NBD_CMD_READ, 1 << 7, 0, 512);
	assert_int_equal(chunk_error(fd, "flag"), NBD_EINVAL);
	request(fd, 77, 0, 0, 512);
	assert_int_equal(chunk_error(fd, "not known"), NBD_EINVAL);
	/* bad storage and what was released differ; after what was good came */
	request(fd, NBD_CMD_READ, 0, BAD - (2 << 20), 4 << 20);
	assert_int_equal(chunk_error(fd, "a bad sector"), NBD_EIO);
	request(fd, NBD_CMD_READ, 0, GONE, 512);
	assert_int_equal(chunk_error(fd, "it was released"), NBD_EINVAL);
	/* nothing is written, and its data is taken off the wire */
	request(fd, NBD_CMD_WRITE, 0, 0, 4096);
	put(fd, buf, 4096);
	assert_int_equal(chunk_error(fd, "not written to"), NBD_EPERM);
	request(fd, NBD_CMD_WRITE_ZEROES, 0, 0, 4096);
	assert_int_equal(chunk_error(fd, "not written to"), NBD_EPERM);
	request(fd, NBD_CMD_TRIM, 0, 0, 4096);
	assert_int_equal(chunk_error(fd, "--release"), NBD_EINVAL);
	check_read(fd, 4096, 8192);
	disconnect(fd);
	/* who did not negotiate structured replies gets simple ones */
	fd = client(false, false);
	request(fd, NBD_CMD_READ, 0, 777, sizeof(buf));
	assert_int_equal(simple_error(fd), 0);
	get(fd, buf, sizeof(buf));
	for (i = 0; i < sizeof(buf); i++)
		if (buf[i] != content(777 + i))
			fail_msg("byte %zu is wrong", i);
	request(fd, NBD_CMD_READ, 0, BAD, 512);
	assert_int_equal(simple_error(fd), NBD_EIO);
	request(fd, NBD_CMD_READ, 0, GONE, 512);
	assert_int_equal(simple_error(fd), NBD_EINVAL);
	request(fd, NBD_CMD_BLOCK_STATUS, 0, 0, 512);
	assert_int_equal(simple_error(fd), NBD_EINVAL);
	disconnect(fd);
	assert_int_equal(stop(SIGINT), 0);
	assert_int_equal(told->failures, 4);
	assert_int_equal(told->broken, 0);
}

/* Extents of one context: { MiB, flags } up to MiB 0 */
static void check_status(int fd, uint32_t id, bool last, const uint32_t (*want)[2])
{
	uint32_t buf[1000], len, i, nr;
	bool done;

	assert_int_equal(get_chunk(fd, &done, buf, sizeof(buf), &len), NBD_REPLY_TYPE_BLOCK_STATUS);
	assert_int_equal(done, last);
	assert_int_equal(be32toh(buf[0]), id);
	nr = (len - 4) / 8;
	for (i = 0; want[i][0]; i++) {
		assert_true(i < nr);
		assert_int_equal(be32toh(buf[1 + 2 * i]), want[i][0] << 20);
		assert_int_equal(be32toh(buf[2 + 2 * i]), want[i][1]);
	}
	assert_int_equal(i, nr);
}

static void status(void **state)
{
	static const uint32_t base[][2] = { { 7, 0 }, { 1, 3 }, { 1, 0 }, { 1, 3 }, { 0, 0 } };
	static const uint32_t dirty[][2] = { { 2, 1 }, { 4, 0 }, { 4, 1 }, { 0, 0 } };
	static const uint32_t one[][2] = { { 1, 3 }, { 0, 0 } }, two[][2] = { { 3, 0 }, { 0, 0 } };
	int fd;

	(void)state;
	start(false, false);
	fd = client(true, true);
	request(fd, NBD_CMD_BLOCK_STATUS, 0, 6 << 20, 10 << 20);
	/* from 6 MiB: nothing is a hole below 16 MiB */
	check_status(fd, 1, false, (const uint32_t[][2]){ { 10, 0 }, { 0, 0 } });
	check_status(fd, 2, true, dirty);
	request(fd, NBD_CMD_BLOCK_STATUS, 0, 10 << 20, 10 << 20);
	check_status(fd, 1, false, base);
	check_status(fd, 2, true, (const uint32_t[][2]){ { 2, 0 }, { 4, 1 }, { 4, 0 }, { 0, 0 } });
	request(fd, NBD_CMD_BLOCK_STATUS, NBD_CMD_FLAG_REQ_ONE, 17 << 20, 8 << 20);
	check_status(fd, 1, false, one);
	check_status(fd, 2, true, two);
	request(fd, NBD_CMD_BLOCK_STATUS, 0, SIZE, 1);
	assert_int_equal(chunk_error(fd, "beyond the end"), NBD_EINVAL);
	disconnect(fd);
	assert_int_equal(stop(SIGTERM), 0);
}

static void trims(void **state)
{
	int fd;

	(void)state;
	start(true, false);
	fd = client_hello(NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
	assert_int_equal(go(fd, NBD_OPT_GO, ""), NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_TRIM |
			 NBD_FLAG_CAN_MULTI_CONN);
	request(fd, NBD_CMD_TRIM, 0, 4096, 1 << 30);
	assert_int_equal(simple_error(fd), NBD_EINVAL);
	request(fd, NBD_CMD_TRIM, NBD_CMD_FLAG_FUA, 4096, 8192);
	assert_int_equal(simple_error(fd), 0);
	disconnect(fd);
	assert_int_equal(stop(SIGTERM), 0);
	assert_int_equal(told->trims, 1);
	assert_int_equal(told->trimmed[0][0], 4096);
	assert_int_equal(told->trimmed[0][1], 8192);
}

/* Several at once; --once ends with the last of them; who vanishes is counted. */
static void readers(void **state)
{
	int fd[5], i;

	(void)state;
	start(false, true);
	/* more than one, of which each waits for the others in the middle of a request */
	for (i = 0; i < 5; i++) {
		fd[i] = client(true, true);
		request(fd[i], NBD_CMD_READ, 0, (uint64_t)i << 20, 1 << 20);
	}
	for (i = 4; i >= 0; i--) {
		static unsigned char buf[(1 << 20) + 8];
		uint32_t len;
		bool done;

		assert_int_equal(get_chunk(fd[i], &done, buf, sizeof(buf), &len),
				 NBD_REPLY_TYPE_OFFSET_DATA);
		assert_int_equal(buf[8], content((uint64_t)i << 20));
	}
	for (i = 0; i < 3; i++)
		disconnect(fd[i]);
	/* in the middle of a request, and of a reply */
	put(fd[3], "\x25\x60", 2);
	close(fd[3]);
	for (i = 0; i < 40; i++)
		request(fd[4], NBD_CMD_READ, 0, 10 << 20, 4 << 20);
	close(fd[4]);
	assert_int_equal(stop(0), 0);
	assert_int_equal(told->ret, 0);
	assert_int_equal(told->readers, 5);
	assert_int_equal(told->broken, 2);
}

/* A reader that takes nothing does not keep the server from ending. */
static void stuck_reader(void **state)
{
	int fd, i;

	(void)state;
	start(false, false);
	fd = client(true, true);
	for (i = 0; i < 40; i++)
		request(fd, NBD_CMD_READ, 0, 10 << 20, 4 << 20);
	nanosleep(&(struct timespec){ .tv_nsec = 200000000 }, NULL);
	assert_int_equal(stop(SIGTERM), 0);
	assert_int_equal(told->ret, -EINTR);
	assert_int_equal(told->broken, 1);
	close(fd);
}

/* Who asks for a lot at once without structured replies has one reply in memory, not eight. */
static void greedy(void **state)
{
	static unsigned char buf[8 << 20];
	int fd, i, k;

	(void)state;
	start(false, false);
	fd = client(false, false);
	for (i = 0; i < 12; i++)
		request(fd, NBD_CMD_READ, 0, HOLES, sizeof(buf));
	for (i = 0; i < 6; i++) {
		assert_int_equal(simple_error(fd), 0);
		get(fd, buf, sizeof(buf));
		for (k = 0; k < 8; k++)
			assert_int_equal(buf[k << 20], content(HOLES + ((uint64_t)k << 20)));
	}
	assert_int_equal(told->big_most, 1);
	/* what is waited for does not keep the server */
	assert_int_equal(stop(SIGTERM), 0);
	assert_int_equal(told->ret, -EINTR);
	close(fd);
}

/* A handshake has an end, also of one who says a byte now and then. */
static void slow_handshake(void **state)
{
	static const char list[16] = "IHAVEOPT\0\0\0\3";
	int fd, i;

	(void)state;
	start(false, false);
	fd = client_hello(NBD_FLAG_FIXED_NEWSTYLE);
	for (i = 0; i < 28 && send(fd, list + i % 16, 1, MSG_NOSIGNAL) == 1; i++)
		nanosleep(&(struct timespec){ .tv_nsec = 500000000 }, NULL);
	assert_true(i > 16 && i < 28);
	close(fd);
	assert_int_equal(stop(SIGTERM), 0);
	assert_int_equal(told->readers, 0);
}

/* Many more readers than there is room for come one after the other, all served. */
static void crowd(void **state)
{
	(void)state;
	start(false, false);
	fx_shell("cd '%s' && for i in $(seq 40); do"
		 " nbdinfo --size 'nbd+unix:///vol?socket=%s' >size.$i 2>&1 & done; wait;"
		 " [ $(cat size.* | sort -u) = %llu ] && [ $(ls size.* | wc -l) = 40 ]", fx_top,
		 sock_path(), SIZE);
	assert_int_equal(stop(SIGTERM), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(handshake, tidy),
		cmocka_unit_test_teardown(reads, tidy),
		cmocka_unit_test_teardown(status, tidy),
		cmocka_unit_test_teardown(trims, tidy),
		cmocka_unit_test_teardown(readers, tidy),
		cmocka_unit_test_teardown(stuck_reader, tidy),
		cmocka_unit_test_teardown(greedy, tidy),
		cmocka_unit_test_teardown(slow_handshake, tidy),
		cmocka_unit_test_teardown(crowd, tidy),
	};

	return cmocka_run_group_tests(tests, begin_group, fx_end);
}

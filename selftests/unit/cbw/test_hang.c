// SPDX-License-Identifier: GPL-2.0-or-later
/* an NBD server that stops answering: a signal ends what waits for it, whatever that is */
#include <dlfcn.h>
#include <endian.h>
#include <fcntl.h>
#include <netdb.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "common.h"
#include "nbd-proto.h"

#define SIZE		(4u << 20)
#define CMD_FLUSH	3	/* that cbw export does not have */
#define FLAG_FLUSH	(1u << 2)
#define FLAG_ZEROES	(1u << 6)
/* instead of a command: it does not answer at all; it answers all, and hangs nowhere */
#define AT_CONNECT	(-1)
#define NEVER		(-2)

static char top[] = "/tmp/cbw-unit-XXXXXX";
static char uri[160];
static pid_t server, tool;

static char *path_of(const char *name)
{
	return path_in(top, name);
}

/* ---- the server ------------------------------------------------------------------- */

static void get(int fd, void *buf, size_t len)
{
	char *p = buf;

	while (len) {
		ssize_t n = read(fd, p, len);

		if (n <= 0)
			_exit(0);
		p += n;
		len -= (size_t)n;
	}
}

static void put(int fd, const void *buf, size_t len)
{
	if (write_all(fd, buf, len))
		_exit(0);
}

static void option_reply(int fd, uint32_t option, uint32_t type, const void *data, uint32_t len)
{
	const struct nbd_option_reply r = {
		htobe64(NBD_REP_MAGIC), htobe32(option), htobe32(type), htobe32(len),
	};

	put(fd, &r, sizeof(r));
	put(fd, data, len);
}

static void handshake(int fd)
{
	const struct { uint64_t a, b; uint16_t flags; } __attribute__((packed)) hello = {
		htobe64(NBD_MAGIC), htobe64(NBD_OPTS_MAGIC),
		htobe16(NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES),
	};
	const struct { uint16_t type; uint64_t size; uint16_t flags; } __attribute__((packed)) info = {
		htobe16(NBD_INFO_EXPORT), htobe64(SIZE),
		htobe16(NBD_FLAG_HAS_FLAGS | FLAG_FLUSH | FLAG_ZEROES),
	};
	const struct { uint32_t id; char name[15]; } __attribute__((packed)) context = {
		htobe32(1), { 'b', 'a', 's', 'e', ':', 'a', 'l', 'l', 'o', 'c', 'a', 't', 'i', 'o', 'n' },
	};
	struct nbd_option_head head;
	char skip[4096];

	put(fd, &hello, sizeof(hello));
	get(fd, skip, 4);
	for (;;) {
		get(fd, &head, sizeof(head));
		get(fd, skip, be32toh(head.length));
		switch (be32toh(head.option)) {
		case NBD_OPT_STRUCTURED_REPLY:
			break;
		case NBD_OPT_SET_META_CONTEXT:
			option_reply(fd, NBD_OPT_SET_META_CONTEXT, NBD_REP_META_CONTEXT, &context,
				     sizeof(context));
			break;
		case NBD_OPT_GO:
			option_reply(fd, NBD_OPT_GO, NBD_REP_INFO, &info, sizeof(info));
			option_reply(fd, NBD_OPT_GO, NBD_REP_ACK, NULL, 0);
			return;
		default:
			option_reply(fd, be32toh(head.option), NBD_REP_ERR_UNSUP, NULL, 0);
			continue;
		}
		option_reply(fd, be32toh(head.option), NBD_REP_ACK, NULL, 0);
	}
}

static void chunk(int fd, const struct nbd_request *r, unsigned int type, const void *data,
		  uint32_t len)
{
	const struct nbd_chunk c = {
		htobe32(NBD_CHUNK_MAGIC), htobe16(NBD_REPLY_FLAG_DONE), htobe16((uint16_t)type),
		r->cookie, htobe32(len),
	};

	put(fd, &c, sizeof(c));
	put(fd, data, len);
}

static void serve(int fd, int hang, int tell)
{
	static char data[8 + SIZE];
	struct nbd_request r;
	uint32_t status[3];

	if (hang == AT_CONNECT) {
		put(tell, "", 1);
		pause();
	}
	handshake(fd);
	for (;;) {
		get(fd, &r, sizeof(r));
		if (be16toh(r.type) == hang) {
			put(tell, "", 1);
			pause();
		}
		switch (be16toh(r.type)) {
		case NBD_CMD_DISC:
			return;
		case NBD_CMD_READ:
			memset(data, 1, sizeof(data));
			memcpy(data, &r.offset, 8);
			chunk(fd, &r, NBD_REPLY_TYPE_OFFSET_DATA, data, 8 + be32toh(r.length));
			continue;
		case NBD_CMD_BLOCK_STATUS:
			status[0] = htobe32(1);
			status[1] = r.length;
			status[2] = 0;
			chunk(fd, &r, NBD_REPLY_TYPE_BLOCK_STATUS, status, sizeof(status));
			continue;
		case NBD_CMD_WRITE:
			get(fd, data, be32toh(r.length));
		}
		chunk(fd, &r, NBD_REPLY_TYPE_NONE, NULL, 0);
	}
}

/* The end that says a byte when it hangs. */
static int begin_server(int hang)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int told[2], fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", path_of("sock"));
	unlink(addr.sun_path);
	assert_int_equal(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	assert_int_equal(listen(fd, 4), 0);
	assert_int_equal(pipe2(told, O_CLOEXEC), 0);
	fflush(NULL);
	server = fork();
	assert_true(server >= 0);
	if (!server) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close(told[0]);
		serve(accept(fd, NULL, NULL), hang, told[1]);
		_exit(0);
	}
	close(fd);
	close(told[1]);
	return told[0];
}

/* ---- names ------------------------------------------------------------------------- */

/* In place of the C library's, for libnbd too: a name server that does not answer. */
int getaddrinfo(const char *name, const char *service, const struct addrinfo *hints,
		struct addrinfo **res)
{
	int (*real)(const char *n, const char *s, const struct addrinfo *h, struct addrinfo **r);

	while (name && !strcmp(name, "hang.invalid"))
		nanosleep(&(struct timespec){ .tv_sec = 1 }, NULL);
	*(void **)&real = dlsym(RTLD_NEXT, "getaddrinfo");
	if (name && !strcmp(name, "unknown.invalid"))
		return EAI_NONAME;
	return real(name, service, hints, res);
}

/* ---- the tool ---------------------------------------------------------------------- */

static void begin_tool(const char *src, const char *dst)
{
	char *argv[] = { "copy", (char *)(uintptr_t)src, (char *)(uintptr_t)dst, NULL };

	fflush(NULL);
	tool = fork();
	assert_true(tool >= 0);
	if (tool)
		return;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	dup2(open(path_of("out"), O_CREAT | O_TRUNC | O_WRONLY, 0600), STDOUT_FILENO);
	dup2(STDOUT_FILENO, STDERR_FILENO);
	_exit(cmd_copy(3, argv));
}

/* Its exit status, within three seconds; that it takes so long at most. */
static int end_of_tool(void)
{
	int status, i;

	for (i = 0; i < 300; i++) {
		if (waitpid(tool, &status, WNOHANG) == tool)
			break;
		nanosleep(&(struct timespec){ .tv_nsec = 10000000 }, NULL);
	}
	if (i == 300)
		fail_msg("it does not end");
	tool = 0;
	return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

static void stopped_at(int hang, const char *src, const char *dst, int sig)
{
	int tell = begin_server(hang);
	char byte;

	begin_tool(src, dst);
	assert_int_equal(read(tell, &byte, 1), 1);
	/* until it waits */
	nanosleep(&(struct timespec){ .tv_nsec = 300000000 }, NULL);
	assert_int_equal(kill(tool, sig), 0);
	assert_int_equal(end_of_tool(), hang == NBD_CMD_DISC ? EXIT_OK : EXIT_FAILED);
	close(tell);
	kill(server, SIGKILL);
	waitpid(server, NULL, 0);
	server = 0;
}

static void to_server(void **state)
{
	(void)state;
	stopped_at(AT_CONNECT, path_of("data"), uri, SIGINT);
	stopped_at(NBD_CMD_WRITE, path_of("data"), uri, SIGTERM);
	stopped_at(NBD_CMD_WRITE_ZEROES, path_of("zeros"), uri, SIGINT);
	stopped_at(CMD_FLUSH, path_of("data"), uri, SIGINT);
	/* all is done but to say good-bye */
	stopped_at(NBD_CMD_DISC, path_of("data"), uri, SIGINT);
}

static void from_server(void **state)
{
	(void)state;
	stopped_at(AT_CONNECT, uri, path_of("new"), SIGTERM);
	stopped_at(NBD_CMD_BLOCK_STATUS, uri, path_of("new"), SIGINT);
	stopped_at(NBD_CMD_READ, uri, path_of("new"), SIGINT);
	/* what was made is gone */
	assert_int_equal(access(path_of("new"), F_OK), -1);
}

/* Nor a name that is looked up for ever. */
static void name(void **state)
{
	char text[300] = "";
	int fd;

	(void)state;
	begin_tool("nbd://hang.invalid", path_of("new"));
	nanosleep(&(struct timespec){ .tv_nsec = 300000000 }, NULL);
	assert_int_equal(waitpid(tool, NULL, WNOHANG), 0);
	assert_int_equal(kill(tool, SIGTERM), 0);
	assert_int_equal(end_of_tool(), EXIT_FAILED);
	assert_int_equal(access(path_of("new"), F_OK), -1);
	begin_tool(path_of("data"), "nbd://hang.invalid");
	nanosleep(&(struct timespec){ .tv_nsec = 300000000 }, NULL);
	assert_int_equal(kill(tool, SIGINT), 0);
	assert_int_equal(end_of_tool(), EXIT_FAILED);
	/* that there is none is said as before */
	begin_tool(path_of("data"), "nbd://unknown.invalid");
	assert_int_equal(end_of_tool(), EXIT_FAILED);
	fd = open(path_of("out"), O_RDONLY);
	assert_true(read(fd, text, sizeof(text) - 1) > 0);
	close(fd);
	assert_non_null(strstr(text, "unknown.invalid: connecting: "));
	assert_non_null(strstr(text, "getaddrinfo"));
}

/* The server is one: what does not hang is copied. */
static void no_hang(void **state)
{
	char *buf = malloc(SIZE);
	int tell, fd;
	size_t i;

	(void)state;
	tell = begin_server(NEVER);
	begin_tool(uri, path_of("new"));
	assert_int_equal(end_of_tool(), EXIT_OK);
	close(tell);
	waitpid(server, NULL, 0);
	fd = open(path_of("new"), O_RDONLY);
	assert_int_equal(read(fd, buf, SIZE), SIZE);
	close(fd);
	for (i = 0; i < SIZE; i++)
		assert_int_equal(buf[i], 1);
	free(buf);
	tell = begin_server(NEVER);
	begin_tool(path_of("data"), uri);
	assert_int_equal(end_of_tool(), EXIT_OK);
	close(tell);
	waitpid(server, NULL, 0);
	server = 0;
}

static int tidy(void **state)
{
	(void)state;
	if (tool > 0) {
		kill(tool, SIGKILL);
		waitpid(tool, NULL, 0);
	}
	if (server > 0) {
		kill(server, SIGKILL);
		waitpid(server, NULL, 0);
	}
	tool = server = 0;
	unlink(path_of("new"));
	return 0;
}

static int begin(void **state)
{
	char *buf = malloc(SIZE);
	int fd, ret;

	(void)state;
	signal(SIGPIPE, SIG_IGN);
	if (!mkdtemp(top))
		return -1;
	snprintf(uri, sizeof(uri), "nbd+unix:///?socket=%s", path_of("sock"));
	memset(buf, 'x', SIZE);
	fd = open(path_of("data"), O_CREAT | O_WRONLY, 0600);
	ret = write_all(fd, buf, SIZE);
	close(fd);
	free(buf);
	fd = open(path_of("zeros"), O_CREAT | O_WRONLY, 0600);
	ret |= ftruncate(fd, SIZE);
	close(fd);
	return ret;
}

static int end(void **state)
{
	char *cmd;

	(void)state;
	cmd = xasprintf("rm -rf %s", top);
	if (system(cmd))
		return -1;
	free(cmd);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(no_hang, tidy),
		cmocka_unit_test_teardown(to_server, tidy),
		cmocka_unit_test_teardown(from_server, tidy),
		cmocka_unit_test_teardown(name, tidy),
	};

	return cmocka_run_group_tests(tests, begin, end);
}

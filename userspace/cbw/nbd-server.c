// SPDX-License-Identifier: GPL-2.0-or-later
/* nbd: connections and their threads */
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "cbw.h"
#include "nbd.h"
#include "xfer.h"

#define HANDSHAKE_S	10
/* how long requests have that are under way at the end */
#define LINGER_S	5

/* ---- bytes ---------------------------------------------------------------- */

static bool too_late(const struct nbd_conn *conn)
{
	return conn->deadline && now_ns() > conn->deadline;
}

bool nbd_recv(struct nbd_conn *conn, void *buf, size_t len)
{
	char *p = buf;

	while (len) {
		ssize_t n = too_late(conn) ? 0 : recv(conn->fd, p, len, 0);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return false;
		p += n;
		len -= (size_t)n;
	}
	return true;
}

bool nbd_skip(struct nbd_conn *conn, uint64_t len)
{
	char buf[4096];

	while (len) {
		size_t n = len < sizeof(buf) ? (size_t)len : sizeof(buf);

		if (!nbd_recv(conn, buf, n))
			return false;
		len -= n;
	}
	return true;
}

bool nbd_send(struct nbd_conn *conn, const void *buf, size_t len, const void *buf2, size_t len2)
{
	struct iovec v[2] = { { (void *)buf, len }, { (void *)buf2, len2 } };
	struct msghdr msg = { .msg_iov = v, .msg_iovlen = 2 };

	while (v[0].iov_len || v[1].iov_len) {
		ssize_t n = sendmsg(conn->fd, &msg, MSG_NOSIGNAL);
		size_t first;

		if (n < 0 && errno == EINTR && !too_late(conn))
			continue;
		if (n < 0 || too_late(conn))
			return false;
		first = (size_t)n < v[0].iov_len ? (size_t)n : v[0].iov_len;
		v[0].iov_base = (char *)v[0].iov_base + first;
		v[0].iov_len -= first;
		v[1].iov_base = (char *)v[1].iov_base + ((size_t)n - first);
		v[1].iov_len -= (size_t)n - first;
	}
	return true;
}

/* ---- threads --------------------------------------------------------------- */

/* One thread less; the last one takes the connection with it. */
static void conn_put(struct nbd_conn *conn)
{
	struct nbd_server *server = conn->server;

	pthread_mutex_lock(&server->lock);
	if (--conn->threads) {
		pthread_mutex_unlock(&server->lock);
		return;
	}
	if (conn->transmission && !conn->clean)
		server->broken++;
	server->conn[conn->slot] = NULL;
	close(conn->fd);
	pthread_mutex_destroy(&conn->recv_lock);
	pthread_mutex_destroy(&conn->send_lock);
	pthread_mutex_destroy(&conn->big_lock);
	free(conn->context_name);
	free(conn);
	server->active--;
	pthread_cond_signal(&server->idle);
	/* the pipe may be full: then it wakes whoever polls it anyway */
	if (write(server->wake[1], "", 1) < 0 && errno != EAGAIN)
		say("export: pipe: %s", strerror(errno));
	pthread_mutex_unlock(&server->lock);
}

static int start_thread(void *(*fn)(void *arg), struct nbd_conn *conn)
{
	pthread_attr_t attr;
	pthread_t thread;
	int ret = pthread_attr_init(&attr);

	if (ret)
		return -ret;
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	ret = pthread_create(&thread, &attr, fn, conn);
	pthread_attr_destroy(&attr);
	return -ret;
}

static void *worker(void *arg)
{
	nbd_requests(arg);
	conn_put(arg);
	return NULL;
}

static void *first_worker(void *arg)
{
	struct nbd_conn *conn = arg;
	struct nbd_server *server = conn->server;
	const struct timeval bound = { .tv_sec = HANDSHAKE_S }, none = { 0 };
	unsigned int i;

	/* who says nothing, or a byte now and then, or listens to nothing, shall not keep others out */
	conn->deadline = now_ns() + HANDSHAKE_S * 1000000000ull;
	setsockopt(conn->fd, SOL_SOCKET, SO_RCVTIMEO, &bound, sizeof(bound));
	setsockopt(conn->fd, SOL_SOCKET, SO_SNDTIMEO, &bound, sizeof(bound));
	if (!nbd_handshake(conn)) {
		conn_put(conn);
		return NULL;
	}
	conn->deadline = 0;
	setsockopt(conn->fd, SOL_SOCKET, SO_RCVTIMEO, &none, sizeof(none));
	setsockopt(conn->fd, SOL_SOCKET, SO_SNDTIMEO, &none, sizeof(none));
	pthread_mutex_lock(&server->lock);
	conn->transmission = true;
	server->readers++;
	pthread_mutex_unlock(&server->lock);
	for (i = 1; i < NBD_WORKERS; i++) {
		pthread_mutex_lock(&server->lock);
		conn->threads++;
		pthread_mutex_unlock(&server->lock);
		/* fewer will do */
		if (start_thread(worker, conn)) {
			conn_put(conn);
			break;
		}
	}
	return worker(conn);
}

static void take_client(struct nbd_server *server, int listen_fd)
{
	int fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC);
	struct nbd_conn *conn;
	unsigned int i;

	if (fd < 0)
		return;
	conn = xcalloc(1, sizeof(*conn));
	conn->server = server;
	conn->fd = fd;
	conn->threads = 1;
	pthread_mutex_init(&conn->recv_lock, NULL);
	pthread_mutex_init(&conn->send_lock, NULL);
	pthread_mutex_init(&conn->big_lock, NULL);
	pthread_mutex_lock(&server->lock);
	for (i = 0; server->conn[i]; i++)
		;
	server->conn[i] = conn;
	conn->slot = i;
	server->active++;
	pthread_mutex_unlock(&server->lock);
	if (start_thread(first_worker, conn)) {
		say("export: no thread for another reader");
		conn_put(conn);
	}
}

/* Whether all threads have gone, within @seconds. */
static bool all_gone(struct nbd_server *server, int seconds)
{
	struct timespec end;
	int ret = 0;

	clock_gettime(CLOCK_REALTIME, &end);
	end.tv_sec += seconds;
	while (server->active && !ret)
		ret = pthread_cond_timedwait(&server->idle, &server->lock, &end);
	return !server->active;
}

static void shut_all(struct nbd_server *server, int how)
{
	unsigned int i;

	for (i = 0; i < NBD_CLIENTS_MAX; i++)
		if (server->conn[i])
			shutdown(server->conn[i]->fd, how);
}

/*
 * What was asked is answered, if the one who asked takes it. That is bounded: neither a
 * client nor a store that hangs keeps us.
 */
static bool stop(struct nbd_server *server)
{
	bool gone;

	pthread_mutex_lock(&server->lock);
	shut_all(server, SHUT_RD);
	gone = all_gone(server, LINGER_S);
	if (!gone) {
		shut_all(server, SHUT_RDWR);
		gone = all_gone(server, LINGER_S);
	}
	pthread_mutex_unlock(&server->lock);
	return gone;
}

static bool is_over(struct nbd_server *server, bool *full)
{
	bool over;

	pthread_mutex_lock(&server->lock);
	over = server->once && server->readers && !server->active;
	*full = server->active == NBD_CLIENTS_MAX;
	pthread_mutex_unlock(&server->lock);
	return over;
}

static int serve(struct nbd_server *server, int listen_fd, const sigset_t *unblocked,
		 struct cbw_error *err)
{
	const struct timespec second = { .tv_sec = 1 };
	struct timespec now, asked = { 0 };
	bool full;
	int ret;

	while (!is_over(server, &full)) {
		struct pollfd p[2] = {
			{ .fd = server->wake[0], .events = POLLIN },
			{ .fd = full ? -1 : listen_fd, .events = POLLIN },
		};
		char drop[64];

		if (stop_signal)
			return fail_with(err, EINTR, "interrupted");
		if (ppoll(p, 2, &second, unblocked) < 0 && errno != EINTR)
			return fail_with(err, errno, "poll: %s", strerror(errno));
		if (p[0].revents && read(server->wake[0], drop, sizeof(drop)) < 0 &&
		    errno != EAGAIN)
			return fail_with(err, errno, "pipe: %s", strerror(errno));
		if (p[1].revents)
			take_client(server, listen_fd);
		clock_gettime(CLOCK_MONOTONIC, &now);
		if (!server->alive || now.tv_sec == asked.tv_sec)
			continue;
		asked = now;
		ret = server->alive(server->arg, err);
		if (ret)
			return ret;
	}
	return 0;
}

int nbd_serve(struct nbd_server *server, int listen_fd, struct cbw_error *err)
{
	sigset_t block, old;
	int ret;

	server->active = 0;
	if (pipe2(server->wake, O_CLOEXEC | O_NONBLOCK))
		return fail_with(err, errno, "pipe: %s", strerror(errno));
	pthread_mutex_init(&server->lock, NULL);
	pthread_cond_init(&server->idle, NULL);
	/* signals come to this thread, and only while it waits: none is missed */
	sigemptyset(&block);
	sigaddset(&block, SIGINT);
	sigaddset(&block, SIGTERM);
	sigaddset(&block, SIGHUP);
	pthread_sigmask(SIG_BLOCK, &block, &old);
	ret = serve(server, listen_fd, &old, err);
	if (!stop(server)) {
		say("export: a request is stuck in the storage");
		ret = fail_with(err, EBUSY, "a request is stuck in the storage");
	}
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (ret == -EBUSY)
		return ret;
	close(server->wake[0]);
	close(server->wake[1]);
	pthread_mutex_destroy(&server->lock);
	pthread_cond_destroy(&server->idle);
	return ret;
}

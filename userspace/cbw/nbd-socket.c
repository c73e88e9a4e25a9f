// SPDX-License-Identifier: GPL-2.0-or-later
/* nbd: the socket, which belongs to root alone, and to one run at a time */
#include <fcntl.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "cbw.h"
#include "nbd.h"

/* The directory, locked: who looks at a stale socket and replaces it is alone there. */
static int lock_dir(const char *path, struct cbw_error *err)
{
	const char *slash = strrchr(path, '/');
	char *dir = slash ? xstrdup(path) : xstrdup(".");
	int fd, tries;

	if (slash)
		dir[slash == path ? 1 : slash - path] = '\0';
	fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0) {
		fail_with(err, errno, "%s: %s", esc(dir), strerror(errno));
		free(dir);
		return -1;
	}
	for (tries = 0; flock(fd, LOCK_EX | LOCK_NB); tries++) {
		if (errno != EWOULDBLOCK || tries == 100) {
			fail_with(err, EBUSY, "%s: it cannot be locked: %s", esc(dir),
				  strerror(errno));
			close(fd);
			fd = -1;
			break;
		}
		nanosleep(&(struct timespec){ .tv_nsec = 20000000 }, NULL);
	}
	free(dir);
	return fd;
}

/* What is in the way? Nothing after this, or an error. */
static int make_way(const char *path, const struct sockaddr_un *addr, struct cbw_error *err)
{
	struct stat st;
	int fd, ret;

	if (lstat(path, &st))
		return errno == ENOENT ? 0 :
			fail_with(err, errno, "%s: %s", esc(path), strerror(errno));
	if (!S_ISSOCK(st.st_mode))
		return fail_with(err, EEXIST, "%s: it is there and is no socket; name another path",
				 esc(path));
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return fail_with(err, errno, "socket: %s", strerror(errno));
	ret = connect(fd, (const struct sockaddr *)addr, sizeof(*addr)) ? -errno : 0;
	close(fd);
	/* a backlog that is full is one of somebody who lives */
	if (!ret || ret == -EAGAIN)
		return fail_with(err, EADDRINUSE,
				 "%s: somebody serves on this socket; end that, or name another path",
				 esc(path));
	if (ret != -ECONNREFUSED)
		return fail_with(err, -ret, "%s: %s", esc(path), strerror(-ret));
	if (unlink(path))
		return fail_with(err, errno, "%s: %s", esc(path), strerror(errno));
	return 0;
}

static int bind_listen(const char *path, const struct sockaddr_un *addr, struct nbd_socket *sock,
		       struct cbw_error *err)
{
	struct stat st;
	mode_t mask;
	int ret;

	sock->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (sock->fd < 0)
		return fail_with(err, errno, "socket: %s", strerror(errno));
	/* at no time it may be anybody else's to connect to */
	mask = umask(0177);
	ret = bind(sock->fd, (const struct sockaddr *)addr, sizeof(*addr)) ? -errno : 0;
	umask(mask);
	if (ret) {
		fail_with(err, -ret, "%s: %s", esc(path), strerror(-ret));
		goto out;
	}
	if (listen(sock->fd, SOMAXCONN) || lstat(path, &st)) {
		ret = fail_with(err, errno, "%s: %s", esc(path), strerror(errno));
		unlink(path);
		goto out;
	}
	sock->path = path;
	sock->dev = st.st_dev;
	sock->ino = st.st_ino;
	return 0;
out:
	close(sock->fd);
	sock->fd = -1;
	return ret;
}

int nbd_listen(const char *path, struct nbd_socket *sock, struct cbw_error *err)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int dir, ret;

	sock->fd = -1;
	if (strlen(path) >= sizeof(addr.sun_path))
		return fail_with(err, ENAMETOOLONG, "%s: a socket's path may have %zu bytes at most",
				 esc(path), sizeof(addr.sun_path) - 1);
	memcpy(addr.sun_path, path, strlen(path));
	dir = lock_dir(path, err);
	if (dir < 0)
		return -err->code;
	ret = make_way(path, &addr, err);
	if (!ret)
		ret = bind_listen(path, &addr, sock, err);
	close(dir);
	return ret;
}

void nbd_unlisten(struct nbd_socket *sock)
{
	struct stat st;

	if (sock->fd < 0)
		return;
	if (!lstat(sock->path, &st) && st.st_dev == sock->dev && st.st_ino == sock->ino)
		unlink(sock->path);
	close(sock->fd);
	sock->fd = -1;
}

/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A small NBD server for points in time, inside the process: whoever ends it ends all
 * access. One export, read-only but for trim; several connections, several requests of each
 * at a time. Documentation/design.rst has the reasons.
 */
#ifndef CBW_NBD_H
#define CBW_NBD_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "libcbw.h"

#define NBD_CLIENTS_MAX	16		/* at once; more wait */
#define NBD_WORKERS	8		/* requests of one connection under way */
#define NBD_PIECE	(1u << 20)	/* one read of the source */
#define NBD_LENGTH_MAX	(32u << 20)	/* one request */

enum nbd_context {
	NBD_BASE_ALLOCATION,
	NBD_DIRTY_BITMAP,
	NBD_CONTEXTS,
};

/**
 * struct nbd_source - what is exported
 * @size: bytes
 * @block: reads of whole blocks are fastest
 * @bitmap: of the context qemu:dirty-bitmap:NAME; NULL: there is none
 * @read: any bytes within the size; @buf is aligned to 4096
 * @status: what holds from @offset on, for @run bytes, 1 to @length
 * @trim: the reader has this; NULL: not offered
 * @served: these bytes have been sent; may be NULL
 *
 * All are called by many threads at a time. Negative errno values come with a text.
 */
struct nbd_source {
	uint64_t size;
	uint32_t block;
	const char *bitmap;
	int (*read)(const struct nbd_source *s, uint64_t offset, void *buf, size_t length,
		    struct cbw_error *err);
	int (*status)(const struct nbd_source *s, enum nbd_context context, uint64_t offset,
		      uint64_t length, uint32_t *flags, uint64_t *run, struct cbw_error *err);
	int (*trim)(const struct nbd_source *s, uint64_t offset, uint64_t length,
		    struct cbw_error *err);
	void (*served)(const struct nbd_source *s, uint64_t offset, uint64_t length);
};

/* ---- the server (nbd-server.c) ----------------------------------------- */

/**
 * struct nbd_server - one export on one socket
 * @source, @name, @once, @alive, @arg: of the caller
 * @name: of the export; clients may also ask for the empty one
 * @once: end when the last of those who read has gone
 * @alive: asked every second: an error ends it; may be NULL
 * @readers: out: how many connections got as far as to read
 * @broken: out: of these, how many ended without saying so (NBD_CMD_DISC)
 * @failures: out: requests that were answered with an error of the source
 */
struct nbd_server {
	const struct nbd_source *source;
	const char *name;
	bool once;
	int (*alive)(void *arg, struct cbw_error *err);
	void *arg;
	unsigned int readers;
	unsigned int broken;
	unsigned int failures;
	/* private */
	pthread_mutex_t lock;
	pthread_cond_t idle;
	int wake[2];
	struct nbd_conn *conn[NBD_CLIENTS_MAX];
	unsigned int active;
};

/**
 * nbd_serve - serve until a signal comes, @once is over, or @alive fails
 * @listen_fd: from nbd_listen()
 *
 * Return: 0, -EINTR after SIGINT or SIGTERM, or an error. -EBUSY: a request is stuck in the
 * source, so threads are still there: the caller must not free what they use.
 */
int nbd_serve(struct nbd_server *server, int listen_fd, struct cbw_error *err);

/* ---- one connection ----------------------------------------------------- */

/**
 * struct nbd_conn - a connection
 * @recv_lock: who reads the next request; @send_lock: who sends a reply
 * @big_lock: who has a whole reply of more than NBD_PIECE in memory
 * @deadline: of the handshake, by now_ns(); 0: none
 * @threads: that use it; the last one frees it
 * @structured: structured replies were negotiated
 * @context: that were negotiated, for export @context_name
 * @transmission: the handshake is over
 * @done: no more requests: disconnected, or broken
 * @clean: by NBD_CMD_DISC
 * @cut_off: nothing can be sent any more
 */
struct nbd_conn {
	struct nbd_server *server;
	int fd;
	pthread_mutex_t recv_lock;
	pthread_mutex_t send_lock;
	pthread_mutex_t big_lock;
	uint64_t deadline;
	unsigned int threads;
	unsigned int slot;
	bool structured;
	bool context[NBD_CONTEXTS];
	char *context_name;
	bool transmission;
	bool done;
	bool clean;
	bool cut_off;
};

/* Handshake; true: transmission begins (nbd-option.c) */
bool nbd_handshake(struct nbd_conn *conn);
/* Requests until the end of the connection, for each of its threads (nbd-request.c) */
void nbd_requests(struct nbd_conn *conn);

/* All of it, or false: the connection is of no use any more. */
bool nbd_recv(struct nbd_conn *conn, void *buf, size_t len);
bool nbd_skip(struct nbd_conn *conn, uint64_t len);
/* Two pieces in a row; @len2 may be 0. */
bool nbd_send(struct nbd_conn *conn, const void *buf, size_t len, const void *buf2, size_t len2);
uint16_t nbd_flags(const struct nbd_source *source);

/* ---- the socket (nbd-socket.c) ------------------------------------------ */

/**
 * struct nbd_socket - a unix socket that is listened on
 * @path: of the caller
 */
struct nbd_socket {
	const char *path;
	int fd;
	dev_t dev;
	ino_t ino;
};

/*
 * Makes @path, mode 0600. A socket that nobody listens on any more is replaced; -EADDRINUSE
 * if somebody does, -EEXIST for what is no socket.
 */
int nbd_listen(const char *path, struct nbd_socket *sock, struct cbw_error *err);
/* Closes it, and removes it if it is still this one. */
void nbd_unlisten(struct nbd_socket *sock);

#endif

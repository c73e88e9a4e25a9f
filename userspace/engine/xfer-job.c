// SPDX-License-Identifier: GPL-2.0-or-later
/* what the workers of the pipeline do */
#include <unistd.h>

#include "cbw.h"
#include "xfer-int.h"

/* 0, or what read_failed() is to be told. In a worker. */
static int thread_read(const struct xfer *x, struct slot *s)
{
	while (s->got < s->piece.length) {
		ssize_t n = pread(s->piece.fd, s->bufs.data + s->got, s->piece.ask - s->got,
				  (off_t)(s->piece.src_offset + s->got));

		/* the descriptor may be somebody else's by now */
		if (x->abandoned)
			return ECANCELED;
		if (n < 0 && (errno == EINTR || errno == EAGAIN))
			continue;
		if (n <= 0)
			return n ? errno : EUCLEAN;
		s->got += (uint32_t)n;
	}
	return 0;
}

int xfer_thread_write(struct xfer *x, struct slot *s, const struct xfer_write *w,
		      unsigned int worker)
{
	const char *p = w->data;
	uint64_t at = w->dst_offset;
	size_t left = w->length;

	if (w->how == XFER_CALL)
		return x->ops.write(x->ctx, w, worker, &s->err);
	while (left) {
		ssize_t n = pwrite(w->fd, p, left, (off_t)at);

		if (x->abandoned)
			return -ECANCELED;
		if (n < 0 && (errno == EINTR || errno == EAGAIN))
			continue;
		if (n <= 0)
			return fail_with(&s->err, n ? errno : EIO,
					 "%s: writing %zu bytes at offset %llu: %s",
					 esc(x->params.target), left, (ull)at,
					 n ? strerror(errno) : "nothing was written");
		p += n;
		at += (uint64_t)n;
		left -= (size_t)n;
	}
	return 0;
}

void xfer_job(void *ctx, struct job *job, unsigned int worker)
{
	struct xfer *x = ctx;
	struct slot *s = (struct slot *)job;
	unsigned int i;

	s->job_read = 0;
	s->job_ret = 0;
	/* the owner has gone on, with what its functions need */
	if (x->abandoned)
		return;
	switch (s->task) {
	case TASK_READ:
		if (s->piece.how == XFER_CALL)
			s->job_ret = x->ops.read(x->ctx, &s->piece, &s->bufs, worker, &s->err);
		else
			s->job_read = thread_read(x, s);
		if (s->job_read || s->job_ret || x->abandoned)
			break;
		/* fall through */
	case TASK_WORK:
		if (x->ops.work)
			s->job_ret = x->ops.work(x->ctx, &s->piece, &s->bufs, worker, &s->err);
		break;
	case TASK_WRITE:
		for (i = 0; i < s->nr && !s->job_ret; i++)
			if (s->write[i].how != XFER_RING)
				s->job_ret = xfer_thread_write(x, s, &s->write[i], worker);
		break;
	}
}

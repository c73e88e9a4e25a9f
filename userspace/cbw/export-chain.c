// SPDX-License-Identifier: GPL-2.0-or-later
/* export: an image of a chain, for agents that pull from a backup as from the volume */
#include <unistd.h>

#include "cbw.h"
#include "chain.h"
#include "export.h"
#include "nbd-proto.h"
#include "qcow2.h"
#include "restore.h"

static const struct chain_source *chain_of(const struct nbd_source *s)
{
	return (const struct chain_source *)((const char *)s -
					     offsetof(struct chain_source, source));
}

static int read_file(int fd, uint64_t offset, char *buf, uint64_t length, struct cbw_error *err)
{
	while (length) {
		ssize_t n = pread(fd, buf, length, (off_t)offset);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return fail_with(err, n ? errno : EIO, "image: %s",
					 n ? strerrordesc_np(errno) : "it is cut short");
		buf += n;
		offset += (uint64_t)n;
		length -= (uint64_t)n;
	}
	return 0;
}

static int chain_read(const struct nbd_source *s, uint64_t offset, void *buf, size_t length,
		      struct cbw_error *err)
{
	const struct chain_source *c = chain_of(s);
	struct qcow2_error qerr;
	char *to = buf;
	int ret = 0;

	while (length && !ret) {
		struct qcow2_run run;

		ret = qcow2_map(c->img, offset, length, &run, &qerr);
		if (ret)
			return fail_with(err, ret, "%s", qerr.msg);
		switch (run.type) {
		case QCOW2_RUN_ZERO:
			memset(to, 0, run.length);
			break;
		case QCOW2_RUN_DATA:
			/* not under the image's lock, so readers do not wait for each other */
			ret = read_file(run.fd, run.host_offset, to, run.length, err);
			break;
		default:
			ret = qcow2_read(c->img, offset, to, run.length, &qerr);
			if (ret)
				return fail_with(err, ret, "%s", qerr.msg);
		}
		to += run.length;
		offset += run.length;
		length -= run.length;
	}
	return ret;
}

static int chain_status(const struct nbd_source *s, enum nbd_context context, uint64_t offset,
			uint64_t length, uint32_t *flags, uint64_t *run, struct cbw_error *err)
{
	const struct chain_source *c = chain_of(s);
	struct qcow2_error qerr;
	struct qcow2_run r;
	int ret;

	ret = context == NBD_DIRTY_BITMAP ?
		qcow2_map_layer(c->img, 0, offset, length, &r, &qerr) :
		qcow2_map(c->img, offset, length, &r, &qerr);
	if (ret)
		return fail_with(err, ret, "%s", qerr.msg);
	*run = r.length;
	if (context == NBD_DIRTY_BITMAP)
		*flags = c->whole || r.type != QCOW2_RUN_UNALLOCATED ? NBD_STATE_DIRTY : 0;
	else
		*flags = r.type == QCOW2_RUN_ZERO ? NBD_STATE_HOLE | NBD_STATE_ZERO : 0;
	return 0;
}

int chain_source_open(struct chain_source *c, const char *path, const char *id,
		      const char *bitmap)
{
	const struct entry *e;
	struct cbw_error err;
	struct chain chain;
	int ret, status;

	status = pick_chain("export", path, &chain);
	if (status)
		return status;
	e = pick_entry("export", &chain, id);
	ret = e ? open_entry(&chain, e, &c->img, &err) : 0;
	if (!e) {
		status = EXIT_FAILED;
	} else if (ret) {
		say("export: %s", err.msg);
		status = distrust(ret) ? EXIT_DISTRUST : EXIT_FAILED;
	} else {
		c->whole = !e->parent;
		c->bitmap = xstrdup(bitmap ? bitmap : chain.bitmap);
		c->source = (struct nbd_source){
			.size = e->size, .block = qcow2_cluster_size(c->img),
			.bitmap = c->bitmap, .read = chain_read, .status = chain_status,
		};
	}
	chain_close(&chain);
	return status;
}

void chain_source_close(struct chain_source *c)
{
	qcow2_close(c->img);
	free(c->bitmap);
}

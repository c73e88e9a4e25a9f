// SPDX-License-Identifier: GPL-2.0-or-later
/* from a snapshot into one image, or whatever a target is */
#include "cbw.h"
#include "copy.h"
#include "engine.h"

int copy_run(struct copy *copy, struct cbw_error *err)
{
	struct engine e = {
		.what = "backup",
		.name = copy->name,
		.ranges = copy->ranges,
		.zero = copy->zero,
		.rate = copy->rate,
		.json = copy->json,
		.sums = &copy->sums,
		.chunk = copy->chunk,
		.quiet = copy->quiet,
		.sync_bytes = copy->sync_bytes,
		.durable = copy->release,
		.why = copy->why,
		.check = copy->check,
		.arg = copy->arg,
	};
	int ret = source_file(copy->name, copy->src, &e.src, err);

	if (ret)
		return ret;
	e.src->size = copy->size;
	e.dst = copy->dst ? copy->dst :
		sink_qcow2(copy->target, copy->img, copy->img_fd, copy->backed, copy->compress);
	sums_init(&copy->sums, copy->size);
	ret = engine_run(&e, err);
	/* what is not ours has more to do at its end */
	if (!ret && !copy->dst)
		ret = e.dst->ops->flush(e.dst, err);
	if (ret)
		sums_free(&copy->sums);
	copy->copied = e.copied;
	copy->zeros = e.zeros;
	if (!copy->dst)
		sink_close(e.dst);
	source_close(e.src);
	return ret;
}

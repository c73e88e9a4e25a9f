// SPDX-License-Identifier: GPL-2.0-or-later
/* details of an image that has none: read it all */
#include "cbw.h"
#include "details.h"
#include "merge.h"
#include "progress.h"
#include "qcow2.h"
#include "restore.h"
#include "scan.h"

static int from_image(const struct chain *chain, const struct entry *e,
		      struct qcow2_image *img, const char *path, bool json,
		      struct details *d, struct cbw_error *err)
{
	struct progress progress;
	struct scan scan;
	int ret;

	progress_begin(&progress, "read", e->file, e->copied, json);
	ret = scan_image(img, path, &progress, &scan, err);
	progress_end(&progress);
	if (ret)
		return ret;
	if (scan.nr_bad)
		ret = fail_with(err, EUCLEAN, "%s", scan.first.msg);
	else
		ret = scan_compare(chain, e, &scan, err);
	/* the checksum of all of it is what vouches for those of the parts */
	if (!ret)
		ret = details_take(img, path, d, err);
	d->sums = scan.sums;
	scan.sums = (struct sums){ 0 };
	scan_free(&scan);
	return ret;
}

int details_make(const struct chain *chain, struct entry *e, bool json,
		 struct cbw_error *err)
{
	struct details d = { .cut = e->cut, .size = e->size };
	char *path = chain_path(chain, e->file);
	struct qcow2_image *img;
	int ret = open_alone(path, &img, err);

	if (!ret) {
		ret = from_image(chain, e, img, path, json, &d, err);
		qcow2_close(img);
	}
	if (!ret)
		ret = details_save(chain, e, &d, false, err);
	details_free(&d);
	free(path);
	return ret;
}

int details_need(const struct chain *chain, struct entry *e, bool json, struct details *d,
		 struct cbw_error *err)
{
	int ret = details_load(chain, e, d, err);

	if (ret != -ENODATA && ret != -ENOENT && !distrust(ret))
		return ret;
	ret = details_make(chain, e, json, err);
	return ret ? ret : details_load(chain, e, d, err);
}

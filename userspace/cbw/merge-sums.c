// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The checksums that a merge has to end with, beside the images while it is under way. With
 * them it can be begun anew at any point, and be trusted, without anything else.
 */
#include "cbw.h"
#include "details.h"
#include "merge.h"

/* They are kept as details of an image that there is not. */
static struct entry pretend(const struct chain *chain, const struct entry *upper)
{
	struct entry e = {
		.cut = upper->cut,
		.size = upper->size,
		.file = CHAIN_MERGE_IMAGE,
		.details_size = chain->merge.sums_size,
		.details_crc = chain->merge.sums_crc,
	};

	return e;
}

int merge_sums_load(const struct chain *chain, struct sums *after, struct cbw_error *err)
{
	struct entry e = pretend(chain, chain_by_id(chain, chain->merge.into));
	struct details d;
	int ret;

	if (!e.details_size)
		return fail_with(err, ENODATA, "an older version began it, without checksums of what it ends with");
	ret = details_load(chain, &e, &d, err);
	if (ret)
		return ret;
	*after = d.sums;
	d.sums = (struct sums){ 0 };
	details_free(&d);
	return 0;
}

int merge_sums_save(struct chain *chain, const struct entry *upper, const struct sums *after,
		    const struct details *d, struct cbw_error *err)
{
	struct entry e = pretend(chain, upper);
	struct details all = *d;
	int ret;

	all.cut = upper->cut;
	all.size = upper->size;
	all.sums = *after;
	ret = details_save(chain, &e, &all, false, err);
	if (ret)
		return ret;
	chain->merge.sums_size = e.details_size;
	chain->merge.sums_crc = e.details_crc;
	return 0;
}

void merge_sums_remove(const struct chain *chain)
{
	const struct entry e = { .file = CHAIN_MERGE_IMAGE };

	details_remove(chain, &e);
}

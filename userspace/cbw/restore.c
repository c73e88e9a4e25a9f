// SPDX-License-Identifier: GPL-2.0-or-later
/* which chain and which of its images, and what has to fit */
#include "cbw.h"
#include "image-lock.h"
#include "qcow2.h"
#include "restore.h"

int check_layer(struct qcow2_image *img, unsigned int layer,
		const struct chain *chain, const struct entry *e,
		const struct entry *parent, struct cbw_error *err)
{
	struct cbw_cut_id ids[3];
	struct qcow2_header_ext ext;
	struct qcow2_layer info;
	int ret = qcow2_get_layer(img, layer, &info);

	if (ret)
		return fail_with(err, EUCLEAN, "%s/%s: there are fewer images than the manifest says",
				 esc(chain->dir), esc(e->file));
	if (info.format != QCOW2_FORMAT_QCOW2 ||
	    qcow2_get_ext(img, layer, CHAIN_QCOW2_EXT, &ext) ||
	    ext.len != sizeof(ids))
		return fail_with(err, EUCLEAN,
				 "%s/%s: not an image that cbw made: its ids are missing",
				 esc(chain->dir), esc(e->file));
	memcpy(ids, ext.data, sizeof(ids));
	if (!cbw_cut_equal(&ids[0], &chain->id))
		return fail_with(err, EUCLEAN, "%s/%s: the image belongs to another chain",
				 esc(chain->dir), esc(e->file));
	if (!cbw_cut_equal(&ids[1], &e->cut) ||
	    (parent ? !cbw_cut_equal(&ids[2], &parent->cut) :
	     !cbw_cut_is_none(&ids[2])))
		return fail_with(err, EUCLEAN,
				 "%s/%s: the image is of another point in time than the manifest says",
				 esc(chain->dir), esc(e->file));
	if (info.virtual_size != e->size)
		return fail_with(err, EUCLEAN,
				 "%s/%s: the image is of %llu bytes, the manifest says %llu",
				 esc(chain->dir), esc(e->file),
				 (ull)info.virtual_size, (ull)e->size);
	if (parent ? !info.backing_file ||
	    strcmp(info.backing_file, parent->file) : !!info.backing_file)
		return fail_with(err, EUCLEAN,
				 "%s/%s: its backing file is '%s', the manifest says '%s'",
				 esc(chain->dir), esc(e->file),
				 info.backing_file ? esc(info.backing_file) : "",
				 parent ? parent->file : "");
	return 0;
}

int open_alone(const char *path, struct qcow2_image **img, struct cbw_error *err)
{
	struct qcow2_error qerr;
	int ret = qcow2_open(path, QCOW2_OPEN_NO_BACKING, img, &qerr);

	return ret ? fail_with(err, ret, "%s", qerr.msg) : 0;
}

int open_entry(const struct chain *chain, const struct entry *e,
	       struct qcow2_image **img, struct cbw_error *err)
{
	char *path = chain_path(chain, e->file);
	struct qcow2_error qerr;
	struct qcow2_image *out;
	struct image_hold hold;
	unsigned int layer;
	int ret;

	ret = image_hold(chain, e, &hold, err);
	if (!ret) {
		ret = qcow2_open(path, QCOW2_OPEN_SAME_DIR, &out, &qerr);
		if (ret)
			fail_with(err, ret, "%s", qerr.msg);
		else
			image_share(out);
		image_release(&hold);
	}
	free(path);
	if (ret)
		return ret;
	for (layer = 0; e && !ret; layer++) {
		const struct entry *parent = e->parent ?
			chain_by_id(chain, e->parent) : NULL;

		ret = check_layer(out, layer, chain, e, parent, err);
		e = parent;
	}
	if (ret)
		qcow2_close(out);
	else
		*img = out;
	return ret;
}

bool distrust(int ret)
{
	return ret == -EUCLEAN || ret == -ELOOP;
}

int pick_chain(const char *what, const char *path, struct chain *chain)
{
	struct cbw_error err;
	char **dirs;
	size_t nr, i;
	int ret;

	if (chain_find_dirs(path, &dirs, &nr, &err))
		return failed("%s: %s", what, err.msg);
	if (nr > 1) {
		ret = failed("%s: %s holds %zu volumes; name one of them:",
			     what, esc(path), nr);
		for (i = 0; i < nr; i++)
			say("  %s", esc(dirs[i]));
	} else {
		ret = chain_open(dirs[0], false, chain, &err);
		if (ret) {
			say("%s: %s", what, err.msg);
			ret = ret == -EUCLEAN ? EXIT_DISTRUST : EXIT_FAILED;
		}
	}
	for (i = 0; i < nr; i++)
		free(dirs[i]);
	free(dirs);
	return ret;
}

const struct entry *pick_entry(const char *what, const struct chain *chain,
			       const char *until)
{
	const struct entry *e = until ? chain_find(chain, until) :
		chain_newest(chain);

	if (e && chain_giving_up(chain, e)) {
		say("%s: %s: point in time %u is being merged into %u and has ended; 'cbw chain merge' brings that to its end",
		    what, esc(chain->dir), e->id, chain->merge.into);
		return NULL;
	}
	if (!e && until)
		say("%s: %s has no point in time '%s'; 'cbw chain list' shows them",
		    what, esc(chain->dir), esc(until));
	else if (!e)
		say("%s: %s: no backup has been completed here", what,
		    esc(chain->dir));
	return e;
}

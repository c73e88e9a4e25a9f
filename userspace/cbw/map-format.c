// SPDX-License-Identifier: GPL-2.0-or-later
/* map: the formats that are text */
#include <inttypes.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cbw.h"
#include "map.h"

/* messages of a stream are bounded, as those of the RPC are */
#define CSI_TUPLES	1024

#define GONE	(CBW_EXTENT_DISCARDED | MAP_ZERO)

/* ---- text: for people and scripts -------------------------------------- */

static int text_put(struct map_out *out, const struct cbw_extent *e, struct cbw_error *err)
{
	(void)err;
	fprintf(out->f, "%llu %llu dirty%s%s\n", (ull)e->offset, (ull)e->length,
		e->flags & CBW_EXTENT_DISCARDED ? ",discarded" : "",
		e->flags & MAP_ZERO ? ",zero" : "");
	return 0;
}

/* ---- json -------------------------------------------------------------- */

static int json_begin(struct map_out *out, struct cbw_error *err)
{
	(void)err;
	fputs("{\"extents\":[", out->f);
	return 0;
}

static int json_put(struct map_out *out, const struct cbw_extent *e, struct cbw_error *err)
{
	(void)err;
	fprintf(out->f, "%s{\"offset\":%llu,\"length\":%llu,\"discarded\":%s", out->nr++ ? "," : "",
		(ull)e->offset, (ull)e->length,
		e->flags & CBW_EXTENT_DISCARDED ? "true" : "false");
	if (out->info.image)
		fprintf(out->f, ",\"zero\":%s", e->flags & MAP_ZERO ? "true" : "false");
	fputc('}', out->f);
	return 0;
}

static int json_end(struct map_out *out, struct cbw_error *err)
{
	(void)err;
	fputs("]}\n", out->f);
	return 0;
}

/*
 * ---- borg: the input map of borg 2 (borg create --map, --reuse-from) ----
 *
 * "START LENGTH STATE", sorted, contiguous from 0 to the exact size of the input (borg 2,
 * docs/usage/create, "Input maps"; read_input_map() in src/borg/helpers/fs.py). So what is
 * not changed has to be said. `zero' is stored as a hole without being read, which suits what
 * was discarded: nobody wants its content.
 */
static int borg_put(struct map_out *out, const struct cbw_extent *e, struct cbw_error *err)
{
	(void)err;
	fprintf(out->f, "%llu %llu %s\n", (ull)e->offset, (ull)e->length,
		!(e->flags & CBW_EXTENT_DIRTY) ? "same" : e->flags & GONE ? "zero" : "data");
	return 0;
}

/*
 * ---- benji: its hints file (benji backup --rbd-hints) -------------------
 *
 * What `rbd diff --format=json' prints (benji, docs/source/backup.rst, "The Hints File";
 * hints_from_rbd_diff() in src/benji/utils.py). Not listed: as in the base version.
 * "exists":"false" is what rbd says of a range that was discarded, and becomes a sparse
 * block in benji.
 */
static int benji_begin(struct map_out *out, struct cbw_error *err)
{
	(void)err;
	fputc('[', out->f);
	return 0;
}

static int benji_put(struct map_out *out, const struct cbw_extent *e, struct cbw_error *err)
{
	(void)err;
	fprintf(out->f, "%s{\"offset\":%llu,\"length\":%llu,\"exists\":\"%s\"}",
		out->nr++ ? ",\n" : "", (ull)e->offset, (ull)e->length,
		e->flags & GONE ? "false" : "true");
	return 0;
}

static int benji_end(struct map_out *out, struct cbw_error *err)
{
	(void)err;
	fputs("]\n", out->f);
	return 0;
}

/*
 * ---- csi: the SnapshotMetadata service of Kubernetes' storage interface --
 *
 * The stream of GetMetadataDeltaResponse, or of GetMetadataAllocatedResponse for an image that
 * has no parent, one message a line in protobuf's JSON mapping with the field names of
 * csi.proto (v1.10 and later). Extents, so VARIABLE_LENGTH. A range that was discarded has
 * changed; of a whole image zeros are what was not allocated.
 */
static int csi_message(struct map_out *out, bool first)
{
	fprintf(out->f,
		"%s{\"block_metadata_type\":\"VARIABLE_LENGTH\",\"volume_capacity_bytes\":%llu,\"block_metadata\":[",
		first ? "" : "]}\n", (ull)out->info.size);
	return 0;
}

static int csi_begin(struct map_out *out, struct cbw_error *err)
{
	(void)err;
	return csi_message(out, true);
}

static int csi_put(struct map_out *out, const struct cbw_extent *e, struct cbw_error *err)
{
	(void)err;
	if (out->info.whole && e->flags & MAP_ZERO)
		return 0;
	if (out->nr && out->nr % CSI_TUPLES == 0)
		csi_message(out, false);
	fprintf(out->f, "%s{\"byte_offset\":%llu,\"size_bytes\":%llu}",
		out->nr++ % CSI_TUPLES ? "," : "", (ull)e->offset, (ull)e->length);
	return 0;
}

static int csi_end(struct map_out *out, struct cbw_error *err)
{
	(void)err;
	fputs("]}\n", out->f);
	return 0;
}

/*
 * ---- blocklist: numbers of blocks ---------------------------------------
 *
 * One a line, ascending, as badblocks(8) has them: for what reads blocks ahead, say to warm
 * a cache. So without those that have no content. @nr is the first block not yet listed.
 */
static int block_put(struct map_out *out, const struct cbw_extent *e, struct cbw_error *err)
{
	uint64_t b = e->offset / out->block, last = (e->offset + e->length - 1) / out->block;

	(void)err;
	if (e->flags & GONE)
		return 0;
	for (b = b < out->nr ? out->nr : b; b <= last; b++)
		fprintf(out->f, "%llu\n", (ull)b);
	out->nr = b > out->nr ? b : out->nr;
	return 0;
}

static const struct map_format formats[] = {
	{ .name = "text", .alike = ~0u, .put = text_put },
	{ .name = "json", .alike = ~0u, .begin = json_begin, .put = json_put, .end = json_end },
	{ .name = "borg", .alike = CBW_EXTENT_DIRTY | GONE, .gaps = true, .put = borg_put },
	{ .name = "benji", .alike = GONE, .begin = benji_begin, .put = benji_put,
	  .end = benji_end },
	/* what csi leaves out of a whole image has to stay apart */
	{ .name = "csi", .alike = MAP_ZERO, .begin = csi_begin, .put = csi_put, .end = csi_end },
	{ .name = "blocklist", .alike = GONE, .put = block_put },
};

const struct map_format *map_format_find(const char *name)
{
	size_t i;

	for (i = 0; i < sizeof(formats) / sizeof(formats[0]); i++)
		if (!strcmp(formats[i].name, name))
			return &formats[i];
	return strcmp(map_qcow2.name, name) ? NULL : &map_qcow2;
}

const char *map_format_names(void)
{
	return "text, json, borg, benji, csi, blocklist and qcow2";
}

/* ---- extents to a format ----------------------------------------------- */

int map_open(struct map_out *out, struct cbw_error *err)
{
	int fd;

	out->f = stdout;
	if (!out->path)
		return 0;
	out->tmp = xasprintf("%s.XXXXXX", out->path);
	fd = mkstemp(out->tmp);
	if (fd < 0) {
		free(out->tmp);
		out->tmp = NULL;
		return fail_with(err, errno, "%s: %s", esc(out->path), strerror(errno));
	}
	out->f = fdopen(fd, "w");
	if (!out->f) {
		close(fd);
		return fail_with(err, errno, "%s: %s", esc(out->path), strerror(errno));
	}
	return 0;
}

int map_begin(struct map_out *out, const struct map_info *info, struct cbw_error *err)
{
	out->info = *info;
	if (!out->block)
		out->block = info->granularity;
	out->began = true;
	return out->format->begin ? out->format->begin(out, err) : 0;
}

static int put_last(struct map_out *out, struct cbw_error *err)
{
	struct cbw_extent e = out->last;

	out->last.length = 0;
	if (!e.length)
		return 0;
	out->at = e.offset + e.length;
	return out->format->put(out, &e, err);
}

int map_put(struct map_out *out, const struct cbw_extent *e, struct cbw_error *err)
{
	uint64_t end = out->last.length ? out->last.offset + out->last.length : out->at;
	int ret;

	if (!e->length)
		return 0;
	if (e->offset < end || e->length > out->info.size - e->offset || e->offset > out->info.size)
		return fail_with(err, EUCLEAN,
				 "extent %llu+%llu is out of order, or beyond the volume's end at %llu",
				 (ull)e->offset, (ull)e->length, (ull)out->info.size);
	if (out->last.length && e->offset == end &&
	    !((e->flags ^ out->last.flags) & out->format->alike)) {
		out->last.length += e->length;
		return 0;
	}
	ret = put_last(out, err);
	if (!ret && out->format->gaps && e->offset > out->at) {
		out->last = (struct cbw_extent){
			.offset = out->at, .length = e->offset - out->at,
		};
		ret = put_last(out, err);
	}
	out->last = *e;
	return ret;
}

int map_end(struct map_out *out, struct cbw_error *err)
{
	int ret = put_last(out, err);

	if (!ret && out->format->gaps && out->at < out->info.size) {
		out->last = (struct cbw_extent){
			.offset = out->at, .length = out->info.size - out->at,
		};
		ret = put_last(out, err);
	}
	if (!ret && out->format->end)
		ret = out->format->end(out, err);
	if (ret || !out->tmp)
		return ret;
	errno = 0;
	if (fflush(out->f) || ferror(out->f) || fsync(fileno(out->f)))
		return fail_with(err, errno ? errno : EIO, "%s: %s", esc(out->path),
				 strerror(errno ? errno : EIO));
	if (rename(out->tmp, out->path))
		return fail_with(err, errno, "%s: %s", esc(out->path), strerror(errno));
	free(out->tmp);
	out->tmp = NULL;
	return 0;
}

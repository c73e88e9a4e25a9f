// SPDX-License-Identifier: GPL-2.0-or-later
/* export: a point in time over NBD, for agents that pull */
#include <json-c/json.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cbw.h"
#include "export.h"

struct export_args {
	const char *what;
	const char *bitmap;
	const char *socket;
	const char *name;
	const char *store;
	const char *id;
	const char *commit;
	uint64_t chunk;
	bool release, resume, once, only_changed, freeze, force, elsewhere, json;
	bool on_success;
};

/* ---- the command line --------------------------------------------------- */

static int check_args(struct export_args *a)
{
	struct cbw_error err;

	if (!a->socket)
		return usage("cbw export: --socket PATH is missing: where readers connect to");
	if (a->commit && strcmp(a->commit, "never") && strcmp(a->commit, "on-success"))
		return usage("cbw export: --commit %s: never or on-success", esc(a->commit));
	a->on_success = a->commit && !strcmp(a->commit, "on-success");
	if (a->on_success && !a->bitmap)
		return usage("cbw export: --commit on-success: of which bitmap? give --bitmap NAME");
	if (a->on_success && !a->once)
		return usage("cbw export: --commit on-success needs --once: else nothing says that the reader has all");
	if (a->only_changed && !a->bitmap)
		return usage("cbw export: --only-changed: since when? give --bitmap NAME");
	if (a->chunk && (a->chunk & (a->chunk - 1) || a->chunk < 4096 || a->chunk > 1 << 20))
		return usage("cbw export: --chunk %llu: it has to be a power of two from 4K to 1M",
			     (ull)a->chunk);
	if (a->bitmap && cbw_name_check(a->bitmap, &err))
		return usage("cbw export: %s", err.msg);
	if (a->name && strlen(a->name) > 1024)
		return usage("cbw export: --name: 1024 bytes at most");
	return -1;
}

/* What only makes sense with a snapshot that is made here. */
static int refuse_dev_options(const struct export_args *a, const char *why)
{
	if (a->store || a->commit || a->only_changed || a->freeze || a->chunk || a->force ||
	    a->elsewhere)
		return usage("cbw export: %s: --store, --commit, --only-changed, --freeze, --chunk, --force and --elsewhere are for a tracked device",
			     why);
	return -1;
}

/* ---- serving ------------------------------------------------------------ */

/* A path in a URI: what is not harmless as %XX. */
static char *uri_of(const char *path, const char *name)
{
	static const char safe[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
		"0123456789-._~/";
	const char *const part[] = { "nbd+unix:///", name, "?socket=", path };
	char *uri = xcalloc(3 * (strlen(path) + strlen(name)) + 32, 1), *at = uri;
	size_t i;

	for (i = 0; i < 4; i++) {
		const char *p;

		for (p = part[i]; *p; p++)
			at += sprintf(at, i % 2 == 0 || strchr(safe, *p) ? "%c" : "%%%02X",
				      (unsigned char)*p);
	}
	return uri;
}

/* The line that says that readers may come. */
static void ready(const struct export_args *a, const struct nbd_source *source,
		  const struct cbw_cut_id *cut)
{
	char *path = *a->socket == '/' ? xstrdup(a->socket) : NULL, *uri, text[CBW_CUT_HEX];
	struct json_object *o;

	if (!path) {
		char *dir = realpath(".", NULL);

		path = xasprintf("%s/%s", dir ? dir : ".", a->socket);
		free(dir);
	}
	uri = uri_of(path, a->name ? a->name : "");
	free(path);
	if (!a->json) {
		printf("%s%s%s%s%s\n", uri, cut ? "  cut " : "",
		       cut ? cbw_cut_to_text(cut, text) : "",
		       source->bitmap ? "  bitmap " : "", source->bitmap ? esc(source->bitmap) : "");
		fflush(stdout);
		free(uri);
		return;
	}
	o = json_object_new_object();
	json_object_object_add(o, "event", json_object_new_string("ready"));
	json_object_object_add(o, "uri", json_object_new_string(uri));
	json_object_object_add(o, "size", json_object_new_int64((int64_t)source->size));
	if (cut)
		json_object_object_add(o, "cut",
				       json_object_new_string(cbw_cut_to_text(cut, text)));
	if (source->bitmap)
		json_object_object_add(o, "bitmap", json_object_new_string(esc(source->bitmap)));
	json_line(o);
	free(uri);
}

/* Return: as nbd_serve(). */
static int serve(const struct export_args *a, struct nbd_server *server, struct nbd_socket *sock,
		 const struct cbw_cut_id *cut, struct cbw_error *err)
{
	int ret;

	server->name = a->name ? a->name : "";
	server->once = a->once;
	ready(a, server->source, cut);
	ret = nbd_serve(server, sock->fd, err);
	if (ret == -EBUSY) {
		/* threads that hang have all in their hands; the kernel takes it from them */
		nbd_unlisten(sock);
		_exit(EXIT_FAILED);
	}
	return ret;
}

/* What an export that was ended means to who started it. */
static int ended(int ret, const struct nbd_server *server, const struct cbw_error *err)
{
	if (ret && ret != -EINTR)
		return failed("export: %s", err->msg);
	if (server->broken)
		say("export: %u of %u readers went without a word", server->broken,
		    server->readers);
	return EXIT_OK;
}

static int export_chain(const struct export_args *a)
{
	struct chain_source c = { 0 };
	struct nbd_server server = { .source = &c.source };
	struct nbd_socket sock;
	struct cbw_error err;
	int status;

	status = refuse_dev_options(a, "the directory of a chain");
	if (status >= 0)
		return status;
	if (a->release || a->resume)
		return usage("cbw export: --%s: an image of a chain has nothing to release",
			     a->release ? "release" : "resume");
	if (nbd_listen(a->socket, &sock, &err))
		return failed("export: %s", err.msg);
	status = chain_source_open(&c, a->what, a->id, a->bitmap);
	if (status == EXIT_OK)
		status = ended(serve(a, &server, &sock, NULL, &err), &server, &err);
	chain_source_close(&c);
	nbd_unlisten(&sock);
	return status;
}

static int point_still_alive(void *arg, struct cbw_error *err)
{
	return point_alive(arg, err);
}

/* The snapshot of @p over @sock. */
static int serve_point(const struct export_args *a, struct point *p, struct nbd_socket *sock,
		       struct nbd_server *server, struct cbw_error *err)
{
	int ret = point_open(p, a->bitmap, a->release, a->on_success, a->resume,
			     err);

	if (ret)
		return ret;
	server->source = &p->source;
	server->alive = point_still_alive;
	server->arg = p;
	return serve(a, server, sock, &p->cut, err);
}

static int export_snapshot(const struct export_args *a, const struct cbw_dm_dev *snap)
{
	struct point p = { .snap = *snap, .fd = -1, .lock = PTHREAD_MUTEX_INITIALIZER };
	struct nbd_server server = { 0 };
	struct nbd_socket sock;
	struct cbw_error err;
	int status;

	status = refuse_dev_options(a, "a snapshot that is there");
	if (status >= 0)
		return status;
	if (nbd_listen(a->socket, &sock, &err))
		return failed("export: %s", err.msg);
	if (cbw_session_open(&p.session, &err))
		status = failed("export: %s", err.msg);
	else
		status = ended(serve_point(a, &p, &sock, &server, &err), &server, &err);
	point_close(&p);
	cbw_session_close(p.session);
	nbd_unlisten(&sock);
	return status;
}

/*
 * The bitmap's changes count as backed up only if the reader has all of them, as far as that
 * can be known here. Whether they are safe there it has to know itself.
 */
static int commit(const struct export_args *a, struct export_dev *d, const struct point *p,
		  const struct nbd_server *server)
{
	struct cbw_bitmap now;
	struct cbw_error err;
	uint64_t unread;
	bool first;

	/* without a base what is dirty says nothing about what a reader has: it needs all */
	if (cbw_bitmap_find(p->session, d->dev.dev, a->bitmap, &now, &err))
		return failed("export: %s: %s", esc(d->dev.name), err.msg);
	first = cbw_cut_is_none(&now.base);
	unread = point_unread(p, first);
	if (server->broken || server->failures || unread) {
		if (unread)
			say(first ? "export: %s was not read, and the bitmap has no base yet: the first time a reader needs all" :
			    "export: %s of what is dirty was not read", human(unread));
		else if (server->failures)
			say("export: %u requests failed", server->failures);
		return failed("export: %s: bitmap '%s' is not committed, it is as it was",
			      esc(d->dev.name), esc(a->bitmap));
	}
	if (export_dev_commit(d, p->session, &err))
		return failed("export: %s: the commit failed: %s", esc(d->dev.name), err.msg);
	return EXIT_OK;
}

static int export_tracked(const struct export_args *a, const struct cbw_dm_dev *dev)
{
	struct export_dev d = {
		.dev = *dev, .bitmap = a->bitmap, .only_changed = a->only_changed,
		.freeze = a->freeze, .force = a->force, .json = a->json, .chunk = a->chunk,
	};
	struct point p = { .fd = -1, .lock = PTHREAD_MUTEX_INITIALIZER };
	struct nbd_server server = { 0 };
	struct nbd_socket sock;
	struct cbw_error err;
	int ret, status;

	if (a->resume)
		return usage("cbw export: --resume is for a snapshot that is there; of %s a new one is made",
			     esc(a->what));
	if (nbd_listen(a->socket, &sock, &err))
		return failed("export: %s", err.msg);
	ret = cbw_session_open(&p.session, &err);
	if (!ret)
		ret = export_dev_cut(&d, a->store, p.session, &err);
	if (!ret) {
		p.snap = d.snap;
		ret = serve_point(a, &p, &sock, &server, &err);
	}
	status = ended(ret, &server, &err);
	if (a->on_success && !ret)
		status = commit(a, &d, &p, &server);
	else if (a->on_success && ret == -EINTR)
		status = failed("export: %s: it was stopped: bitmap '%s' is not committed, it is as it was",
				esc(dev->name), esc(a->bitmap));
	point_close(&p);
	export_dev_end(&d, p.session);
	cbw_session_close(p.session);
	nbd_unlisten(&sock);
	return status;
}

/* ---- the command --------------------------------------------------------- */

static int run(const struct export_args *a)
{
	struct cbw_dm_dev dev;
	bool ours = !cbw_dm_find(a->what, &dev, NULL);
	struct stat st;

	if (!ours && !stat(a->what, &st) && S_ISDIR(st.st_mode))
		return export_chain(a);
	if (a->id)
		return usage("cbw export: --id is for the directory of a chain");
	if (ours && dev.kind == CBW_DM_SNAPSHOT)
		return export_snapshot(a, &dev);
	if (ours && dev.kind == CBW_DM_TRACKED)
		return export_tracked(a, &dev);
	return failed("export: %s: it is neither a tracked device, a snapshot nor the directory of a chain",
		      esc(a->what));
}

int cmd_export(int argc, char **argv)
{
	struct export_args a = { 0 };
	bool persistent = false;
	struct opt opts[] = {
		{ "socket", OPT_TEXT, &a.socket, "PATH", "the unix socket; mode 0600" },
		{ "bitmap", OPT_TEXT, &a.bitmap, "B",
		  "as qemu:dirty-bitmap:B; of DEV: it is frozen at the cut" },
		{ "name", OPT_TEXT, &a.name, "EXPORT",
		  "name of the export; default the empty one" },
		{ "release", OPT_FLAG, &a.release, NULL,
		  "a trim says that the reader has that, and releases it in the snapshot" },
		{ "resume", OPT_FLAG, &a.resume, NULL,
		  "of SNAP: some of it was released before; for a reader that has that" },
		{ "persistent", OPT_FLAG, &persistent, NULL, "until a signal comes (default)" },
		{ "once", OPT_FLAG, &a.once, NULL, "until the last reader has gone" },
		{ "id", OPT_TEXT, &a.id, "ID",
		  "of a chain: the point in time; default the newest" },
		{ "store", OPT_TEXT, &a.store, "S",
		  "of DEV: block device or file for data that has to be preserved; or auto (default): free space of the volume group, or a file in " STORE_DIR },
		{ "only-changed", OPT_FLAG, &a.only_changed, NULL,
		  "of DEV: preserve, and let read, only what the bitmap says is dirty" },
		{ "commit", OPT_TEXT, &a.commit, "never|on-success",
		  "of DEV: on-success: when the readers have all that is dirty" },
		{ "chunk", OPT_SIZE, &a.chunk, "N",
		  "of DEV: unit of preserving: power of two, 4K (default) to 1M" },
		{ "freeze", OPT_FLAG, &a.freeze, NULL,
		  "of DEV: freeze the file systems on it for the cut" },
		{ "force", OPT_FLAG, &a.force, NULL, "of DEV: use a store although it holds data" },
		{ "elsewhere", OPT_FLAG, &a.elsewhere, NULL,
		  "of DEV: the store does not lie on it, where cbw cannot tell" },
		{ "json", OPT_FLAG, &a.json, NULL, "say that it is ready in JSON" },
		{ 0 }
	};
	struct cmdline cl = {
		.command = "cbw export",
		.args = "DEV|SNAP|DIR[/VOLUME] --socket PATH [--bitmap B] [--release] [--resume] [--once] [--name EXPORT]",
		.about = "Serves a point in time over NBD: of snapshot SNAP, of an image of the chain in DIR,\n"
			"or of tracked device DEV, of which a snapshot is made for that. Prints the URI when\n"
			"readers may connect. Ends with SIGTERM or SIGINT.",
		.opts = opts,
		.min_args = 1, .max_args = 1,
	};
	int status = opts_parse(&cl, argc, argv);

	if (status >= 0)
		return status;
	if (persistent && a.once)
		return usage("cbw export: --persistent and --once exclude each other");
	a.what = cl.arg[0];
	status = check_args(&a);
	if (status >= 0)
		return status;
	if (a.elsewhere)
		assume_elsewhere();
	catch_signals();
	return run(&a);
}

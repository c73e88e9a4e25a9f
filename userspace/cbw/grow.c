// SPDX-License-Identifier: GPL-2.0-or-later
/* a child that makes the stores of a backup larger before they are full */
#include <fcntl.h>
#include <json-c/json.h>
#include <libdevmapper.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "cbw.h"
#include "grow.h"
#include "xfer.h"

#define SLACK	(1u << 20)	/* bytes of a store that are not used, at most */
#define PIPE		3	/* what it has open, besides 0 to 2 */
#define LOOK_MS		100
#define AGAIN_S		5

/* one store, as the child sees it */
struct seen {
	uint64_t used;
	uint64_t rate;		/* bytes per second */
	uint64_t when;
	uint64_t again;		/* it could not grow: not before then */
	bool said;
};

static void report(const struct grow *g, bool json)
{
	struct json_object *o;

	if (!json) {
		say("%s: the store has grown to %s", esc(g->volume), human(g->store->size));
		return;
	}
	o = json_object_new_object();
	json_object_object_add(o, "event", json_object_new_string("store-grown"));
	json_object_object_add(o, "volume", json_object_new_string(esc(g->volume)));
	json_object_object_add(o, "store", json_object_new_string(esc(g->store->path)));
	json_object_object_add(o, "size", json_object_new_uint64(g->store->size));
	json_line(o);
}

/*
 * What the snapshot has of it: a device that was made larger may not have reached it, when
 * that failed or its run was killed. A store's end that makes no whole segment is no reason.
 */
static uint64_t in_use(const struct store *store, const struct cbw_snapshot_info *info)
{
	uint64_t has = info->out_store_chunks * info->out_chunk_size;

	return has + SLACK < store->size ? has : store->size;
}

static void look(struct cbw_session *session, const struct grow *g, struct seen *s, bool json)
{
	struct cbw_snapshot_info info;
	uint64_t used, has, next, now = now_ns();
	struct cbw_error err;
	int ret;

	if (cbw_snapshot_get_info(session, g->snap->dev, NULL, &info, NULL) ||
	    info.out_state != CBW_SNAPSHOT_ACTIVE)
		return;
	used = info.out_store_used * info.out_chunk_size;
	if (s->when && now > s->when) {
		uint64_t new = used > s->used ? used - s->used : 0;
		uint64_t rate = (uint64_t)((double)new * 1e9 / (double)(now - s->when));

		/* up at once, down slowly */
		s->rate = rate > s->rate ? rate : (7 * s->rate + rate) / 8;
	}
	s->when = now;
	s->used = used;
	has = in_use(g->store, &info);
	next = store_next_size(has, used, s->rate, g->store->most);
	if (next == has || now < s->again)
		return;
	ret = next > g->store->size ? store_grow(g->store, next, &err) : 0;
	if (!ret)
		ret = cbw_snapshot_grow(g->snap->name, &err);
	if (!ret) {
		report(g, json);
		return;
	}
	/* somebody may make room */
	s->again = now + AGAIN_S * 1000000000ull;
	if (s->said)
		return;
	s->said = true;
	say("%s: the store cannot grow beyond %s, %s are in use: %s", esc(g->volume),
	    human(g->store->size), human(used), err.msg);
}

static int watch(const struct grow *list, size_t nr, bool json)
{
	struct seen *seen = xcalloc(nr, sizeof(*seen));
	struct pollfd p = { .fd = PIPE };
	struct cbw_session *session;
	struct cbw_error err;
	size_t i;

	if (cbw_session_open(&session, &err)) {
		free(seen);
		return failed("the stores cannot be watched, and will not grow: %s", err.msg);
	}
	/* POLLHUP: the other end is closed */
	while (poll(&p, 1, LOOK_MS) <= 0)
		for (i = 0; i < nr; i++)
			if (list[i].store->kind != STORE_GIVEN)
				look(session, &list[i], &seen[i], json);
	cbw_session_close(session);
	free(seen);
	return EXIT_OK;
}

int grow_start(struct grower *grower, const struct grow *list, size_t nr, bool json,
	       struct cbw_error *err)
{
	pid_t parent = getpid();
	int fd[2], code;
	size_t i;

	for (i = 0; i < nr && list[i].store->kind == STORE_GIVEN; i++)
		;
	if (i == nr)
		return 0;
	if (pipe2(fd, O_CLOEXEC))
		return fail_with(err, errno, "pipe: %s", strerror(errno));
	fflush(NULL);
	grower->pid = fork();
	if (!grower->pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		/* it ends with us, not by what a terminal sends to all */
		signal(SIGINT, SIG_IGN);
		signal(SIGHUP, SIG_IGN);
		signal(SIGTERM, SIG_DFL);
		/* first: what it closes may be the descriptor that the pipe is to have */
		dm_lib_release();
		if (getppid() != parent || dup2(fd[0], PIPE) < 0)
			_exit(EXIT_FAILED);
		/* neither the session nor a lock is to outlive its owner */
		close_range(PIPE + 1, ~0u, 0);
		_exit(watch(list, nr, json));
	}
	code = errno;
	close(fd[0]);
	if (grower->pid < 0) {
		grower->pid = 0;
		close(fd[1]);
		return fail_with(err, code, "fork: %s", strerror(code));
	}
	grower->pipe = fd[1];
	return 0;
}

void grow_stop(struct grower *grower)
{
	int tries, status;

	if (!grower->pid)
		return;
	close(grower->pipe);
	/* it ends at once, unless it is in the middle of an lvextend */
	for (tries = 0; tries < 1000; tries++) {
		if (waitpid(grower->pid, &status, WNOHANG))
			break;
		nanosleep(&(struct timespec){ .tv_nsec = 10000000 }, NULL);
	}
	if (tries == 1000) {
		kill(grower->pid, SIGKILL);
		(void)waitpid(grower->pid, &status, WNOHANG);
	}
	grower->pid = 0;
}

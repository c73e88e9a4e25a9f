// SPDX-License-Identifier: LGPL-2.1-or-later
/* the control device: sessions, transactions, cuts, releases, events */
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "internal.h"

struct cbw_session {
	int fd;
};

struct cbw_txn {
	struct cbw_action *action;
	size_t nr;
	size_t room;
	struct cbw_error spoiled;	/* code 0: it is not */
	uint32_t flags;
	uint32_t freeze_timeout_ms;
};

int cbw_session_open(struct cbw_session **session, struct cbw_error *err)
{
	struct cbw_info info = { .size = sizeof(info) };
	struct cbw_session *s;
	int fd, code;

	fd = open(CBW_CONTROL, O_RDWR | O_CLOEXEC);
	if (fd < 0) {
		code = errno;
		if (code == ENOENT || code == ENODEV || code == ENXIO)
			return cbw_fail(err, code,
					CBW_CONTROL ": %s; load the module: modprobe dm-cbw",
					strerror(code));
		return cbw_fail(err, code, CBW_CONTROL ": %s%s", strerror(code),
				code == EACCES || code == EPERM ?
				"; this needs root (CAP_SYS_ADMIN)" : "");
	}
	if (ioctl(fd, CBW_INFO, &info)) {
		code = errno;
		close(fd);
		return cbw_fail(err, code, CBW_CONTROL ": not dm-cbw's: %s",
				strerror(code));
	}
	if (info.out_version != CBW_VERSION) {
		close(fd);
		return cbw_fail(err, EPROTO,
				CBW_CONTROL ": the module speaks version %u of the interface, this program version %u; they have to match",
				info.out_version, CBW_VERSION);
	}
	s = malloc(sizeof(*s));
	if (!s) {
		close(fd);
		return cbw_fail(err, ENOMEM, "out of memory");
	}
	s->fd = fd;
	*session = s;
	return 0;
}

void cbw_session_close(struct cbw_session *session)
{
	if (!session)
		return;
	close(session->fd);
	free(session);
}

int cbw_session_fd(const struct cbw_session *session)
{
	return session->fd;
}

struct cbw_txn *cbw_txn_new(void)
{
	return calloc(1, sizeof(struct cbw_txn));
}

void cbw_txn_free(struct cbw_txn *txn)
{
	size_t i;

	if (!txn)
		return;
	for (i = 0; i < txn->nr; i++) {
		free((void *)(uintptr_t)txn->action[i].name);
		free((void *)(uintptr_t)txn->action[i].name2);
	}
	free(txn->action);
	free(txn);
}

static int txn_spoil(struct cbw_txn *txn, const struct cbw_error *why,
		     struct cbw_error *err)
{
	if (!txn->spoiled.code)
		txn->spoiled = *why;
	if (err)
		*err = *why;
	return -why->code;
}

/* @name, @name2: NULL if the action has none */
static int txn_add2(struct cbw_txn *txn, struct cbw_action *action, const char *name,
		    const char *name2, struct cbw_error *err)
{
	char *copy = NULL, *copy2 = NULL;
	struct cbw_error why;

	if ((name && cbw_name_check(name, &why)) || (name2 && cbw_name_check(name2, &why)))
		return txn_spoil(txn, &why, err);
	if (txn->nr == CBW_ACTIONS_MAX) {
		cbw_fail(&why, E2BIG, "a transaction takes at most %d actions",
			 CBW_ACTIONS_MAX);
		return txn_spoil(txn, &why, err);
	}
	if (txn->nr == txn->room) {
		size_t room = txn->room ? 2 * txn->room : 8;
		struct cbw_action *a;

		a = reallocarray(txn->action, room, sizeof(*a));
		if (!a)
			goto nomem;
		txn->action = a;
		txn->room = room;
	}
	if (name) {
		copy = strdup(name);
		if (!copy)
			goto nomem;
		action->name = (uintptr_t)copy;
		action->name_len = (uint32_t)strlen(copy);
	}
	if (name2) {
		copy2 = strdup(name2);
		if (!copy2)
			goto nomem;
		action->name2 = (uintptr_t)copy2;
		action->name2_len = (uint32_t)strlen(copy2);
	}
	txn->action[txn->nr++] = *action;
	return 0;
nomem:
	free(copy);
	cbw_fail(&why, ENOMEM, "out of memory");
	return txn_spoil(txn, &why, err);
}

static int txn_add(struct cbw_txn *txn, struct cbw_action *action,
		   const char *name, struct cbw_error *err)
{
	return txn_add2(txn, action, name, NULL, err);
}

int cbw_txn_bitmap_add(struct cbw_txn *txn, struct cbw_devno dev,
		       const char *name, uint32_t granularity, uint32_t flags,
		       struct cbw_error *err)
{
	struct cbw_action a = {
		.type = CBW_ACTION_BITMAP_ADD,
		.flags = flags,
		.dev = dev,
		.granularity = granularity,
	};

	return txn_add(txn, &a, name, err);
}

int cbw_txn_bitmap(struct cbw_txn *txn, enum cbw_action_type action,
		   struct cbw_devno dev, const char *name,
		   struct cbw_error *err)
{
	struct cbw_action a = { .type = action, .dev = dev };
	struct cbw_error why;

	switch (action) {
	case CBW_ACTION_BITMAP_REMOVE:
	case CBW_ACTION_BITMAP_CLEAR:
	case CBW_ACTION_BITMAP_ENABLE:
	case CBW_ACTION_BITMAP_DISABLE:
	case CBW_ACTION_BITMAP_ROTATE:
		return txn_add(txn, &a, name, err);
	default:
		cbw_fail(&why, EINVAL, "action %d is not one on a single bitmap",
			 action);
		return txn_spoil(txn, &why, err);
	}
}

int cbw_txn_bitmap_merge(struct cbw_txn *txn, struct cbw_devno dev, const char *name,
			 struct cbw_devno source_dev, const char *source,
			 struct cbw_error *err)
{
	struct cbw_action a = {
		.type = CBW_ACTION_BITMAP_MERGE,
		.dev = dev,
		.dev2 = source_dev,
	};

	return txn_add2(txn, &a, name, source, err);
}

int cbw_txn_bitmap_copy(struct cbw_txn *txn, struct cbw_devno dev, const char *name,
			struct cbw_devno source_dev, const char *source,
			struct cbw_error *err)
{
	struct cbw_action a = {
		.type = CBW_ACTION_BITMAP_COPY,
		.dev = dev,
		.dev2 = source_dev,
	};

	return txn_add2(txn, &a, name, source, err);
}

int cbw_txn_bitmap_rename(struct cbw_txn *txn, struct cbw_devno dev, const char *name,
			  const char *new_name, struct cbw_error *err)
{
	struct cbw_action a = { .type = CBW_ACTION_BITMAP_RENAME, .dev = dev };

	return txn_add2(txn, &a, name, new_name, err);
}

int cbw_txn_snapshot_start(struct cbw_txn *txn, struct cbw_devno snapshot,
			   struct cbw_error *err)
{
	struct cbw_action a = {
		.type = CBW_ACTION_SNAPSHOT_START,
		.dev = snapshot,
	};

	return txn_add(txn, &a, NULL, err);
}

int cbw_txn_freeze(struct cbw_txn *txn, uint32_t timeout_ms, struct cbw_error *err)
{
	struct cbw_error why;

	if (timeout_ms > CBW_FREEZE_TIMEOUT_MAX) {
		cbw_fail(&why, EINVAL, "freeze for %u ms: at most %u", timeout_ms,
			 CBW_FREEZE_TIMEOUT_MAX);
		return txn_spoil(txn, &why, err);
	}
	txn->flags |= CBW_TXN_FREEZE;
	txn->freeze_timeout_ms = timeout_ms;
	return 0;
}

static const char *action_text(uint32_t type)
{
	switch (type) {
	case CBW_ACTION_BITMAP_ADD:
		return "add bitmap";
	case CBW_ACTION_BITMAP_REMOVE:
		return "remove bitmap";
	case CBW_ACTION_BITMAP_CLEAR:
		return "clear bitmap";
	case CBW_ACTION_BITMAP_ENABLE:
		return "enable bitmap";
	case CBW_ACTION_BITMAP_DISABLE:
		return "disable bitmap";
	case CBW_ACTION_BITMAP_ROTATE:
		return "rotate bitmap";
	case CBW_ACTION_BITMAP_MERGE:
		return "merge into bitmap";
	case CBW_ACTION_BITMAP_COPY:
		return "copy to bitmap";
	case CBW_ACTION_BITMAP_RENAME:
		return "rename bitmap";
	}
	return "start snapshot";
}

static const char *action_advice(const struct cbw_action *a, int code)
{
	bool snap = a->type == CBW_ACTION_SNAPSHOT_START;
	bool two = a->type == CBW_ACTION_BITMAP_MERGE || a->type == CBW_ACTION_BITMAP_COPY;

	switch (code) {
	case EEXIST:
		return "there is one of that name already";
	case ENOENT:
		return two ? "there is no such bitmap, or no such source" :
			"there is no bitmap of that name";
	case EBUSY:
		return two ? "it or the source is frozen by a backup or snapshot that is under way" :
			snap ? "it was started before, or its bitmap is frozen by a backup or snapshot that is under way" :
			"it is frozen by a backup or snapshot that is under way";
	case ENODEV:
		return two ? "it or the source's device has no cbw target" :
			snap ? "not a cbw-snapshot device" :
			"not a device with the cbw target";
	case ENOSPC:
		return "the device has as many bitmaps as it can have";
	case ENOMEM:
		return "no memory for the bitmap; take a larger granularity";
	case EINVAL:
		return a->type == CBW_ACTION_BITMAP_ADD ?
			"the name or the granularity is not valid" :
			two ? "the devices are of different sizes" : "not valid";
	}
	return strerror(code);
}

int cbw_txn_run(struct cbw_session *session, struct cbw_txn *txn,
		struct cbw_cut_id *cut, struct cbw_error *err)
{
	struct cbw_transaction t = {
		.size = sizeof(t),
		.flags = txn->flags,
		.freeze_timeout_ms = txn->freeze_timeout_ms,
		.nr_actions = (uint32_t)txn->nr,
		.action_size = sizeof(struct cbw_action),
		.actions = (uintptr_t)txn->action,
		.out_failed = (uint32_t)txn->nr,
	};
	const struct cbw_action *a;
	struct cbw_esc esc;
	int code;

	if (txn->spoiled.code) {
		if (err)
			*err = txn->spoiled;
		return -txn->spoiled.code;
	}
	if (!txn->nr)
		return cbw_fail(err, EINVAL, "the transaction is empty");
	if (!ioctl(session->fd, CBW_TRANSACTION, &t)) {
		if (cut)
			*cut = t.out_cut;
		return 0;
	}
	code = errno;
	if (code == EINTR || t.out_failed >= txn->nr)
		return cbw_fail(err, code, "transaction: %s",
				!(txn->flags & CBW_TXN_FREEZE) ? strerror(code) :
				code == ETIMEDOUT ?
				"the file systems could not be frozen in time" :
				code == EBUSY ?
				"a file system on one of the devices is frozen already" :
				strerror(code));
	a = &txn->action[t.out_failed];
	if (a->type == CBW_ACTION_SNAPSHOT_START)
		return cbw_fail(err, code, "%s %u:%u: %s", action_text(a->type),
				a->dev.major, a->dev.minor,
				action_advice(a, code));
	return cbw_fail(err, code, "%s '%s' of device %u:%u: %s",
			action_text(a->type),
			cbw_esc((const char *)(uintptr_t)a->name, &esc),
			a->dev.major, a->dev.minor, action_advice(a, code));
}

static int cut_error(struct cbw_error *err, const char *verb,
		     struct cbw_devno dev, const struct cbw_cut_id *cut)
{
	int code = errno;
	char text[CBW_CUT_HEX];
	const char *why = strerror(code);

	if (code == ESTALE)
		why = "the device has no such cut, or it was aborted";
	else if (code == EBUSY)
		why = "the cut belongs to another session";
	else if (code == ENODEV)
		why = "not a device with the cbw or the cbw-snapshot target";
	return cbw_fail(err, code, "%s cut %s of device %u:%u: %s", verb,
			cbw_cut_to_text(cut, text), dev.major, dev.minor, why);
}

int cbw_commit_cut(struct cbw_session *session, struct cbw_devno dev,
		   const struct cbw_cut_id *cut, enum cbw_commit_mode mode,
		   struct cbw_error *err)
{
	struct cbw_commit c = {
		.size = sizeof(c),
		.dev = dev,
		.cut = *cut,
		.mode = mode,
	};

	if (ioctl(session->fd, CBW_COMMIT, &c))
		return cut_error(err, "commit", dev, cut);
	return 0;
}

int cbw_abort_cut(struct cbw_session *session, struct cbw_devno dev,
		  const struct cbw_cut_id *cut, struct cbw_error *err)
{
	struct cbw_abort a = { .size = sizeof(a), .dev = dev, .cut = *cut };

	if (ioctl(session->fd, CBW_ABORT, &a))
		return cut_error(err, "abort", dev, cut);
	return 0;
}

int cbw_detach_cut(struct cbw_session *session, const struct cbw_cut_id *cut,
		   struct cbw_error *err)
{
	struct cbw_session_detach d = { .size = sizeof(d), .cut = *cut };
	char text[CBW_CUT_HEX];
	int code;

	if (!ioctl(session->fd, CBW_SESSION_DETACH, &d))
		return 0;
	code = errno;
	return cbw_fail(err, code, "detach cut %s from the session: %s",
			cbw_cut_to_text(cut, text),
			code == ESTALE ? "the session has no such cut" :
			strerror(code));
}

int cbw_release(struct cbw_session *session, struct cbw_devno snapshot,
		const struct cbw_cut_id *cut, const struct cbw_range *ranges,
		size_t nr, struct cbw_error *err)
{
	while (nr) {
		size_t now = nr < CBW_RANGES_MAX ? nr : CBW_RANGES_MAX;
		struct cbw_release r = {
			.size = sizeof(r),
			.dev = snapshot,
			.cut = *cut,
			.nr_ranges = (uint32_t)now,
			.ranges = (uintptr_t)ranges,
		};
		int code;

		if (ioctl(session->fd, CBW_RELEASE, &r)) {
			code = errno;
			return cbw_fail(err, code,
					"release %zu ranges of snapshot %u:%u from offset %llu on: %s",
					now, snapshot.major, snapshot.minor,
					(unsigned long long)ranges->offset,
					code == ESTALE ?
					"the cut is not this snapshot's" :
					strerror(code));
		}
		ranges += now;
		nr -= now;
	}
	return 0;
}

int cbw_snapshot_get_info(struct cbw_session *session,
			  struct cbw_devno snapshot,
			  const struct cbw_cut_id *cut,
			  struct cbw_snapshot_info *info,
			  struct cbw_error *err)
{
	struct cbw_snapshot_info i = { .size = sizeof(i), .dev = snapshot };
	int code;

	if (cut)
		i.cut = *cut;
	if (ioctl(session->fd, CBW_SNAPSHOT_INFO, &i)) {
		code = errno;
		return cbw_fail(err, code, "information on snapshot %u:%u: %s",
				snapshot.major, snapshot.minor,
				code == ENODEV ? "not a cbw-snapshot device" :
				code == ESTALE ?
				"the cut is not this snapshot's" :
				strerror(code));
	}
	*info = i;
	return 0;
}

int cbw_stats_get(struct cbw_session *session, struct cbw_devno dev,
		  struct cbw_stats *stats, struct cbw_error *err)
{
	struct cbw_stats s = { .size = sizeof(s), .dev = dev };
	int code;

	if (ioctl(session->fd, CBW_STATS, &s)) {
		code = errno;
		return cbw_fail(err, code, "counts of device %u:%u: %s", dev.major, dev.minor,
				code == ENODEV ? "not a device with the cbw target" :
				strerror(code));
	}
	*stats = s;
	return 0;
}

int cbw_event_next(struct cbw_session *session, int timeout_ms, struct cbw_event *event,
		   struct cbw_error *err)
{
	struct pollfd p = { .fd = session->fd, .events = POLLIN };
	struct cbw_event e;
	ssize_t n;
	int ret;

	ret = poll(&p, 1, timeout_ms);
	if (ret < 0)
		return cbw_fail(err, errno, "wait for an event: %s", strerror(errno));
	if (!ret)
		return cbw_fail(err, ETIMEDOUT, "no event within %d ms", timeout_ms);
	n = read(session->fd, &e, sizeof(e));
	if (n < 0)
		return cbw_fail(err, errno, "read an event: %s", strerror(errno));
	/* a newer module's is longer, and we get what we know */
	if (n != sizeof(e) || e.size < sizeof(e))
		return cbw_fail(err, EPROTO, "the module's event makes no sense: %zd bytes", n);
	*event = e;
	return 0;
}

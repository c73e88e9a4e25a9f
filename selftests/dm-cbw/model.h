/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The model checker's parts (cbw-model.c says what it does):
 *
 *	model-set.c	sets of sectors
 *	model-state.c	the reference model: what each verb does to it, or why it may not
 *	model-load.c	writers, and what their writes do to the model
 *	model-check.c	the module's state against the model's
 *	model-pick.c	choices
 *	model-txn.c	transactions and messages: given to the module and to the model
 *	model-ops.c	all other verbs
 *	cbw-model.c	phases and options
 *
 * To add an action of a transaction: a case in do_action() (model-state.c) and in
 * random_action() (model-txn.c).  To add any other verb: a function that gives it to both,
 * in the table of model-ops.c.
 */
#ifndef MODEL_H
#define MODEL_H

#include <stdatomic.h>

#include "ctl.h"
#include "stamp.h"

#define DEVS_MAX	4u
#define SESSIONS	3
#define NAMES		148u	/* those that are used often are the first */
#define NAMES_OFTEN	9u
#define BITMAPS		(2 * CBW_BITMAPS_MAX)
#define ACTIONS		160u

typedef unsigned long long ull;

/* ---- model-set.c ------------------------------------------------------------------ */

/* Sectors of a device. */
struct set {
	uint64_t nr;		/* of the device */
	uint64_t w[];
};

struct set *set_new(uint64_t nr);
struct set *set_clone(const struct set *s);
void set_copy(struct set *to, const struct set *from);
void set_empty(struct set *s);
/* All of the granules of 1 << @shift sectors that the range touches. */
void set_mark(struct set *s, uint64_t first, uint64_t nr, unsigned int shift);
void set_or(struct set *to, const struct set *from);
void set_or_rounded(struct set *to, const struct set *from, unsigned int shift);
uint64_t set_count(const struct set *s);
uint64_t set_count_either(const struct set *a, const struct set *b);
/* The next run at or behind *@end. */
bool set_next(const struct set *s, uint64_t *start, uint64_t *end);
/* Is there one in @a that is neither in @b nor in @c (which may be NULL)?  Then the first. */
bool set_missing(const struct set *a, const struct set *b, const struct set *c,
		 uint64_t *first);

/* ---- model-state.c ---------------------------------------------------------------- */

/*
 * One half of a bitmap.  Where it is known exactly what the module marks the two are the
 * same.  While writes race with cuts, @must are the sectors that have to be dirty and @may
 * those that are allowed to be.
 */
struct half {
	struct set *must, *may;
};

enum owner { OWNER_ANYONE, OWNER_SESSION };

/*
 * @either: while it is frozen: has to be in one of the two halves
 * @since: when it began to record what it has, a tick
 * @rotated: when it was rotated last, and the time before that
 * @disabled: the cut at which it stopped recording
 * @told: while it is frozen: it recorded until its cut, so it may know of discards
 * @writes: how many there had been then; UINT64_MAX: not known
 */
struct bitmap {
	unsigned int name;
	uint32_t granularity;
	bool enabled, transient, is_frozen;
	struct half active, frozen;
	struct set *either;
	struct cbw_cut_id base, cut;
	enum owner owner;
	int session;
	uint64_t since, rotated[2];
	struct cbw_cut_id disabled;
	bool told;
	uint64_t writes;
};

/* What does not change; writers look at it. */
struct device {
	const char *name;
	const char *lower;	/* the device below, which can be suspended; NULL: none */
	struct target t;
	struct cbw_devno no;
	uint64_t nr;		/* sectors */
};

struct mdev {
	const struct device *of;
	bool suspended;
	unsigned int nr_bitmaps;
	struct bitmap *bitmap[BITMAPS];
};

struct model {
	struct mdev dev[DEVS_MAX];
};

extern struct device device[DEVS_MAX];
extern unsigned int nr_devices;

/* An action, as the model takes it. */
struct act {
	uint32_t type, flags;
	unsigned int dev, dev2;		/* nr_devices: not one */
	unsigned int name, name2;	/* NAMES and on: see bad_names */
	uint32_t granularity;
	bool malformed;			/* refused before anything else is looked at */
};

/* A write that may be in flight while something else happens. */
struct range {
	unsigned int dev;
	uint64_t first, nr;
};

/* What is in flight at the cut that is being modelled. */
struct overlap {
	const struct range *r;
	unsigned int nr;
	uint64_t now;		/* the tick behind the call */
};

extern struct model *model;
extern struct ctl_name names[NAMES];

unsigned int shift_of(const struct bitmap *b);
struct bitmap *model_find(struct model *m, unsigned int dev, unsigned int name);
void model_setup(unsigned int nr, char **devs);
struct model *model_clone(const struct model *m);
void model_free(struct model *m);
/* Returns 0 or a negative errno.  @touched: bits of the devices that were cut. */
int model_transaction(struct model *m, const struct act *acts, unsigned int nr, int session,
		      const struct cbw_cut_id *cut, const struct overlap *overlap,
		      unsigned int *failed, unsigned int *touched);
int model_commit(struct model *m, unsigned int dev, const struct cbw_cut_id *cut,
		 uint32_t mode, int session);
int model_abort(struct model *m, unsigned int dev, const struct cbw_cut_id *cut);
int model_detach(struct model *m, int session, const struct cbw_cut_id *cut);
void model_session_ends(struct model *m, int session);
void model_abort_bitmap(struct bitmap *b);
void model_commit_bitmap(struct bitmap *b);
/* A write that nothing is uncertain about. */
void model_wrote(struct model *m, const struct range *r);

/* ---- model-load.c ------------------------------------------------------------------ */

uint64_t tick(void);
uint64_t rnd(uint64_t *state);
/* One write, discard or zeroing; 0 or a negative errno. */
int io_do(const struct range *r, unsigned int op, const void *buf);
void io_random(uint64_t *rng, struct range *r, unsigned int *op, uint64_t max_sectors);

void load_start(unsigned int threads, uint64_t seed);
void load_stop(void);
bool load_running(void);
/*
 * A cut of @touched was made between the ticks @before and @after: account for the writes
 * that ended before it and get those that are in flight at it.
 */
void load_cut(unsigned int touched, uint64_t before, uint64_t after, struct overlap *overlap);
/* The same writes may be marked by what records now. */
void load_cut_made(const struct overlap *overlap);
uint64_t load_writes(void);

/* Writes that are held below the device: they end when it pleases us. */
void pin_start(unsigned int nr);
void pin_cut(unsigned int touched);
void pin_end(void);
bool pin_active(void);

/* ---- model-check.c ----------------------------------------------------------------- */

extern uint64_t checks, compared;
extern uint64_t hidden;		/* bytes that are discarded, over all checks */

void log_op(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void log_result(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void mismatch(const char *fmt, ...) __attribute__((noreturn, format(printf, 1, 2)));
const char *name_text(unsigned int name);
const char *cut_text(const struct cbw_cut_id *cut);
/* Bits of what check_all() may take for granted. */
#define CHECK_LOADED	(1u << 0)	/* writers are at work */
#define CHECK_PINNED	(1u << 1)	/* nothing that waits for the writes in flight */
#define CHECK_LIST	(1u << 2)	/* no extents */
void check_all(unsigned int how);
/* An abort goes on in the background. */
void check_settle(void);
extern bool settling;
/* From here on what the module has is what is true. */
void check_resync(void);

/* ---- model-pick.c ------------------------------------------------------------------ */

extern uint64_t ops_rng;
extern bool careful;		/* choose what can be done */

uint64_t ops_random(uint64_t below);
bool chance(unsigned int percent);
struct bitmap *some_bitmap(unsigned int dev);
unsigned int some_name(unsigned int dev);
unsigned int new_name(unsigned int dev);
uint32_t some_granularity(void);
/* @owner: set to the session that has it, sometimes. */
struct cbw_cut_id some_cut(unsigned int dev, int *owner);
void remember(const struct cbw_cut_id *cut);
unsigned int some_dev(void);
struct cbw_devno devno(unsigned int dev);
struct ctl_name name_bytes(unsigned int name);
/* Refused for its length, before anything is looked at? */
bool name_malformed(unsigned int name);

/* ---- model-txn.c ------------------------------------------------------------------- */

extern uint64_t cuts_made;

void verb_transaction(void);
void verb_message(void);
void verb_crowd(void);

/* ---- model-ops.c ------------------------------------------------------------------- */

enum phase { QUIET, PINNED, LOADED };

extern uint64_t ops_done;
extern enum phase phase;
extern int session[SESSIONS];

void ops_setup(uint64_t seed);
/* One verb, in this phase. */
void ops_step(enum phase in);
void ops_last_pinned(void);
/* Nothing stays suspended. */
void ops_rest(void);

#endif

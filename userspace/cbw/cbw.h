/* SPDX-License-Identifier: GPL-2.0-or-later */
/* what the subcommands of cbw share */
#ifndef CBW_H
#define CBW_H

#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libcbw.h"

/* exit statuses; EXIT_FULL and EXIT_DISTRUST are results of backup and verify */
#define EXIT_OK		0
#define EXIT_FAILED	1	/* nothing is lost */
#define EXIT_USAGE	2
#define EXIT_FULL	3	/* done, but as a full backup */
#define EXIT_DISTRUST	4	/* chain or bitmap inconsistent, not trusted */

typedef unsigned long long ull;

/* ---- subcommands ------------------------------------------------------- */

struct command {
	const char *name;
	int (*run)(int argc, char **argv);	/* argv[0] is the name */
	const char *brief;
};

int cmd_create(int argc, char **argv);
int cmd_remove(int argc, char **argv);
int cmd_attach(int argc, char **argv);
int cmd_detach(int argc, char **argv);
int cmd_status(int argc, char **argv);
int cmd_bitmap(int argc, char **argv);
int cmd_snapshot(int argc, char **argv);
int cmd_backup(int argc, char **argv);
int cmd_copy(int argc, char **argv);
int cmd_restore(int argc, char **argv);
int cmd_verify(int argc, char **argv);
int cmd_chain(int argc, char **argv);
int cmd_info(int argc, char **argv);
int cmd_check(int argc, char **argv);
int cmd_container_failed(int argc, char **argv);
int cmd_map(int argc, char **argv);
int cmd_export(int argc, char **argv);
int cmd_monitor(int argc, char **argv);

/* Runs the verb in argv[1]; "cbw bitmap", and what --help shows behind the verb. */
int run_verb(const char *command, const char *args, const struct command *verbs,
	     int argc, char **argv);

/* DEV of a command line, which has to be tracked; EXIT_OK or EXIT_FAILED */
int find_tracked(const char *what, const char *arg, struct cbw_dm_dev *dev);

/* ---- options (opts.c) -------------------------------------------------- */

enum opt_kind {
	OPT_FLAG,	/* bool */
	OPT_TEXT,	/* const char *, once */
	OPT_LIST,	/* struct text_list, any number of times */
	OPT_SIZE,	/* uint64_t, K/M/G/T */
};

#define TEXT_LIST_MAX	64

struct text_list {
	const char *v[TEXT_LIST_MAX];
	size_t nr;
};

struct opt {
	const char *name;	/* without the dashes */
	enum opt_kind kind;
	void *to;
	const char *value;	/* how --help calls the value */
	const char *help;
};

struct cmdline {
	const char *command;	/* "cbw bitmap add", for messages */
	const char *args;	/* what --help shows behind it */
	const char *about;	/* what it does: some lines */
	struct opt *opts;	/* ends with .name NULL; may be NULL */
	int min_args, max_args;	/* max_args -1: any number */
	char **arg;		/* out: in argv */
	int nr_args;		/* out */
};

/*
 * Return: -1 go on; else the exit status: --help was given, or the command line
 * is wrong, which has been said.
 */
int opts_parse(struct cmdline *cl, int argc, char **argv);

/* 0, or -EINVAL (not a size) or -ERANGE (too large) */
int parse_size(const char *text, uint64_t *size);
#define COMPRESS_DEFAULT 3
/* "none", "zstd", "zstd:LEVEL": 0 and the level, 0: none; or -EINVAL */
int parse_compress(const char *text, int *level);
/* "idle", "low", "normal", NULL: as it is; 0 or -EINVAL. For all threads that begin later. */
int set_ioprio(const char *text);

/* ---- messages (util.c) ------------------------------------------------- */

/* "cbw: ..." and a newline to stderr */
void say(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* the text, which names the command itself, and EXIT_USAGE */
int usage(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* as say(), and EXIT_FAILED */
/*
 * Does something that may hang in the kernel in a child: its status, or -1 when it took
 * longer than ten seconds. The child has none of our descriptors.
 */
int in_child(int (*fn)(void *arg), void *arg);
/* for in_child(): the snapshots of dead runs; @arg: NULL */
int remove_stale(void *arg);
int failed(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* fills @err, returns -@code */
int fail_with(struct cbw_error *err, int code, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/*
 * Escaped copy for a message, from a ring of 8: good until the eighth
 * following call.
 */
const char *esc(const char *name);

/* "1.5 GiB", from the same kind of ring; each thread has its own */
const char *human(uint64_t bytes);

void *xcalloc(size_t nr, size_t size);
char *xstrdup(const char *s);
char *xasprintf(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* writes all of it; 0 or -errno */
int write_all(int fd, const void *buf, size_t len);

/* JSON of stdout, one line; frees @obj */
struct json_object;
void json_line(struct json_object *obj);

/* ---- signals (util.c) -------------------------------------------------- */

extern volatile sig_atomic_t stop_signal;	/* SIGINT or SIGTERM came */
void catch_signals(void);

#endif /* CBW_H */

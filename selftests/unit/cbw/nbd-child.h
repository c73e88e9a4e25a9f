/* SPDX-License-Identifier: GPL-2.0-or-later */
/* an NBD server in a child */
#ifndef NBD_CHILD_H
#define NBD_CHILD_H

#include <sys/types.h>

#include "fixture.h"

/* what the child tells */
struct told {
	uint64_t trimmed[8][2];
	unsigned int trims;
	unsigned int readers, broken, failures;
	/* reads of more than a piece, of all at a time; the most there were */
	unsigned int big, big_most;
	int ret;
};

extern struct told *told;
extern pid_t server_pid;

/* where it listens */
char *sock_path(void);
/* Forks: in the child @server_pid is 0, and what it says goes to the file server.out. */
void begin_child(void);
/* Until it listens. */
void wait_for_socket(void);
/* Waits for its end, after a signal if @sig is not 0: the exit status, or minus a signal. */
int stop(int sig);
/* After a test that failed. */
int tidy(void **state);
/* setup of a group */
int begin_group(void **state);

#endif

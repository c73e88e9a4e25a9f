// SPDX-License-Identifier: GPL-2.0-or-later
#include "cbw.h"
#include "sink.h"
#include "source.h"
int source_nbd(const char *uri, unsigned int workers, struct source **s, struct cbw_error *err)
{ (void)workers; (void)s; return fail_with(err, EOPNOTSUPP, "%s: later", esc(uri)); }
int sink_nbd(const char *uri, uint64_t size, bool keep, unsigned int workers, struct sink **s, struct cbw_error *err)
{ (void)workers; (void)s; (void)size; (void)keep; return fail_with(err, EOPNOTSUPP, "%s: later", esc(uri)); }

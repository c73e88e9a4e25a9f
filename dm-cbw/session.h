/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef DM_CBW_SESSION_H
#define DM_CBW_SESSION_H

#include "cbw.h"

/**
 * struct cbw_session - an open file of the control device
 * @work: aborts what it owns when it is closed, and frees it
 *
 * What it owns is marked as such where it is (bitmap->cur.session, snap->session), under
 * cbw_config_mutex.
 */
struct cbw_session {
	struct work_struct work;
};

struct cbw_session *cbw_session_open(void);
void cbw_session_work(struct work_struct *work);
void cbw_session_close(struct cbw_session *session);
int cbw_session_detach(struct cbw_session *session, const struct cbw_cut_id *cut);

#endif /* DM_CBW_SESSION_H */

/* SPDX-License-Identifier: GPL-2.0-only */
/* The calls of the control device; for control.c and control-*.c. */
#ifndef DM_CBW_CONTROL_H
#define DM_CBW_CONTROL_H

#include "session.h"

dev_t cbw_control_devt(struct cbw_devno no);
struct cbw_device *cbw_control_device(struct cbw_devno no);

/* control-bitmap.c; @arg is the call's struct, read and written back */
int cbw_do_bitmap_list(struct cbw_session *session, void *arg);
int cbw_do_bitmap_extents(struct cbw_session *session, void *arg);
int cbw_do_bitmap_read(struct cbw_session *session, void *arg);
int cbw_do_bitmap_load(struct cbw_session *session, void *arg);
int cbw_do_mark_dirty(struct cbw_session *session, void *arg);

/* control-container.c */
int cbw_do_container_attach(struct cbw_session *session, void *arg);
int cbw_do_container_detach(struct cbw_session *session, void *arg);
int cbw_do_container_info(struct cbw_session *session, void *arg);
int cbw_do_container_grow(struct cbw_session *session, void *arg);

#endif /* DM_CBW_CONTROL_H */

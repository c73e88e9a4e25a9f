// SPDX-License-Identifier: GPL-2.0-only
/*
 * Transactions that cannot be done at once: they are given up, what is in their way is waited for
 * with no lock held, and they are begun again.
 */
#include "session.h"

/* A merge that is under way.  Returns 0 or -EINTR when killed. */
static int txn_merge_wait(struct cbw_txn *txn)
{
	int r = wait_event_killable(txn->wait_dev->waitq,
				    cbw_bits_merged(txn->wait_merge));

	cbw_bits_put(txn->wait_merge);
	cbw_device_put(txn->wait_dev);
	txn->wait_merge = NULL;
	txn->wait_dev = NULL;
	return r ? -EINTR : 0;
}

/* What it was given up for: the state says that the bitmap has no base. */
static int txn_demotion_wait(struct cbw_txn *txn)
{
	int r = cbw_disk_sync(txn->demote);

	cbw_disk_put(txn->demote);
	txn->demote = NULL;
	return r;
}

/**
 * cbw_txn_give_up - a transaction that may have been tried several times is over
 * @txn: the transaction, ended
 * @err: its error; 0: it is done, and there is nothing to do
 *
 * May sleep.  cbw_txn_retry() does it for errors that it returns.
 */
void cbw_txn_give_up(struct cbw_txn *txn, int err)
{
	if (!err || !txn->demoted || !cbw_cured(34))
		return;
	txn->demoted = false;
	cbw_config_lock();
	cbw_disks_promote();
	cbw_config_unlock();
}

static int txn_retry(struct cbw_txn *txn, int err)
{
	int r;

	if (txn->demote && !txn->wait_merge && !txn->wait) {
		r = txn_demotion_wait(txn);
		return r ? r : -EAGAIN;
	}
	cbw_disk_put(txn->demote);
	txn->demote = NULL;
	if (txn->wait_merge) {
		r = txn_merge_wait(txn);
		return r ? r : -EAGAIN;
	}
	if (!txn->wait)
		return err;
	r = cbw_bitmap_abort_wait(txn->wait);
	txn->wait = NULL;
	return r ? r : -EAGAIN;
}

/**
 * cbw_txn_retry - after a transaction that ended with an error: begin again?
 * @txn: the transaction, ended
 * @err: its error
 *
 * When it met an abort or a merge that is under way, waits (killable) for its end; or for
 * what a container has to say first.
 * Returns -EAGAIN: begin again; else the error.
 */
int cbw_txn_retry(struct cbw_txn *txn, int err)
{
	int r = txn_retry(txn, err);

	if (r != -EAGAIN)
		cbw_txn_give_up(txn, r);
	return r;
}

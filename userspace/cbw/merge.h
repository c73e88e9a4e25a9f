/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Merging: an image takes in the one on top of it, and takes its place.
 *
 * The upper image's point in time stays, the lower one's ends. A merge that has begun is
 * never taken back, it is ended: by the next one, or by a check with repair, and its last
 * step by any command that locks the chain. The order:
 *
 * 1. All that will be touched, and what shows through it from below, is read and compared, and
 *    the checksums are written down that the result will have. Images on top that will have
 *    another backing file name have details, or get them. Then the manifest says that it has
 *    begun (%MERGE_DATA). From now on the lower point in time cannot be restored. All others
 *    can: what the upper image has hides what becomes of the lower one.
 * 2. The lower image takes in what the upper one has, range by range, and is made
 *    durable. With punching, what was taken in is then taken out of the upper one: in its
 *    tables first, so that the lower one shows through, then in the file. However often that
 *    is begun anew, and whatever was punched: the lower image under what the upper one still
 *    has is the result, whose checksum is known; so damage never gets one that fits. Who has
 *    lost the checksums and goes on all the same first writes down others, which do not fit
 *    what is known to be damaged, and, with them, that there is a doubt, until the journal
 *    goes. What cannot be decompressed stays so, or is left out of what can be read beside it
 *    (enum loss): only with repair, and its range keeps the old checksum.
 * 3. Details of the result are written, and of those images that will have another
 *    backing file name, beside the old ones.
 * 4. The manifest says what the chain is then (%MERGE_NAMES). Files get their names,
 *    headers what the details have; all of which can be done again.
 * 5. The manifest without the journal; what it does not name goes.
 */
#ifndef CBW_MERGE_H
#define CBW_MERGE_H

#include <stdbool.h>

#include "chain.h"

/**
 * struct merge_opts
 * @punch: needs no space for what moves, but cannot do without the lower image once it
 *	has begun
 * @json: progress as JSON lines
 * @batch: made durable, and punched, after so many bytes; 0: 64 MiB
 * @repair: merge_resume() ends the merge with what is there, also if that is not what it was
 *	or that cannot be told; if it comes to that, chain.doubtful is set
 */
struct merge_opts {
	bool punch;
	bool json;
	uint64_t batch;
	bool repair;
};

/**
 * merge_into - the image of @id takes the place of its parent's
 * @chain: locked, without an open journal
 *
 * Return: 0; -EINVAL: that is not possible; -EUCLEAN: an image is damaged, nothing of
 * it was taken. If the journal is open afterwards merge_resume() can go on.
 */
int merge_into(struct chain *chain, uint32_t id, const struct merge_opts *opts,
	       struct cbw_error *err);

/** merge_resume - end what was begun; 0 too if there is nothing */
int merge_resume(struct chain *chain, const struct merge_opts *opts,
		 struct cbw_error *err);

/** merge_names - steps 4 and 5, with %MERGE_NAMES in the manifest */
int merge_names(struct chain *chain, struct cbw_error *err);

/** merge_possible - the same question, without doing it; 0 or -EINVAL with the reason */
int merge_possible(const struct chain *chain, uint32_t id, struct cbw_error *err);

/* ---- parts ---------------------------------------------------------------- */

struct details;
struct sums;

/**
 * merge_verify - whether all that merge_data() will read has its checksums
 * @lower_d, @upper_d: details of the images
 * @after: sums that the result will have
 *
 * What shows through the lower image is compared too, with details of the images below, which
 * are made where they are missing. How much the result will have in zero clusters goes to
 * chain->merge.
 */
int merge_verify(struct chain *chain, const struct entry *lower, const struct entry *upper,
		 const struct details *lower_d, const struct details *upper_d, bool json,
		 struct sums *after, struct cbw_error *err);

/**
 * merge_guess - sums that the result will have, of a merge that has begun and lost them
 * @lower_d, @upper_d: what there is of details, or NULL
 *
 * They fit what is there, but where that is known to be damaged: there they fit nothing.
 */
int merge_guess(struct chain *chain, const struct entry *lower, const struct entry *upper,
		const struct details *lower_d, const struct details *upper_d, bool json,
		struct sums *after, struct cbw_error *err);

/**
 * merge_data - step 2; parts of it may have been done
 * @lower, @upper: as the manifest has them
 * @lower_d, @upper_d: what there is of details, or NULL
 * @after: sums that the result has to have, from merge_verify() or merge_guess()
 * @result: .copied, .zero and .crc are filled in
 * @doubt: set if a range is not what it has to be
 */
int merge_data(const struct chain *chain, const struct entry *lower,
	       const struct entry *upper, const struct details *lower_d,
	       const struct details *upper_d, const struct sums *after,
	       const struct merge_opts *opts, struct entry *result, bool *doubt,
	       struct cbw_error *err);

/**
 * merge_children - whether those on top of @upper can get a backing file of another name
 *
 * Before it begins: details that are missing are made. What is wrong with a file is said if
 * its details are enough to go on with, else it is an error.
 */
int merge_children(struct chain *chain, const struct entry *lower, const struct entry *upper,
		   bool json, struct cbw_error *err);

/**
 * merge_plan - step 3, and the chain as it will be, in memory
 * @lower, @upper: as the manifest has them
 * @result: the entry that there will be; details are noted in it
 * @after: its sums; they go to its details
 */
int merge_plan(struct chain *chain, const struct entry *lower, const struct entry *upper,
	       struct entry *result, struct sums *after, bool json, struct cbw_error *err);

/* the checksums of the result, from their file; a merge must have begun */
int merge_sums_load(const struct chain *chain, struct sums *after, struct cbw_error *err);

/**
 * merge_sums_save - make that file, note it in the journal
 * @d: details of any of the images; what the file has beside the checksums
 */
int merge_sums_save(struct chain *chain, const struct entry *upper, const struct sums *after,
		    const struct details *d, struct cbw_error *err);
void merge_sums_remove(const struct chain *chain);

/**
 * header_put - make the header of a file what the details have
 * @l1: the L1 table too
 * @changed: whether it was something else before; may be NULL
 *
 * Durable. Can be done again as often as one likes, also after a crash in the middle.
 */
int header_put(const struct chain *chain, const char *file,
	       const struct details *d, bool l1, bool *changed,
	       struct cbw_error *err);

/** header_copy - what the details have of an image, to an empty file; 0 or a negative errno */
int header_copy(int fd, const struct details *d);

/** header_same - whether header and L1 table are what the details have */
int header_same(const struct chain *chain, const char *file,
		const struct details *d, bool *header, bool *l1,
		struct cbw_error *err);

/**
 * header_other - whether a header that is not what the details have is that of another image
 * @l1: whether the L1 table is what they have
 */
bool header_other(const struct chain *chain, const struct entry *e, const struct details *d,
		  bool l1);

/** details_make - details of an image that has none, or not any more */
int details_make(const struct chain *chain, struct entry *e, bool json,
		 struct cbw_error *err);

/** details_need - details, or those that can be made when there are none */
int details_need(const struct chain *chain, struct entry *e, bool json, struct details *d,
		 struct cbw_error *err);

#endif

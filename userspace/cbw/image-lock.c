// SPDX-License-Identifier: GPL-2.0-or-later
/* images that are read are not merged, and the other way round */
#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include "cbw.h"
#include "image-lock.h"
#include "qcow2.h"

int image_hold(const struct chain *chain, const struct entry *e,
	       struct image_hold *hold, struct cbw_error *err)
{
	const struct entry *at;
	size_t most = 0;

	for (at = e; at; at = at->parent ? chain_by_id(chain, at->parent) : NULL)
		most++;
	*hold = (struct image_hold){ .fd = xcalloc(most, sizeof(*hold->fd)) };
	for (; e; e = e->parent ? chain_by_id(chain, e->parent) : NULL) {
		int fd = openat(chain->dirfd, e->file, O_RDONLY | O_CLOEXEC | O_NOFOLLOW |
				O_NONBLOCK);

		/* who opens it says what is wrong */
		if (fd < 0)
			continue;
		hold->fd[hold->nr++] = fd;
		if (flock(fd, LOCK_SH | LOCK_NB) && errno == EWOULDBLOCK) {
			image_release(hold);
			return fail_with(err, EBUSY, "%s/%s: it is being merged; try again when that has ended",
					 esc(chain->dir), e->file);
		}
	}
	return 0;
}

void image_share(struct qcow2_image *img)
{
	unsigned int nr = qcow2_layers(img), i;
	struct qcow2_layer l;

	/* cannot fail but where there are no locks: nobody can have them alone now */
	for (i = 0; i < nr; i++)
		if (!qcow2_get_layer(img, i, &l))
			(void)flock(l.fd, LOCK_SH | LOCK_NB);
}

void image_release(struct image_hold *hold)
{
	while (hold->nr)
		close(hold->fd[--hold->nr]);
	free(hold->fd);
	*hold = (struct image_hold){ 0 };
}

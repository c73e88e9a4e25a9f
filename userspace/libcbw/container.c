// SPDX-License-Identifier: LGPL-2.1-or-later
/* the calls about containers */
#include <sys/ioctl.h>

#include "internal.h"

static int call_failed(struct cbw_error *err, const char *what, struct cbw_devno dev,
		       const char *busy, const char *space)
{
	int code = errno;

	return cbw_fail(err, code, "%s of device %u:%u: %s", what, dev.major, dev.minor,
			code == ENOTTY ? "this module knows no containers" :
			code == ENODEV ? "it has none" :
			code == EBUSY && busy ? busy :
			code == ENOSPC && space ? space : strerror(code));
}

int cbw_container_attach(struct cbw_session *session, struct cbw_container_attach *attach,
			 struct cbw_error *err)
{
	attach->size = sizeof(*attach);
	if (ioctl(cbw_session_fd(session), CBW_CONTAINER_ATTACH, attach))
		return call_failed(err, "the container", attach->dev,
				   "the device is live already, or has a container",
				   "the bitmaps do not fit into it");
	return 0;
}

static int detach(struct cbw_session *session, struct cbw_devno dev, uint32_t flags,
		  const void *binding, size_t len, struct cbw_error *err)
{
	struct cbw_container_detach d = {
		.size = sizeof(d),
		.flags = flags,
		.dev = dev,
		.binding_len = (uint32_t)len,
		.binding = (uintptr_t)binding,
	};

	if (len > CBW_BINDING_MAX)
		return cbw_fail(err, EINVAL, "a binding has at most %u bytes", CBW_BINDING_MAX);
	if (ioctl(cbw_session_fd(session), CBW_CONTAINER_DETACH, &d))
		return call_failed(err, "stopping the container", dev, NULL, NULL);
	return 0;
}

int cbw_container_detach(struct cbw_session *session, struct cbw_devno dev,
			 const void *binding, size_t len, struct cbw_error *err)
{
	return detach(session, dev, 0, binding, len, err);
}

int cbw_container_detach_cancel(struct cbw_session *session, struct cbw_devno dev,
				struct cbw_error *err)
{
	return detach(session, dev, CBW_DETACH_CANCEL, NULL, 0, err);
}

int cbw_container_get_info(struct cbw_session *session, struct cbw_devno dev, bool checkpoint,
			   struct cbw_container_info *info, struct cbw_error *err)
{
	struct cbw_container_info i = {
		.size = sizeof(i),
		.flags = checkpoint ? CBW_INFO_CHECKPOINT : 0,
		.dev = dev,
	};

	if (ioctl(cbw_session_fd(session), CBW_CONTAINER_INFO, &i))
		return call_failed(err, "the container", dev, NULL, NULL);
	*info = i;
	return 0;
}

int cbw_container_grow(struct cbw_session *session, struct cbw_devno dev,
		       const struct cbw_place *places, size_t nr, struct cbw_error *err)
{
	struct cbw_container_grow g = {
		.size = sizeof(g),
		.dev = dev,
		.nr_places = (uint32_t)nr,
		.places = (uintptr_t)places,
	};

	if (!nr || nr > CBW_PLACES_MAX)
		return cbw_fail(err, EINVAL, "1 to %u places at once", CBW_PLACES_MAX);
	if (ioctl(cbw_session_fd(session), CBW_CONTAINER_GROW, &g))
		return call_failed(err, "growing the container", dev, NULL, NULL);
	return 0;
}

// SPDX-License-Identifier: GPL-2.0-or-later
/* cbw export: the socket; what stock clients see of a chain */
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include "nbd.h"
#include "nbd-child.h"

/* ---- the socket ------------------------------------------------------------- */

static void sockets(void **state)
{
	struct nbd_socket a, b;
	struct cbw_error err;
	struct stat st;
	char path[200];
	int fd;

	(void)state;
	umask(0);
	assert_int_equal(nbd_listen(sock_path(), &a, &err), 0);
	assert_int_equal(stat(sock_path(), &st), 0);
	assert_int_equal(st.st_mode & 07777, 0600);
	assert_int_equal(umask(022), 0);
	/* somebody is there */
	assert_int_equal(nbd_listen(sock_path(), &b, &err), -EADDRINUSE);
	assert_non_null(strstr(err.msg, "somebody serves on this socket"));
	/* nobody is, any more */
	close(a.fd);
	assert_int_equal(nbd_listen(sock_path(), &b, &err), 0);
	/* it is not a's to remove */
	a.fd = open("/dev/null", O_RDONLY);
	a.ino++;
	nbd_unlisten(&a);
	assert_int_equal(access(sock_path(), F_OK), 0);
	nbd_unlisten(&b);
	assert_int_equal(access(sock_path(), F_OK), -1);
	/* a file is no socket, and stays */
	fd = open(sock_path(), O_CREAT | O_WRONLY, 0600);
	close(fd);
	assert_int_equal(nbd_listen(sock_path(), &a, &err), -EEXIST);
	assert_int_equal(unlink(sock_path()), 0);
	memset(path, 'x', sizeof(path) - 1);
	path[sizeof(path) - 1] = '\0';
	assert_int_equal(nbd_listen(path, &a, &err), -ENAMETOOLONG);
	assert_int_equal(nbd_listen("/nonexistent/sock", &a, &err), -ENOENT);
}

/* ---- the command, on a chain ----------------------------------------------- */

static unsigned char newest[FX_SIZE];

static int export_args(char *line, char **argv, const char *more)
{
	char *save, *word;
	int argc = 0;

	sprintf(line, "export %s --socket %s %s", fx_path("chain"), sock_path(), more);
	for (word = strtok_r(line, " ", &save); word; word = strtok_r(NULL, " ", &save))
		argv[argc++] = word;
	argv[argc] = NULL;
	return argc;
}

static void start_export(const char *more)
{
	char line[512], *argv[16];

	begin_child();
	if (!server_pid) {
		int argc = export_args(line, argv, more);

		exit(cmd_export(argc, argv));
	}
	wait_for_socket();
}

static void chain(void **state)
{
	char line[512], *argv[16], text[4096];
	int fd;

	(void)state;
	fx_chain(newest);
	fd = open(fx_path("newest"), O_CREAT | O_WRONLY, 0600);
	assert_int_equal(write_all(fd, newest, FX_SIZE), 0);
	close(fd);
	start_export("--name vol");
	/* as the text of the map, which test_map has, and in both contexts */
	fx_shell("nbdinfo --map=qemu:dirty-bitmap:cbw-07000000 'nbd+unix:///vol?socket=%s' |"
		 " awk '{ print $1, $2, $3 }' >'%s' && printf '%%s\\n' '0 65536 0' '65536 196608 1'"
		 " '262144 131072 0' '393216 131072 1' '524288 2622976 0' | cmp - '%s'",
		 sock_path(), fx_path("dirty"), fx_path("dirty"));
	fx_shell("nbdinfo --map 'nbd+unix:///?socket=%s' | awk '{ print $1, $2, $3 }' >'%s' &&"
		 " printf '%%s\\n' '0 131072 0' '131072 196608 3' '327680 196608 0'"
		 " '524288 2621440 3' '3145728 1536 0' | cmp - '%s'",
		 sock_path(), fx_path("base"), fx_path("base"));
	fx_shell("nbdcopy 'nbd+unix:///vol?socket=%s' '%s' && cmp '%s' '%s'", sock_path(),
		 fx_path("copy"), fx_path("copy"), fx_path("newest"));
	fx_shell("qemu-img compare -q -f raw -F raw 'nbd+unix:///vol?socket=%s' '%s'",
		 sock_path(), fx_path("newest"));
	/* two at once, and one without structured replies */
	fx_shell("cd '%s'; nbdcopy 'nbd+unix:///?socket=%s' c1 & nbdcopy 'nbd+unix:///?socket=%s' c2;"
		 " wait $! && cmp c1 newest && cmp c2 newest", fx_top, sock_path(), sock_path());
	fx_shell("grep -qx 'nbd+unix:///vol?socket=%s  bitmap cbw-07000000' '%s'", sock_path(),
		 fx_path("server.out"));
	/* a second run does not get the socket */
	fd = export_args(line, argv, "");
	assert_int_equal(run_quiet(cmd_export, fd, argv, text), EXIT_FAILED);
	assert_non_null(strstr(text, "somebody serves on this socket"));
	assert_int_equal(stop(SIGTERM), 0);
	assert_int_equal(access(sock_path(), F_OK), -1);
	/* an older one, once; all of the first image is new */
	start_export("--id 1 --once --json --bitmap other");
	fx_shell("nbdinfo --map=qemu:dirty-bitmap:other 'nbd+unix:///?socket=%s' |"
		 " awk '{ print $1, $2, $3 }' >'%s' && echo 0 3147264 1 | cmp - '%s'",
		 sock_path(), fx_path("dirty"), fx_path("dirty"));
	assert_int_equal(stop(0), 0);
	/* killed: nobody answers any more, and the next run takes the socket */
	start_export("");
	assert_int_equal(stop(SIGKILL), -SIGKILL);
	assert_int_equal(access(sock_path(), F_OK), 0);
	fx_shell("! nbdinfo --size 'nbd+unix:///?socket=%s' 2>/dev/null", sock_path());
	start_export("");
	assert_int_equal(stop(SIGTERM), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(sockets, tidy),
		cmocka_unit_test_teardown(chain, tidy),
	};

	return cmocka_run_group_tests(tests, begin_group, fx_end);
}

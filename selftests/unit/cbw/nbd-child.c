// SPDX-License-Identifier: GPL-2.0-or-later
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "nbd-child.h"

struct told *told;
pid_t server_pid;

char *sock_path(void)
{
	return fx_path("sock");
}

void wait_for_socket(void)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int i, fd;

	strcpy(addr.sun_path, sock_path());
	for (i = 0; i < 500; i++) {
		fd = socket(AF_UNIX, SOCK_STREAM, 0);
		if (!connect(fd, (struct sockaddr *)&addr, sizeof(addr))) {
			close(fd);
			return;
		}
		close(fd);
		nanosleep(&(struct timespec){ .tv_nsec = 20000000 }, NULL);
	}
	fail_msg("the server does not come");
}

void begin_child(void)
{
	pid_t parent = getpid();

	memset(told, 0, sizeof(*told));
	fflush(NULL);
	server_pid = fork();
	assert_true(server_pid >= 0);
	if (server_pid)
		return;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(1);
	dup2(open(fx_path("server.out"), O_CREAT | O_TRUNC | O_WRONLY, 0600), STDOUT_FILENO);
	dup2(STDOUT_FILENO, STDERR_FILENO);
	catch_signals();
}

int stop(int sig)
{
	int status, i;

	if (sig)
		kill(server_pid, sig);
	for (i = 0; i < 1000; i++) {
		if (waitpid(server_pid, &status, WNOHANG) == server_pid)
			break;
		nanosleep(&(struct timespec){ .tv_nsec = 20000000 }, NULL);
	}
	if (i == 1000)
		fail_msg("the server does not end");
	server_pid = 0;
	return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

int tidy(void **state)
{
	(void)state;
	if (server_pid > 0) {
		kill(server_pid, SIGKILL);
		waitpid(server_pid, NULL, 0);
	}
	server_pid = 0;
	unlink(fx_path("sock"));
	return 0;
}

int begin_group(void **state)
{
	told = mmap(NULL, sizeof(*told), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	return told == MAP_FAILED ? -1 : fx_begin(state);
}

// SPDX-License-Identifier: GPL-2.0-or-later
/* command lines: one table per subcommand, and the texts when they are wrong */
#include <linux/ioprio.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "cbw.h"

int parse_size(const char *text, uint64_t *size)
{
	static const char units[] = "KMGT";
	unsigned int shift = 0;
	uint64_t v = 0;
	const char *p = text;

	if (*p < '0' || *p > '9')
		return -EINVAL;
	for (; *p >= '0' && *p <= '9'; p++) {
		if (__builtin_mul_overflow(v, 10, &v) ||
		    __builtin_add_overflow(v, (uint64_t)(*p - '0'), &v))
			return -ERANGE;
	}
	if (*p) {
		char up = *p >= 'a' && *p <= 'z' ? (char)(*p - 32) : *p;
		const char *u = strchr(units, up);

		if (!u)
			return -EINVAL;
		shift = 10 * (unsigned int)(u - units + 1);
		p++;
		if (!strcmp(p, "iB"))
			p += 2;
		if (*p)
			return -EINVAL;
	}
	if (v > (UINT64_MAX >> shift))
		return -ERANGE;
	*size = v << shift;
	return 0;
}

static void help(const struct cmdline *cl)
{
	const struct opt *o;

	printf("usage: %s %s\n\n%s\n", cl->command, cl->args, cl->about);
	if (cl->opts && cl->opts->name)
		puts("\nOptions:");
	for (o = cl->opts; o && o->name; o++) {
		char left[64];

		snprintf(left, sizeof(left), "--%s%s%s", o->name,
			 o->value ? " " : "", o->value ? o->value : "");
		printf("  %-24s%s%s\n", left,
		       strlen(left) > 23 ? "\n                          " : "",
		       o->help);
	}
}

static int one_opt(const struct cmdline *cl, const struct opt *o,
		   const char *value)
{
	struct text_list *list;

	switch (o->kind) {
	case OPT_FLAG:
		*(bool *)o->to = true;
		break;
	case OPT_TEXT:
		if (*(const char **)o->to)
			return usage("%s: --%s is given twice", cl->command,
				     o->name);
		if (!*value)
			return usage("%s: --%s: the value is empty",
				     cl->command, o->name);
		*(const char **)o->to = value;
		break;
	case OPT_LIST:
		if (!*value)
			return usage("%s: --%s: the value is empty",
				     cl->command, o->name);
		list = o->to;
		if (list->nr == TEXT_LIST_MAX)
			return usage("%s: --%s can be given %d times at most",
				     cl->command, o->name, TEXT_LIST_MAX);
		list->v[list->nr++] = value;
		break;
	case OPT_SIZE:
		switch (parse_size(value, o->to)) {
		case 0:
			break;
		case -ERANGE:
			return usage("%s: --%s '%s' is too large",
				     cl->command, o->name, esc(value));
		default:
			return usage("%s: --%s '%s' is not a size; sizes are whole numbers, with K, M, G or T behind them if wanted",
				     cl->command, o->name, esc(value));
		}
		break;
	}
	return -1;
}

int opts_parse(struct cmdline *cl, int argc, char **argv)
{
	bool only_args = false;
	int i, status;

	/* arguments move to the front, which is never past the one looked at */
	cl->arg = argv + 1;
	cl->nr_args = 0;
	for (i = 1; i < argc; i++) {
		const char *value, *name;
		const struct opt *o;
		size_t len;

		if (only_args || argv[i][0] != '-' || !argv[i][1]) {
			cl->arg[cl->nr_args++] = argv[i];
			continue;
		}
		if (!strcmp(argv[i], "--")) {
			only_args = true;
			continue;
		}
		if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) {
			help(cl);
			return EXIT_OK;
		}
		name = argv[i] + 2;
		value = strchr(name, '=');
		len = value ? (size_t)(value - name) : strlen(name);
		if (value)
			value++;
		for (o = cl->opts; o && o->name; o++)
			if (argv[i][1] == '-' && strlen(o->name) == len &&
			    !strncmp(o->name, name, len))
				break;
		if (!o || !o->name)
			return usage("%s: unknown option '%s'; see '%s --help'",
				     cl->command, esc(argv[i]), cl->command);
		if (o->kind == OPT_FLAG && value)
			return usage("%s: --%s takes no value", cl->command,
				     o->name);
		if (o->kind != OPT_FLAG && !value) {
			if (i + 1 == argc)
				return usage("%s: --%s needs a value (%s)",
					     cl->command, o->name, o->value);
			value = argv[++i];
		}
		status = one_opt(cl, o, value);
		if (status >= 0)
			return status;
	}
	if (cl->nr_args < cl->min_args)
		return usage("%s: too few arguments; usage: %s %s",
			     cl->command, cl->command, cl->args);
	if (cl->max_args >= 0 && cl->nr_args > cl->max_args)
		return usage("%s: argument '%s' is one too many; usage: %s %s",
			     cl->command, esc(cl->arg[cl->max_args]),
			     cl->command, cl->args);
	for (i = 0; i < cl->nr_args; i++)
		if (!*cl->arg[i])
			return usage("%s: argument %d is empty", cl->command,
				     i + 1);
	return -1;
}

int run_verb(const char *command, const char *args, const struct command *verbs,
	     int argc, char **argv)
{
	const struct command *v;

	if (argc < 2 || !strcmp(argv[1], "--help") || !strcmp(argv[1], "-h")) {
		FILE *to = argc < 2 ? stderr : stdout;

		fprintf(to, argc < 2 ? "cbw: %s: which verb? " : "usage: %s ",
			command);
		for (v = verbs; v->name; v++)
			fprintf(to, "%s%s", v == verbs ? "" : "|", v->name);
		fprintf(to, " %s\n'%s VERB --help' tells more.\n", args,
			command);
		return argc < 2 ? EXIT_USAGE : EXIT_OK;
	}
	for (v = verbs; v->name; v++)
		if (!strcmp(v->name, argv[1]))
			return v->run(argc - 1, argv + 1);
	return usage("%s: unknown verb '%s'; see '%s --help'", command,
		     esc(argv[1]), command);
}

int parse_compress(const char *text, int *level)
{
	char *end;
	long n;

	*level = 0;
	if (!strcmp(text, "none"))
		return 0;
	if (strncmp(text, "zstd", 4))
		return -EINVAL;
	*level = COMPRESS_DEFAULT;
	if (!text[4])
		return 0;
	if (text[4] != ':' || text[5] < '0' || text[5] > '9')
		return -EINVAL;
	n = strtol(text + 5, &end, 10);
	if (*end || n < 1 || n > 22)
		return -EINVAL;
	*level = (int)n;
	return 0;
}

int set_ioprio(const char *text)
{
	int prio;

	if (!text)
		return 0;
	if (!strcmp(text, "idle"))
		prio = IOPRIO_PRIO_VALUE(IOPRIO_CLASS_IDLE, 0);
	else if (!strcmp(text, "low"))
		prio = IOPRIO_PRIO_VALUE(IOPRIO_CLASS_BE, 7);
	else if (!strcmp(text, "normal"))
		prio = IOPRIO_PRIO_VALUE(IOPRIO_CLASS_BE, 4);
	else
		return -EINVAL;
	/* a scheduler that has no priorities does not care */
	(void)syscall(SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, prio);
	return 0;
}

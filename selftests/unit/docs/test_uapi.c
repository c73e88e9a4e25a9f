// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Documentation/uapi.rst is complete: every constant, struct, and member of a struct that
 * linux/dm-cbw.h and linux/dm-cbw-container.h define occurs in it. That its examples compile
 * was shown when this was built.
 */
#include <ctype.h>
#include <regex.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#define HEADERS	TOP "/kernel/include/uapi/linux/"
#define DOC	TOP "/Documentation/uapi.rst"

static char *slurp(const char *path)
{
	FILE *f = fopen(path, "r");
	char *text = calloc(1, 1 << 20);

	assert_non_null(f);
	assert_non_null(text);
	assert_in_range(fread(text, 1, (1 << 20) - 1, f), 1000, (1 << 20) - 2);
	fclose(f);
	return text;
}

static bool word_char(char c)
{
	return isalnum((unsigned char)c) || c == '_';
}

/* Does the text have this as a word? */
static bool has_word(const char *text, const char *word)
{
	size_t len = strlen(word);
	const char *p = text;

	while ((p = strstr(p, word))) {
		if ((p == text || !word_char(p[-1])) && !word_char(p[len]))
			return true;
		p += len;
	}
	return false;
}

/*
 * How much of what the first group of an expression matches in the header is not in the
 * doc, in that form. There have to be at least so many.
 */
static int missing_as(const char *header, const char *doc, const char *expression,
		      const char *form, unsigned int least)
{
	unsigned int found = 0;
	regmatch_t m[2];
	char word[128];
	int bad = 0;
	regex_t re;

	assert_int_equal(regcomp(&re, expression, REG_EXTENDED | REG_NEWLINE), 0);
	for (; !regexec(&re, header, 2, m, 0); header += m[1].rm_eo) {
		snprintf(word, sizeof(word), form, (int)(m[1].rm_eo - m[1].rm_so),
			 header + m[1].rm_so);
		found++;
		if (has_word(doc, word))
			continue;
		print_error("%s: not in the documentation\n", word);
		bad++;
	}
	regfree(&re);
	assert_in_range(found, least, 10000);
	return bad;
}

static int missing(const char *header, const char *doc, const char *expression,
		   unsigned int least)
{
	return missing_as(header, doc, expression, "%.*s", least);
}

/* Both headers, one after the other. */
static char *headers(void)
{
	char *all = slurp(HEADERS "dm-cbw.h"), *more = slurp(HEADERS "dm-cbw-container.h");

	assert_true(strlen(all) + strlen(more) < 1 << 20);
	strcat(all, more);
	free(more);
	return all;
}

static char *uapi, *page;

static int setup(void **state)
{
	(void)state;
	uapi = headers();
	page = slurp(DOC);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	free(uapi);
	free(page);
	return 0;
}

#define ENUM(prefix)	"^\t(" prefix "[A-Z0-9_]+)( =.*)?,"
#define MEMBER	"^\t[_a-z0-9 ]+ ([a-z0-9_]+)(\\[.*\\])?;"

static void calls(void **state)
{
	(void)state;
	assert_int_equal(missing(uapi, page, ENUM("CBW_CMD_"), 17), 0);
	assert_int_equal(missing(uapi, page, "^#define (CBW_[A-Z_]+) _IO\\(", 17), 0);
}

static void enums(void **state)
{
	(void)state;
	assert_int_equal(missing(uapi, page, ENUM("CBW_ACTION_"), 10), 0);
	assert_int_equal(missing(uapi, page, ENUM("CBW_EVENT_"), 7), 0);
	assert_int_equal(missing(uapi, page, ENUM("CBW_"), 39), 0);
	assert_int_equal(missing(uapi, page, "^enum ([a-z_]+) \\{", 5), 0);
}

static void flags_and_limits(void **state)
{
	(void)state;
	assert_int_equal(missing(uapi, page, "^#define (CBW_[A-Z_0-9]+)", 55), 0);
}

static void structs(void **state)
{
	(void)state;
	assert_int_equal(missing(uapi, page, "^struct (cbw_[a-z_]+) \\{", 26), 0);
}

static void members(void **state)
{
	(void)state;
	/* in tables, as literals: "size" and "length" are words of the text, too */
	assert_int_equal(missing_as(uapi, page, MEMBER, "``%.*s``", 180), 0);
}

/* It can tell. */
static void judge(void **state)
{
	static const char text[] = "enum cbw_x {\n\tCBW_X_ONE = 1,\n\tCBW_X_TWO,\n};\n";

	(void)state;
	assert_int_equal(missing(text, "CBW_X_ONE, CBW_X_TWO", ENUM("CBW_X_"), 2), 0);
	assert_int_equal(missing(text, "CBW_X_ONE, CBW_X_TWOS", ENUM("CBW_X_"), 2), 1);
	assert_int_equal(missing(text, "aCBW_X_ONE", ENUM("CBW_X_"), 2), 2);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(calls),
		cmocka_unit_test(enums),
		cmocka_unit_test(flags_and_limits),
		cmocka_unit_test(structs),
		cmocka_unit_test(members),
		cmocka_unit_test(judge),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}

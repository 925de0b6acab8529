/*-------------------------------------------------------------------------
 *
 * test_validate.c
 *		Properties of what is accepted into a request.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres_fe.h"

#include "check.h"
#include "server/validate.h"

static bool
url_accepted(const char *url, UrlParts *parts)
{
	note("%s", url);
	return validate_url(url, parts) == NULL;
}

static void
plain_urls_are_accepted(void)
{
	static const struct
	{
		const char *url;
		const char *host;
		bool		https;
		bool		has_port;
		int			port;
		bool		has_path;
	} cases[] = {
		{"https://www.anyapi.vip", "www.anyapi.vip", true, false, 443, false},
		{"HTTPS://A.example//", "A.example", true, false, 443, false},
		{"http://127.0.0.1:8080/", "127.0.0.1", false, true, 8080, false},
		{"http://[::1]", "::1", false, false, 80, false},
		{"http://[::1]:1/x", "::1", false, true, 1, true},
		{"http://api_gateway:65535", "api_gateway", false, true, 65535, false},
		{"https://a/b%2Fc/~d", "a", true, false, 443, true},
		{"http://a.:00080", "a.", false, true, 80, false},
	};

	for (int i = 0; i < (int) lengthof(cases); i++)
	{
		UrlParts	parts;

		CHECK(url_accepted(cases[i].url, &parts));
		CHECK(strcmp(parts.host, cases[i].host) == 0);
		CHECK(parts.https == cases[i].https);
		CHECK(parts.has_port == cases[i].has_port);
		CHECK(parts.port == cases[i].port);
		CHECK(parts.has_path == cases[i].has_path);
	}
}

static void
what_parsers_may_read_in_two_ways_is_refused(void)
{
	static const char *const urls[] = {
		"", "www.anyapi.vip", "ftp://a", "http:/a", "http://", "https:///a",
		"http://:80", "http://a:", "http://a:0", "http://a:65536",
		"http://a:80b", "http://a:-1", "http://a:99999999999999999999",
		"http://a@b", "http://a:b@c/", "http://a?q", "http://a/#f",
		"http://a/?", "http://a\\@b", "http://a b", "http://a/b c",
		"http://a/\x01", "http://a/\x7F", "http://\xC3\xA9.example",
		"http://a%2eb", "http://a/%", "http://a/%4", "http://a/%zz",
		"http://a/b\r\nX: y", "http://.a", "http://a..b", "http://[::1",
		"http://[::1]x", "http://[::1]:", "http://[]", "http://[a]",
		"http://[127.0.0.1]", "http://[fe80::1%25eth0]", "http://::1/",
		"http://a/<b>", "http://a/{b}", "http://a/`", "http://a/\"", " http://a"
	};

	for (int i = 0; i < (int) lengthof(urls); i++)
	{
		UrlParts	parts;

		CHECK(!url_accepted(urls[i], &parts));
	}
}

static void
urls_and_hosts_have_a_longest(void)
{
	char		url[MAX_URL_LENGTH + 2];
	UrlParts	parts;

	memset(url, 'a', sizeof(url));
	memcpy(url, "http://a/", 9);
	url[MAX_URL_LENGTH + 1] = '\0';
	CHECK(!url_accepted(url, &parts));
	url[MAX_URL_LENGTH] = '\0';
	CHECK(url_accepted(url, &parts));

	memset(url, 'a', sizeof(url));
	memcpy(url, "http://", 7);
	url[7 + MAX_HOST_LENGTH + 1] = '\0';
	CHECK(!url_accepted(url, &parts));
	url[7 + MAX_HOST_LENGTH] = '\0';
	CHECK(url_accepted(url, &parts));
	CHECK(strlen(parts.host) == MAX_HOST_LENGTH);
}

static void
a_proxy_has_a_port_and_no_path(void)
{
	UrlParts	parts;

	CHECK(validate_proxy("http://proxy:3128", &parts) == NULL);
	CHECK(validate_proxy("https://proxy:3128/", &parts) == NULL);
	CHECK(validate_proxy("http://proxy", &parts) != NULL);
	CHECK(validate_proxy("http://proxy:3128/x", &parts) != NULL);
	CHECK(validate_proxy("socks5://proxy:3128", &parts) != NULL);
}

static void
only_this_machine_is_local(void)
{
	static const char *const local[] = {
		"localhost", "LOCALHOST", "a.localhost", "127.0.0.1",
		"127.255.255.254", "::1", "0:0:0:0:0:0:0:1"
	};
	static const char *const others[] = {
		"localhost.example", "notlocalhost", ".localhost", "128.0.0.1",
		"10.127.0.1", "::2", "::ffff:127.0.0.1", "0x7f.1", "127.1",
		"2130706433", ""
	};

	for (int i = 0; i < (int) lengthof(local); i++)
	{
		note("%s", local[i]);
		CHECK(validate_is_loopback(local[i]));
	}
	for (int i = 0; i < (int) lengthof(others); i++)
	{
		note("%s", others[i]);
		CHECK(!validate_is_loopback(others[i]));
	}
}

static void
every_byte_of_a_key_is_visible_ascii(void)
{
	for (int byte = 0; byte < 256; byte++)
	{
		char		key[3] = {'a', (char) byte, 'b'};

		note("byte %d", byte);
		CHECK(validate_api_key(key, 3) == (byte > 32 && byte < 127));
	}
}

static void
a_key_has_a_longest(void)
{
	char		key[MAX_API_KEY_LENGTH + 1];

	memset(key, 'k', sizeof(key));
	CHECK(!validate_api_key(key, 0));
	CHECK(validate_api_key(key, 1));
	CHECK(validate_api_key(key, MAX_API_KEY_LENGTH));
	CHECK(!validate_api_key(key, MAX_API_KEY_LENGTH + 1));
}

static void
what_stands_around_a_key_is_refused_with_a_hint(void)
{
	static const struct
	{
		const char *key;
		const char *hint;		/* a part of it */
	} cases[] = {
		{"\"sk-a\"", "quotation"},
		{"'sk-a'", "quotation"},
		{"`sk-a`", "quotation"},
		{"\"sk-a", "quotation"},
		{"sk-a'", "quotation"},
		{"\"", "quotation"},
		{"\"sk-a\"\n", "quotation"},
		{"KEY=sk-a", "NAME="},
		{"ANYAPI=sk-a", "NAME="},
		{"anyapi_key=0123", "NAME="},
		{"apiKey=0123", "NAME="},
		{"TOKEN2=0123", "NAME="},
		{"_SECRET=0123", "NAME="},
		{"A='0123'", "NAME="},
		{"KEY=\"0123\"\r\n", "NAME="},
		{"export KEY=sk-a", "NAME="},
		{"export A=b", "NAME="},
		{"Bearer sk-a", "Bearer"},
		{"bearer sk-a\n", "Bearer"},
		{"Authorization: Bearer sk-a", "Bearer"},
	};

	for (int i = 0; i < (int) lengthof(cases); i++)
	{
		const char *key = cases[i].key;
		const char *hint = validate_key_hint(key, strlen(key));

		note("%s", key);
		CHECK(hint != NULL && strstr(hint, cases[i].hint) != NULL);
		CHECK(!validate_api_key(key, strlen(key)));
		CHECK(validate_key_file(key, strlen(key)) == 0);
	}
}

static void
keys_that_look_like_that_are_accepted(void)
{
	static const char *const keys[] = {
		"sk-a=", "c2VjcmV0a2V5==", "KEY=", "TOKEN==", "KEY==a", "a=b",
		"sk-key=sk-a", "2KEY=sk-a", "=sk-a", "Bearer", "Bearersk-a", "sk-'a",
		"sk-\"a", "eyJh.eyJrZXk.a_b-c", "export", "key", "AKID:KEY=sk-a"
	};

	for (int i = 0; i < (int) lengthof(keys); i++)
	{
		note("%s", keys[i]);
		CHECK(validate_api_key(keys[i], strlen(keys[i])));
		CHECK(validate_key_hint(keys[i], strlen(keys[i])) == NULL);
	}
	CHECK(validate_key_hint("", 0) == NULL);
	CHECK(validate_key_hint("a\0\"", 2) == NULL);
}

static void
a_key_file_may_end_in_line_ends_only(void)
{
	static const struct
	{
		const char *content;
		size_t		len;
	} cases[] = {
		{"", 0},
		{"\n", 0},
		{"\r\n\r\n", 0},
		{"key", 3},
		{"key\n", 3},
		{"key\r\n", 3},
		{"key\n\n\n", 3},
		{"\nkey", 0},
		{"key ", 0},
		{"key \n", 0},
		{"a\nb\n", 0},
		{"a b", 0},
		{"\xEF\xBB\xBFkey", 0},
	};

	for (int i = 0; i < (int) lengthof(cases); i++)
	{
		note("%s", cases[i].content);
		CHECK(validate_key_file(cases[i].content, strlen(cases[i].content)) ==
			  cases[i].len);
	}
	CHECK(validate_key_file("key\0\n", 5) == 0);
}

static void
every_byte_of_a_task_id_means_nothing_in_a_url(void)
{
	static const char good[] = "0123456789abcdefghijklmnopqrstuvwxyz"
							   "ABCDEFGHIJKLMNOPQRSTUVWXYZ-_.";

	for (int byte = 0; byte < 256; byte++)
	{
		char		id[3] = {'a', (char) byte, 'b'};
		bool		fit = byte != 0 && strchr(good, byte) != NULL;

		note("byte %d", byte);
		CHECK(validate_task_id(id, 3) == fit);
	}
}

static void
a_task_id_is_no_dot_segment_and_has_a_longest(void)
{
	char		id[MAX_TASK_ID_LENGTH + 1];

	memset(id, '.', sizeof(id));
	CHECK(!validate_task_id(id, 0));
	CHECK(!validate_task_id(id, 1));
	CHECK(!validate_task_id(id, 2));
	CHECK(validate_task_id(id, 3));
	CHECK(validate_task_id("a.", 2));
	CHECK(validate_task_id(".a", 2));
	CHECK(validate_task_id(id, MAX_TASK_ID_LENGTH));
	CHECK(!validate_task_id(id, MAX_TASK_ID_LENGTH + 1));
}

int
main(void)
{
	RUN(plain_urls_are_accepted);
	RUN(what_parsers_may_read_in_two_ways_is_refused);
	RUN(urls_and_hosts_have_a_longest);
	RUN(a_proxy_has_a_port_and_no_path);
	RUN(only_this_machine_is_local);
	RUN(every_byte_of_a_key_is_visible_ascii);
	RUN(a_key_has_a_longest);
	RUN(what_stands_around_a_key_is_refused_with_a_hint);
	RUN(keys_that_look_like_that_are_accepted);
	RUN(a_key_file_may_end_in_line_ends_only);
	RUN(every_byte_of_a_task_id_means_nothing_in_a_url);
	RUN(a_task_id_is_no_dot_segment_and_has_a_longest);
	return check_summary();
}

/*-------------------------------------------------------------------------
 *
 * bytes.c
 *		Bytes to read, where reading too far is seen (see bytes.h).
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres_fe.h"

#include <sys/mman.h>
#include <unistd.h>

#include "mb/pg_wchar.h"

#include "bytes.h"

static uint64 random_state = 88172645463325252ULL;

/* xorshift64 */
uint64
random_number(void)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return random_state;
}

size_t
random_bytes(char *out, size_t room)
{
	static const char likely[] = "\"\\u00dD8cCfFeE{}[]:, \xEF\xBB\xBF\xED\xA0";
	size_t		len = random_number() % room;

	for (size_t i = 0; i < len; i++)
		out[i] = random_number() % 4 != 0 ?
			likely[random_number() % sizeof(likely)] :
			(char) random_number();
	return len;
}

const char *
at_the_edge(const char *bytes, size_t len)
{
	static char *edge = NULL;
	static const size_t room = 1024 * 1024;

	if (edge == NULL)
	{
		long		page = sysconf(_SC_PAGESIZE);
		char	   *area = mmap(NULL, room + page, PROT_READ | PROT_WRITE,
								MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		mprotect(area + room, page, PROT_NONE);
		edge = area + room;
	}
	return memcpy(edge - len, bytes, len);
}

bool
is_utf8(const char *s, size_t len)
{
	for (size_t i = 0; i < len;)
	{
		int			n = pg_encoding_mblen(PG_UTF8, s + i);

		if (s[i] == '\0' || i + n > len ||
			!pg_utf8_islegal((const unsigned char *) s + i, n))
			return false;
		i += n;
	}
	return true;
}

bool
is_slow(void)
{
	return getenv("ANYVOD_SLOW") != NULL;
}

int
rounds(int n)
{
	return is_slow() ? n / 20 : n;
}

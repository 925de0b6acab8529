/*-------------------------------------------------------------------------
 *
 * memory.c
 *		palloc for programs that test the pure rooms (see memory.h).
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres_fe.h"

#include "memory.h"

/* In front of each piece; keeps what follows aligned for any type. */
typedef struct Piece
{
	struct Piece *next;
	struct Piece *prev;
	size_t		size;
	size_t		unused;
} Piece;

static Piece pieces = {&pieces, &pieces, 0, 0};
static size_t in_use;
static size_t peak;

static void
link_piece(Piece *piece, size_t size)
{
	piece->size = size;
	piece->next = pieces.next;
	piece->prev = &pieces;
	piece->next->prev = piece;
	pieces.next = piece;
	in_use += size;
	if (in_use > peak)
		peak = in_use;
}

static void
unlink_piece(Piece *piece)
{
	piece->next->prev = piece->prev;
	piece->prev->next = piece->next;
	in_use -= piece->size;
}

void
memory_reset(void)
{
	while (pieces.next != &pieces)
		pfree(pieces.next + 1);
	peak = 0;
}

size_t
memory_used(void)
{
	return in_use;
}

size_t
memory_peak(void)
{
	return peak;
}

/* The backend refuses more than 1 GB with an error: so a test must fail. */
static size_t
checked_size(size_t size)
{
	if (size > MaxAllocSize)
	{
		fprintf(stderr, "invalid memory alloc request size %zu\n", size);
		abort();
	}
	return size;
}

void *
palloc(Size size)
{
	Piece	   *piece = malloc(sizeof(Piece) + checked_size(size));

	if (piece == NULL)
	{
		fprintf(stderr, "out of memory\n");
		abort();
	}
	link_piece(piece, size);
	return piece + 1;
}

void *
palloc0(Size size)
{
	return memset(palloc(size), 0, size);
}

void *
palloc_extended(Size size, int flags)
{
	return (flags & MCXT_ALLOC_ZERO) ? palloc0(size) : palloc(size);
}

void *
repalloc(void *pointer, Size size)
{
	Piece	   *piece = (Piece *) pointer - 1;

	unlink_piece(piece);
	piece = realloc(piece, sizeof(Piece) + checked_size(size));
	if (piece == NULL)
	{
		fprintf(stderr, "out of memory\n");
		abort();
	}
	link_piece(piece, size);
	return piece + 1;
}

/*
 * Like the backend's, it wants a piece: NULL is a mistake of the caller.  The
 * parser of 18, as built for programs, counts on theirs, which allows it.
 */
void
pfree(void *pointer)
{
	Piece	   *piece;

	if (pointer == NULL)
	{
#if PG_VERSION_NUM < 180000
		fprintf(stderr, "pfree of NULL\n");
		abort();
#endif
		return;
	}
	piece = (Piece *) pointer - 1;
	unlink_piece(piece);
	free(piece);
}

char *
pstrdup(const char *in)
{
	size_t		size = strlen(in) + 1;

	return memcpy(palloc(size), in, size);
}

char *
pnstrdup(const char *in, Size size)
{
	size_t		len = strnlen(in, size);
	char	   *out = memcpy(palloc(len + 1), in, len);

	out[len] = '\0';
	return out;
}

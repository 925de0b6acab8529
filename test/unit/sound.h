/*-------------------------------------------------------------------------
 *
 * sound.h
 *		What tests of answers ask of them.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#ifndef ANYVOD_SOUND_H
#define ANYVOD_SOUND_H

#include "response/answer.h"

extern Answer read_string(const char *body);
extern bool same(const char *a, const char *b);
extern const char *date_text(bool known, TimestampTz value);
extern int	characters(const char *s);
extern bool is_sound(const Answer *answer);

#endif							/* ANYVOD_SOUND_H */

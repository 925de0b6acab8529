/*-------------------------------------------------------------------------
 *
 * tree.h
 *		A JSON text as jsonb.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#ifndef ANYVOD_TREE_H
#define ANYVOD_TREE_H

extern bool tree_make(const char *text, size_t len, Datum *jsonb);

#endif							/* ANYVOD_TREE_H */

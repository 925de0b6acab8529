/*-------------------------------------------------------------------------
 *
 * neighbour.h
 *		Making way for commands that want a database for themselves.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#ifndef ANYVOD_NEIGHBOUR_H
#define ANYVOD_NEIGHBOUR_H

#include "nodes/nodes.h"

extern void neighbour_init(void);
extern void neighbour_make_way(Node *command);

#endif							/* ANYVOD_NEIGHBOUR_H */

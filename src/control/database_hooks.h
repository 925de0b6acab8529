/*-------------------------------------------------------------------------
 *
 * database_hooks.h
 *		Commands that want a database without other processes.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#ifndef ANYVOD_DATABASE_HOOKS_H
#define ANYVOD_DATABASE_HOOKS_H

#include "nodes/nodes.h"

extern void database_hooks_init(void);
extern void database_hooks_before(Node *command);

#endif							/* ANYVOD_DATABASE_HOOKS_H */

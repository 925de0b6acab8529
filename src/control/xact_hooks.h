/*-------------------------------------------------------------------------
 *
 * xact_hooks.h
 *		Announcing, at commit, what a session has done.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#ifndef ANYVOD_XACT_HOOKS_H
#define ANYVOD_XACT_HOOKS_H

extern void xact_hooks_init(void);
extern bool xact_scan_is_noted(void);
extern void xact_note_task(const char *task_id);
extern void xact_note_scan(void);
extern void xact_note_written(void);

#endif							/* ANYVOD_XACT_HOOKS_H */

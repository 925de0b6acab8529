/*-------------------------------------------------------------------------
 *
 * hooks.h
 *		What sessions do that workers have to know of.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#ifndef ANYVOD_HOOKS_H
#define ANYVOD_HOOKS_H

extern void hooks_init(void);
extern bool xact_scan_is_noted(void);
extern void xact_note_task(const char *task_id);
extern void xact_note_scan(void);
extern void xact_note_written(void);

#endif							/* ANYVOD_HOOKS_H */

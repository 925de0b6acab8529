/*-------------------------------------------------------------------------
 *
 * scan.h
 *		Taking pending rows in that the worker was not told of.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#ifndef ANYVOD_SCAN_H
#define ANYVOD_SCAN_H

#include "table/select.h"

extern void scan_begin(void);
extern void scan_request(void);
extern bool scan_is_done(void);
extern bool scan_is_starting(void);
extern int64 scan_next(void);
extern void scan_hold(int64 until);
extern TableResult scan_page(void);
extern void scan_take_row(const TableRow *row, int64 now);

#endif							/* ANYVOD_SCAN_H */

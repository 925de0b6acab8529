/*-------------------------------------------------------------------------
 *
 * row_image.h
 *		Updates of rows as values of the database.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#ifndef ANYVOD_ROW_IMAGE_H
#define ANYVOD_ROW_IMAGE_H

#include "table/update.h"
#include "utils/tuplestore.h"

/* What the table of images is called in a statement. */
#define IMAGE_TABLE "anyvod_updates"

/* A column of an image. */
typedef struct ImageType
{
	const char *name;
	Oid			type;
} ImageType;

#define IMAGE_COLUMNS 17

extern const ImageType image_columns[IMAGE_COLUMNS];

/* An image; its number in the statement comes first. */
typedef struct RowImage
{
	Datum		values[IMAGE_COLUMNS];
	bool		nulls[IMAGE_COLUMNS];
} RowImage;

extern void image_fill(RowImage *row, const TableUpdate *update, int n);
extern Tuplestorestate *image_register(TableUpdate **updates, int n);

#endif							/* ANYVOD_ROW_IMAGE_H */

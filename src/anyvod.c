/*-------------------------------------------------------------------------
 *
 * anyvod.c
 *		Loading the library: its magic and its settings.
 *
 * Where the library is preloaded, shared memory, the hooks of sessions and the
 * launcher are set up from here.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <limits.h>

#include "fmgr.h"
#include "miscadmin.h"
#include "utils/guc.h"

#include "anyvod.h"
#include "control/hooks.h"
#include "control/shmem.h"
#include "launcher/launcher.h"

PG_MODULE_MAGIC;

bool		anyvod_worker = true;
bool		anyvod_notify = true;
int			anyvod_max_databases = 64;
int			anyvod_idle_timeout = 60 * 1000;
int			anyvod_detection_delay = 2500;
int			anyvod_poll_floor = 500;
int			anyvod_poll_cap = 60 * 1000;
int			anyvod_give_up_after = 3 * 24 * 60 * 60;
int			anyvod_retention = 0;

void		_PG_init(void);

/* Settings of when to poll. */
static void
anyvod_define_schedule(void)
{
	DefineCustomIntVariable("anyvod.detection_delay",
							"Mean delay aimed at between a task's end and its row's.",
							NULL, &anyvod_detection_delay,
							2500, 10, 60 * 60 * 1000,
							PGC_SUSET, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("anyvod.poll_floor",
							"Least time between two polls of a task.",
							NULL, &anyvod_poll_floor,
							500, 10, 60 * 60 * 1000,
							PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("anyvod.poll_cap",
							"Most time between two polls of a task.",
							NULL, &anyvod_poll_cap,
							60 * 1000, 10, 24 * 60 * 60 * 1000,
							PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("anyvod.give_up_after",
							"Age at which a pending row is abandoned.",
							"The upstream knows a task for three days.",
							&anyvod_give_up_after,
							3 * 24 * 60 * 60, 1, INT_MAX,
							PGC_SIGHUP, GUC_UNIT_S, NULL, NULL, NULL);
}

/* Settings of the worker. */
static void
anyvod_define_worker(void)
{
	DefineCustomBoolVariable("anyvod.worker",
							 "Whether tracked tasks are polled.",
							 "Switch it off before restoring a copy of a production database.",
							 &anyvod_worker, true,
							 PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomBoolVariable("anyvod.notify",
							 "Whether a NOTIFY is sent when a row is settled.",
							 NULL, &anyvod_notify, true,
							 PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("anyvod.idle_timeout",
							"How long a worker stays without pending tasks.",
							NULL, &anyvod_idle_timeout,
							60 * 1000, 0, 24 * 60 * 60 * 1000,
							PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("anyvod.retention",
							"How long settled rows are kept; 0 keeps them.",
							"They are removed while a worker runs.",
							&anyvod_retention, 0, 0, INT_MAX,
							PGC_SIGHUP, GUC_UNIT_S, NULL, NULL, NULL);
	/* A setting of the whole server cannot be made in a running one. */
	if (process_shared_preload_libraries_in_progress)
		DefineCustomIntVariable("anyvod.max_databases",
								"Most databases that are served at once.",
								NULL, &anyvod_max_databases,
								64, 1, 10000,
								PGC_POSTMASTER, 0, NULL, NULL, NULL);
}

void
_PG_init(void)
{
	anyvod_define_worker();
	anyvod_define_schedule();
	MarkGUCPrefixReserved("anyvod");

	if (process_shared_preload_libraries_in_progress)
	{
		shmem_init();
		if (IsBinaryUpgrade)
			return;
		hooks_init();
		launcher_register();
	}
}

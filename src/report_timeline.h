/**
 * @file report_timeline.h
 * The timeline of a run, from what `train --trace` wrote: a row for each rank's lane, a bar for each task.
 */
#ifndef QST_REPORT_TIMELINE_H
#define QST_REPORT_TIMELINE_H

#include "base/memory.h"

/** Appends HTML: a picture of the trace's last steps and a table of how busy the lanes were in them. ERR_INPUT names the
 *  file and what is wrong with it. */
int report_timeline(const char *path, struct buffer *out);

#endif

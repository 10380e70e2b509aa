/**
 * @file signals.h
 * SIGTERM and SIGUSR1 ask a training run to save and stop (schedulers send them before a time limit).
 */
#ifndef QST_SIGNALS_H
#define QST_SIGNALS_H

#include <stdbool.h>

void signals_catch(void);
/** True once one arrived at this rank. */
bool signals_arrived(void);

#endif

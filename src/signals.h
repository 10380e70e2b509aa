/**
 * @file signals.h
 * What signals do. SIGINT, SIGTERM and SIGHUP end the program and leave no temporary file. SIGTERM and SIGUSR1 ask a
 * training run to save and stop (schedulers send them before a time limit).
 */
#ifndef QST_SIGNALS_H
#define QST_SIGNALS_H

#include <stdbool.h>

/** From the start of the program on. Signals that are ignored stay so (nohup). */
void signals_clean_up(void);

/** From here on SIGTERM and SIGUSR1 are only noted. */
void signals_catch(void);
/** True once one arrived at this rank. */
bool signals_arrived(void);

#endif

/**
 * @file signals.h
 * What signals do. SIGINT, SIGTERM and SIGHUP end the program and leave no temporary file. A training run
 * saves and stops instead, also at SIGUSR1 (schedulers send it before a time limit); a second SIGINT ends it at once.
 */
#ifndef QST_SIGNALS_H
#define QST_SIGNALS_H

#include <stdbool.h>

/** From the start of the program on. Signals that are ignored stay so (nohup). */
void signals_clean_up(void);

/** From here on SIGTERM, SIGUSR1, SIGHUP and the first SIGINT are only noted. */
void signals_catch(void);
/** True once one arrived at this rank. */
bool signals_arrived(void);

#endif

/**
 * @file clock.h
 * Elapsed time.
 */
#ifndef QST_BASE_CLOCK_H
#define QST_BASE_CLOCK_H

/** Seconds since some fixed moment, never going back. */
double clock_seconds(void);

/** "42 s", "3:05", "2:07:30" into `text[24]`. */
void clock_format(double seconds, char text[24]);

#endif

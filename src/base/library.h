/**
 * @file library.h
 * Libraries that are loaded while the program runs, so that it starts on machines without them.
 */
#ifndef QST_BASE_LIBRARY_H
#define QST_BASE_LIBRARY_H

/** Loads libNAME.so.VERSION for as long as the program runs. ERR_SYSTEM with the loader's reason and `remedy`. */
int library_open(void **library, const char *name, int version, const char *remedy);
/** *slot, a pointer to a function, = the library's function of that name. ERR_SYSTEM when it has none. */
int library_find(void *library, const char *name, void *slot);

#endif
